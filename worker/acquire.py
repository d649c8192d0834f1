"""Taking a shard: what SLS and this spool know of it, the start table, and what must be written before the first pull."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from buffer.spool import find_position
from buffer.values import ShardKey
from worker.logs import get_logger
from worker.member import Member
from worker.sls import Shard
from worker.start import Start, Where, decide, parse_start

log = get_logger()
#: Before `begin` is chosen because other shards have checkpoints: somebody may be saving the first ones right now.
SECOND_LOOK = 2.0


@dataclass(frozen=True, slots=True)
class Acquired:
    """Where the reader begins."""

    cursor: int
    epoch: int
    server: int | None
    """S as it was found."""


def shard_key(member: Member, shard: Shard) -> ShardKey:
    """What its positions are keyed by."""
    source = member.source
    return ShardKey(source.project, source.logstore, source.consumer_group, source.query, shard.number, shard.created)


def acquire(member: Member, shard: Shard, key: ShardKey, wait: Callable[[float], bool]) -> Acquired:
    """Raises SlsError or SpoolError; the caller tries again."""
    server, others = look(member, shard.number)
    known = find_position(member.context.settings.spool.directory, member.context.spool_id, key)
    start = decide(server, known, others)
    if start.where is Where.BORN and not wait(SECOND_LOOK):
        server, others = look(member, shard.number)
        start = decide(server, known, others)
    cursor = resolve(member, shard.number, start)
    settle(member, key, start, server, cursor)
    log.info(
        "shard taken", source=member.source.name, shard=shard.number, cursor=cursor, why=start.where.value,
        epoch=start.epoch,
    )  # fmt: skip
    return Acquired(cursor, start.epoch, server)


def look(member: Member, number: int) -> tuple[int | None, bool]:
    """(S, whether other shards of the group have checkpoints)"""
    found = member.saving.checkpoints(member.source.consumer_group)
    return found.get(number), any(one is not None for other, one in found.items() if other != number)


def resolve(member: Member, number: int, start: Start) -> int:
    """The cursor itself."""
    if start.cursor is not None:
        return start.cursor
    where = "begin" if start.where is Where.BORN else parse_start(member.source.start, time.time())
    return member.data.get_cursor_at(number, where)


def settle(member: Member, key: ShardKey, start: Start, server: int | None, cursor: int) -> None:
    """Write what the start table wants on disk, and on SLS, before the first pull."""
    if start.where is Where.MOVED_BACK:
        log.warning("the checkpoint was moved back; reading again from there", source=member.source.name,
                    shard=key.shard, cursor=cursor)  # fmt: skip
        member.putter.start_epoch(key, start.epoch, cursor)
    elif server is not None:
        member.putter.note_checkpoints({key: (start.epoch, server)})
    if start.where is Where.SETTING and member.fence.holds():
        member.saving.save_checkpoint(member.source.consumer_group, member.consumer, key.shard, cursor)
        member.putter.note_checkpoints({key: (start.epoch, cursor)})
