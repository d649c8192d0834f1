"""After a transaction that the disk failed nothing is believed until the index has proved itself.

A flush that fails leaves pages that are clean in memory and stale on disk, and on ext4 blocks that read as zeros after the next
power cut however often they are written again (their extent stays "unwritten"). The kernel says so once to each who has the file
open, so both sides of a lane find out, each at its own next flush. Found by tests/buffer/test_power.py: without this, transactions
after the failed one are acknowledged and lie behind a hole in the journal.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import diskcache

from buffer.database import transact
from buffer.errors import SpoolUnusable

#: Bytes written again at a time.
_STEP = 1 << 20


class Proof:
    """Of one lane's index."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cache.db"
        self._file = -1

    def run(self, cache: diskcache.Cache) -> None:
        """Raises sqlite3.Error or OSError where the disk fails again, SpoolUnusable where the other side is in the way."""
        cache.close()  # the connection; it is opened anew
        if cache._sql("PRAGMA journal_mode").fetchone()[0] != "wal":
            return self._rewrite(cache)
        # What the journal holds goes into the index and is flushed; the journal's blocks are given back.
        busy = cache._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise SpoolUnusable("the journal is in use", "it is tried again by itself")
        return None

    def _rewrite(self, cache: diskcache.Cache) -> None:
        """Rollback journal: every page of the index, as the page cache has it, is written again in its place and flushed.

        The file may not be replaced: the other side's process has it open and would go on with the old one. The bytes are the
        same, so a torn write does no harm. The descriptor stays open with the lane: closing it would drop SQLite's locks in this
        process. What the failed transaction had added is gone: its rollback cut it off, and its blocks with it.
        """
        with transact(cache):
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            for offset in range(0, os.fstat(self._file).st_size, _STEP):
                os.pwrite(self._file, os.pread(self._file, _STEP, offset), offset)
            os.fsync(self._file)

    def close(self) -> None:
        """Give back the descriptor; twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_of_the_disk(error: BaseException) -> bool:
    """Whether a transaction failed in a way that leaves doubt: not for want of room, and not for a lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY} or isinstance(
        error, OSError
    )
