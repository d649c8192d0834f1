"""Where bodies become durable: diskcache's Disk with its traps closed.

A value is written to a file in one flat directory, the file is fsynced, the directory is fsynced, and only then does
the caller begin its transaction. Nothing is ever pickled or unpickled: the mode comes from the row, so every mode but
our own is refused (CVE-2025-69872).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diskcache import Disk
from diskcache.core import MODE_BINARY, UNKNOWN

from buffer.errors import SpoolDamaged

#: Below the lane's directory; flat, never removed.
FOLDER = "v"
#: writev takes at most this many pieces (IOV_MAX).
_PIECES = 1024


class DurableDisk(Disk):  # type: ignore[misc]
    """Files, never inline blobs; text keys only."""

    def __init__(self, directory: str, **options: Any) -> None:
        super().__init__(directory, **options)
        self._folder = os.open(Path(directory, FOLDER), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

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
        name = f"{os.urandom(16).hex()}.val"
        try:
            size = self._write_durably(name, value)
        except BaseException:
            self._discard(name)
            raise
        return size, MODE_BINARY, f"{FOLDER}/{name}", None

    def _write_durably(self, name: str, pieces: Sequence[bytes]) -> int:
        size = sum(map(len, pieces))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=self._folder)
        try:
            if size > 1 << 16:
                os.posix_fallocate(file, 0, size)  # a full disk says so before anything is written
            write_all(file, pieces)
            os.fsync(file)
        finally:
            os.close(file)
        os.fsync(self._folder)
        return size

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):  # the sweep will find it
            os.unlink(name, dir_fd=self._folder)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> bytes:
        if mode != MODE_BINARY or filename is None or read or value is not None:
            raise SpoolDamaged("the index holds a row that is not ours; its value is not read")
        return self.load(filename)

    def load(self, filename: str) -> bytes:
        """The file's bytes, read at once."""
        return Path(self._directory, filename).read_bytes()

    def remove(self, file_path: str) -> None:
        """Unlink; what cannot be unlinked is swept later: no row names it any more."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, file_path))  # noqa: PTH108, PTH118 - hot path

    def close(self) -> None:
        """Give back the directory."""
        os.close(self._folder)


def write_all(file: int, pieces: Sequence[bytes]) -> None:
    """Every byte of every piece, however short the kernel's writes are."""
    views = [memoryview(piece) for piece in pieces if piece]
    while views:
        written = os.writev(file, views[:_PIECES])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
