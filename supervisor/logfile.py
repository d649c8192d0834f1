"""`log.file`: the stderr of the whole tree, line by line, into a rotating file and on to where stderr led before.

One writer, the supervisor: children write to a pipe, which is their stderr, so that a stack printed by a dying process is in
the file too. Nobody waits for a log: the pipe's writing end never blocks (a writer drops and counts what does not fit), and
a file that cannot be written is given up, said once on stderr, and tried again.

The thread's reason: the loop writes lines itself and would wait for itself on a full pipe; and a disk that stands still
under the file must stop neither the loop nor a child.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson

#: Bytes after which a file is set aside, and how many set aside are kept.
MAX_BYTES, KEEP = 100_000_000, 5
#: Seconds until a file that could not be written is tried again; bytes that the pipe holds while the disk stands still.
RETRY, PIPE_BYTES = 10.0, 1 << 20
_LONGEST_TAIL = 64 << 10


class LogFile:
    """`<path>`, `<path>.1` … `<path>.5`, the newest first. Never raises."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        self.path, self._max_bytes, self._keep = path, max_bytes, keep
        self._file = -1
        self._size = 0
        self._retry_at = 0.0
        self.lost = 0
        """Lines that could not be written since the last that could."""

    def write(self, lines: bytes) -> str:
        """Whole lines. Empty, or what is wrong, said when it begins."""
        now = time.monotonic()
        if self._file < 0 and now < self._retry_at:
            self.lost += lines.count(b"\n")
            return ""
        try:
            self._open()
            if self._size and self._size + len(lines) > self._max_bytes:
                self._rotate()
            self._write(lines)
        except OSError as error:
            begun = self._retry_at == 0.0
            self.lost += lines.count(b"\n")
            self.close()
            self._retry_at = now + RETRY
            return f"{self.path}: {error.strerror}" if begun else ""
        self.lost, self._retry_at = 0, 0.0
        return ""

    def _write(self, lines: bytes) -> None:
        """All of it or nothing: what a disk takes while it is getting full would end in the middle of a line."""
        if self.lost:
            lines = _line("log file goes on", f"{self.lost} lines could not be written") + lines
        end = os.fstat(self._file).st_size
        if os.write(self._file, lines) < len(lines):
            os.ftruncate(self._file, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(lines)

    def _open(self) -> None:
        if self._file >= 0:
            return
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise OSError(error.errno, "another supervisor writes this file") from error
        self._file, self._size = file, os.fstat(file).st_size

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._old(number).rename(self._old(number + 1))
        self.path.rename(self._old(1))
        self.close()
        self._open()

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Give the file back; the next write opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _line(event: str, text: str) -> bytes:
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return orjson.dumps({"time": moment, "level": "error", "role": "supervisor", "event": event, "text": text}) + b"\n"


def as_json(line: bytes) -> bytes:
    """What is not one of our lines (a stack of faulthandler's, the interpreter's own words) becomes one."""
    if line.startswith(b"{"):
        return line
    return _line("stderr", line[:2000].decode(errors="replace").rstrip("\n"))


class Tee:
    """From birth to `close`, descriptor 2 of this process and of all that it starts is our pipe."""

    def __init__(self, path: Path) -> None:
        self._file = LogFile(path)
        self._before = os.dup(2)
        self._pipe, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(writing, False)
        os.dup2(writing, 2)
        os.close(writing)
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="log file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is in the pipe, and give stderr back. Children that still write get no answer: they are dead by now."""
        sys.stderr.flush()
        os.dup2(self._before, 2)
        os.eventfd_write(self._end, 1)
        self._thread.join(5.0)

    def reopen(self) -> None:
        """After HUP: whoever moved the file away gets a new one."""
        os.eventfd_write(self._end, 1 << 32)

    def _run(self) -> None:
        os.set_blocking(self._pipe, False)
        tail, ending = b"", False
        while True:
            ready, _, _ = select.select([self._pipe, self._end], [], [])
            if self._end in ready:
                asked = os.eventfd_read(self._end)
                ending = bool(asked & 0xFFFFFFFF)
                if asked >> 32:
                    self._file.close()
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                data = b""
            if not data and ending:
                break
            whole, newline, tail = (tail + data).rpartition(b"\n")
            self._pass_on(whole + newline)
            if len(tail) > _LONGEST_TAIL:
                self._pass_on(tail + b"\n")
                tail = b""
            if ending:
                os.eventfd_write(self._end, 1)  # until the pipe is empty
        self._pass_on(tail + b"\n" if tail else b"")
        self._file.close()

    def _pass_on(self, lines: bytes) -> None:
        if not lines:
            return
        wrong = self._file.write(b"".join(map(as_json, lines.splitlines(keepends=True))))
        if wrong:
            lines += _line("log file cannot be written", wrong)
        with contextlib.suppress(OSError):
            os.write(self._before, lines)
