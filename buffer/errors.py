"""What can go wrong with the spool, named for what the caller does next.

SpoolError
├── SpoolFull        wait: the disk or the quota is full; nothing half-written is visible
├── SpoolBroken      stop putting (the disk answers EIO); draining goes on
├── SpoolDamaged     something on disk is not what we wrote; it was set aside or must be rebuilt
├── SpoolLocked      another process holds the spool or the lane (exit 75)
├── SpoolUnusable    the directory cannot be used: not writable, wrong file system, I/O (exit 74)
└── SpoolTooNew      written by a newer version (exit 74)
"""

from __future__ import annotations


class SpoolError(Exception):
    """Root of the spool's errors. `hint` says what the operator does next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SpoolFull(SpoolError):
    """No room now: wait and try again, on a new file."""


class SpoolBroken(SpoolError):
    """The disk failed a flush twice: no more puts, draining goes on."""


class SpoolDamaged(SpoolError):
    """An index or a body is damaged. The supervisor rebuilds an index with the consumers stopped."""


class SpoolLocked(SpoolError):
    """Someone else holds it."""


class SpoolUnusable(SpoolError):
    """The directory cannot serve as a spool."""


class SpoolTooNew(SpoolError):
    """The on-disk format is newer than this program."""
