"""Where bodies become durable: diskcache's Disk with its traps closed.

A value is written to a file in one flat directory, the file is fsynced, the directory is fsynced, and only then does
the caller begin its transaction. Who stores often keeps spare files: their names are flushed many at once and ahead of time, so
that a value costs one flush and not two. Nothing is ever pickled or unpickled: the mode comes from the row, so every mode but
our own is refused (CVE-2025-69872).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diskcache import Disk
from diskcache.core import MODE_BINARY, UNKNOWN

from buffer.errors import SpoolDamaged

#: Below the lane's directory; flat, never removed.
FOLDER = "v"
#: What is in a file that is kept spare; never a body, and gone with the next sweep.
SPARE = b"SLSSPARE"
#: writev takes at most this many pieces (IOV_MAX).
_PIECES = 1024
#: The disk begins with each so many bytes while those behind them are still being written. Whole pages.
_AHEAD = 1 << 20


class DurableDisk(Disk):  # type: ignore[misc]
    """Files, never inline blobs; text keys only."""

    def __init__(self, directory: str, **options: Any) -> None:
        super().__init__(directory, **options)
        self._folder = os.open(Path(directory, FOLDER), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._spares: list[str] = []
        self.keep_spare = 0
        """How many files to make at once; 0: none, each value flushes its own name."""

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError("keys are text: anything else would be pickled")
        return key, True

    def get(self, key: str, raw: bool) -> str:
        if not raw:
            raise SpoolDamaged("a key in the index is pickled: not written by us")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str, None]:
        """Write the pieces to a new file; returns once they would survive a power cut."""
        del key
        if read or not isinstance(value, list | tuple):
            raise TypeError("a body is a list of byte strings")
        is_named = self.keep_spare > 0
        if is_named and not self._spares:
            self._make_spares()
        name = self._spares.pop() if is_named else _new_name()
        try:
            size = self._write_durably(name, value, is_named)
        except BaseException:
            self._discard(name)
            raise
        return size, MODE_BINARY, f"{FOLDER}/{name}", None

    def _write_durably(self, name: str, pieces: Sequence[bytes], is_named: bool) -> int:
        size = sum(map(len, pieces))
        flags = os.O_WRONLY | os.O_CLOEXEC | (0 if is_named else os.O_CREAT | os.O_EXCL)
        file = os.open(name, flags, 0o600, dir_fd=self._folder)
        try:
            if size > 1 << 16:
                os.posix_fallocate(file, 0, size)  # a full disk says so before anything is written
            for number, portion in enumerate(portions(pieces, _AHEAD)):
                write_all(file, portion)
                begin_writeback(file, number * _AHEAD, _AHEAD)
            os.fsync(file)  # the only one that tells whether it is there
        finally:
            os.close(file)
        if not is_named:
            os.fsync(self._folder)
        return size

    def _make_spares(self) -> None:
        made: list[str] = []
        try:
            for _ in range(self.keep_spare):
                name = _new_name()
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
                made.append(name)
                try:
                    write_all(file, [SPARE])
                finally:
                    os.close(file)
            os.fsync(self._folder)
        except BaseException:
            for name in made:
                self._discard(name)
            raise
        self._spares = made

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):  # the sweep will find it
            os.unlink(name, dir_fd=self._folder)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> bytes:
        if mode != MODE_BINARY or filename is None or read or value is not None:
            raise SpoolDamaged("the index holds a row that is not ours; its value is not read")
        return self.load(filename)

    def load(self, filename: str) -> bytes:
        """The file's bytes, read at once."""
        return read(Path(self._directory, filename))

    def remove(self, file_path: str) -> None:
        """Unlink; what cannot be unlinked is swept later: no row names it any more."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, file_path))  # noqa: PTH108, PTH118 - hot path

    def close(self) -> None:
        """Give back the directory and the spare files."""
        while self._spares:
            self._discard(self._spares.pop())
        os.close(self._folder)


def _new_name() -> str:
    return f"{os.urandom(16).hex()}.val"


def portions(pieces: Sequence[bytes], size: int) -> Iterator[list[memoryview]]:
    """All bytes in order, `size` at a time; not copied."""
    portion: list[memoryview] = []
    room = size
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= room:
            portion.append(rest[:room])
            yield portion
            rest, portion, room = rest[room:], [], size
        portion.append(rest)
        room -= len(rest)
    if room < size:
        yield portion


def begin_writeback(file: int, start: int, size: int) -> None:
    """Hand what is written there to the disk and do not wait (sync_file_range(2)). It promises nothing and may fail: fsync has
    less to wait for, and still tells of every error. Linux only; elsewhere nothing happens.
    """
    if _sync_file_range is not None:
        _sync_file_range(file, start, size, 2)  # SYNC_FILE_RANGE_WRITE


def _find_sync_file_range() -> Any:
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


_sync_file_range = _find_sync_file_range()


def write_all(file: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Every byte of every piece, however short the kernel's writes are."""
    views = [memoryview(piece) for piece in pieces if piece]
    while views:
        written = os.writev(file, views[:_PIECES])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def read(path: Path) -> bytes:
    """The file's bytes. What the disk cannot read is asked for twice: a fault that passes is not taken for a damaged file."""
    try:
        return path.read_bytes()
    except OSError as error:
        if not is_unreadable(error):
            raise
    return path.read_bytes()


def is_unreadable(error: OSError) -> bool:
    """Whether the disk says that it cannot read what was asked for: then the file is damaged like any other. Where it is the whole
    disk that fails, setting the file aside fails too, because that writes.
    """
    return error.errno == errno.EIO


def is_spare(path: Path) -> bool:
    """Whether nothing was ever stored in it. A file that went meanwhile is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(SPARE) + 1) == SPARE
    except FileNotFoundError:
        return False


def has_bodies(lane: Path) -> bool:
    """Whether a file of the lane holds anything."""
    return any(not is_spare(path) for path in (lane / FOLDER).glob("*.val"))
