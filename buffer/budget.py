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


def for_batches(settings: SpoolSettings) -> int:
    """Bytes that what waits may take: the dead letters' part is reserved."""
    return settings.max_bytes - settings.dead_letter_quota


def level(settings: SpoolSettings, now: int, used: int, free: int, inodes: int, ballast: bool) -> int:
    """0: pull, 1: stop. `now` is the level so far: between the marks nothing changes."""
    room = for_batches(settings)
    if used >= STOP * room or free < settings.min_free_bytes or inodes < MIN_INODES or not ballast:
        return 1
    if now and (used > GO * room or free < settings.min_free_bytes * 1.05):
        return 1
    return 0


def letters_level(settings: SpoolSettings, used: int) -> int:
    """0: bury, 1: none may be buried, so that nothing is read on. `used`: bytes of dead letters, of one lane or of all.

    While there is none, one may always come: also with a quota of 0, which would let nothing through at all.
    """
    return int(used >= max(1, settings.dead_letter_quota))


def room(settings: SpoolSettings, used: int, free: int) -> int:
    """Bytes that may still be put until pulling stops."""
    wanted = STOP * for_batches(settings)
    return max(0, int(min(wanted - used, free - settings.min_free_bytes)))


def reason(settings: SpoolSettings, used: int, free: int, inodes: int, ballast: bool) -> tuple[str, str]:
    """Why pulling is stopped, and what to do; the file system first, because it stops others too."""
    clear = "free space on this file system (not in the spool), or move the spool to a larger one"
    if not ballast:
        return f"the disk is full ({free / 1e6:.0f} MB free; the reserve is given up so that draining goes on)", clear
    if inodes < MIN_INODES:
        return f"the disk has no inodes left ({inodes})", "remove small files on this file system (not in the spool)"
    if free < settings.min_free_bytes * 1.05:
        return (
            f"the disk is nearly full ({free / 1e9:.2f} GB free, spool.min_free_bytes is {settings.min_free_bytes / 1e9:.2f} GB)",
            clear,
        )
    share = used / max(1, for_batches(settings))
    return (
        f"the spool is full ({share:.0%} of spool.max_bytes)",
        "end what holds the draining up (the other holds), or raise spool.max_bytes, then `systemctl reload sls-siem`",
    )
