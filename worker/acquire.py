"""Taking a shard: what SLS and this spool know of it, the start table, and what must be written before the first pull."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from buffer.spool import find_position
from buffer.values import ShardKey
from worker.logs import get_logger
from worker.member import Member
from worker.positions import first_cursors, note_starts
from worker.sls import Shard
from worker.start import Start, Where, decide

log = get_logger()
#: Seconds before a second look. Other shards have checkpoints: somebody may be saving the first ones now. Moved back: the
#: answer may be older than what another slot of this host has saved since. No checkpoint at all: see PATIENCE.
BEFORE_BELIEVED = {Where.BORN: 2.0, Where.MOVED_BACK: 0.1, Where.SETTING: None}
#: Of the consumer time-out, before `start` is chosen because none has: who made the group may be about to save them.
PATIENCE = 1 / 3


@dataclass(frozen=True, slots=True)
class Acquired:
    """Where the reader begins."""

    cursor: int
    epoch: int
    server: int | None
    """S as it was found."""


def acquire(member: Member, shard: Shard, key: ShardKey, wait: Callable[[float], bool]) -> Acquired | None:
    """None when asked to leave meanwhile. Raises SlsError or SpoolError; the caller tries again."""
    start, server = look(member, key)
    if start.where in BEFORE_BELIEVED:
        if wait(BEFORE_BELIEVED[start.where] or PATIENCE * member.fence.timeout):
            return None
        start, server = look(member, key)
    if start.where is Where.SETTING:
        found = first_run(member, key, wait)
        if found is None:
            return None
        start, server = found
    cursor = member.data.get_cursor_at(shard.number, "begin") if start.cursor is None else start.cursor
    settle(member, key, start, server, cursor)
    log.info(
        "shard taken", source=member.source.name, shard=shard.number, cursor=cursor, why=start.where.value,
        epoch=start.epoch,
    )  # fmt: skip
    return Acquired(cursor, start.epoch, server)


def unpulled_since(member: Member, number: int, cursor: int) -> float:
    """Everything that SLS received before was before `cursor`, or is gone; Unix seconds. SlsError."""
    now = time.time()
    if cursor >= member.data.get_cursor_at(number, "end"):
        return now
    return member.data.arrival(number, max(cursor, member.data.get_cursor_at(number, "begin")))


def look(member: Member, key: ShardKey) -> tuple[Start, int | None]:
    """(what the table says, S)"""
    found = member.saving.checkpoints(member.source.consumer_group)
    server = found.get(key.shard)
    others = any(one is not None for other, one in found.items() if other != key.shard)
    member.lived = member.lived or others or server is not None
    known = find_position(member.context.settings.spool.directory, member.context.spool_id, key)
    return decide(server, known, others), server


def first_run(member: Member, key: ShardKey, wait: Callable[[float], bool]) -> tuple[Start, int | None] | None:
    """A group without any checkpoint, that somebody else made: `start` for all its shards at once, known to all slots."""
    lock = member.group_lock()
    while not lock.try_take():
        if wait(0.1):
            return None
    try:
        start, server = look(member, key)
        if start.where is Where.SETTING:
            starts = first_cursors(member)
            note_starts(member, starts)
            start = replace(start, cursor=starts.get(key.shard))
        return start, server
    finally:
        lock.release()


def settle(member: Member, key: ShardKey, start: Start, server: int | None, cursor: int) -> None:
    """Write what the start table wants on disk before the first pull. SLS gets the checkpoint from the Saver at once."""
    if start.where is Where.MOVED_BACK:
        log.warning("the checkpoint was moved back; reading again from there", source=member.source.name,
                    shard=key.shard, cursor=cursor)  # fmt: skip
        member.putter.start_epoch(key, start.epoch, cursor)
    elif server is not None:
        member.putter.note_checkpoints({key: (start.epoch, server)})
