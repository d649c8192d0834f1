"""How much may wait: pure decisions over numbers."""

from __future__ import annotations

from buffer.settings import SpoolSettings

#: Stop pulling at this share of what the batches may take, go on at that one.
STOP, GO = 0.95, 0.85
#: Given up on a full disk so that opening and acking work; made again with room to spare. Bytes.
BALLAST = 64 << 20
BALLAST_RELEASE = 32 << 20
BALLAST_MARGIN = 128 << 20
#: A file system without inodes is as full as one without bytes.
MIN_INODES = 1000


#: ext4, xfs and btrfs give out disk in blocks of this size.
BLOCK = 4096


def allocated(size: int) -> int:
    """Bytes of disk that a file of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK


def level(settings: SpoolSettings, now: int, used: int, free: int, inodes: int, ballast: bool) -> int:
    """0: pull, 1: stop. `now` is the level so far: between the marks nothing changes."""
    room = settings.max_bytes - settings.dead_letter_quota
    if used >= STOP * room or free < settings.min_free_bytes or inodes < MIN_INODES or not ballast:
        return 1
    if now and (used > GO * room or free < settings.min_free_bytes * 1.05):
        return 1
    return 0
