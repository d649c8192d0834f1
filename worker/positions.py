"""What this host's own lanes know of a consumer group: how far it has read, and where its first run begins."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from buffer.checks import write_durably
from buffer.errors import SpoolDamaged, SpoolError
from buffer.spool import group_positions
from buffer.values import Position, ShardKey
from worker.logs import get_logger
from worker.member import Member
from worker.sls import Shard
from worker.start import best_known, parse_start

log = get_logger()
#: (shard, createTime)
Place = tuple[int, int]


def shard_key(member: Member, shard: Shard) -> ShardKey:
    """What a shard's positions are keyed by."""
    source = member.source
    return ShardKey(source.project, source.logstore, source.consumer_group, source.query, shard.number, shard.created)


def of_group(member: Member) -> dict[ShardKey, Position]:
    """Every row of the group, under any query."""
    source, context = member.source, member.context
    return group_positions(
        context.settings.spool.directory, context.spool_id, source.project, source.logstore, source.consumer_group
    )


def known_cursors(positions: Mapping[ShardKey, Position]) -> dict[Place, int]:
    """How far this host has read; the query does not matter, as the group's checkpoint knows none."""
    found: dict[Place, int] = {}
    for key, position in positions.items():
        best = best_known(position)
        if best is not None:
            found[key.shard, key.created] = max(best, found.get((key.shard, key.created), best))
    return found


def first_cursors(member: Member) -> dict[int, int]:
    """Where every shard of a group without checkpoints begins: `start` in the group's first run.

    A group that this host has read for already is in no first run, whoever deleted it: there it begins where this host
    was, and at `begin` where it does not know.
    """
    positions = of_group(member)
    known = known_cursors(positions)
    lived = member.lived or bool(positions)
    where = "begin" if lived else parse_start(member.source.start, time.time())
    if lived:
        log.warning("the consumer group has lost its checkpoints; on from where this host was",
                    source=member.source.name, group=member.source.consumer_group)  # fmt: skip
    return {
        number: known[number, shard.created]
        if (number, shard.created) in known
        else member.control.get_cursor_at(number, where)
        for number, shard in member.shards.items()
    }


def note_starts(member: Member, starts: Mapping[int, int]) -> None:
    """For all slots of this host, should this process die before SLS has them. A disk that does not take is not waited for.

    What was remembered is noted with it.
    """
    positions = of_group(member)
    rows: dict[ShardKey, tuple[int, int]] = {}
    for number, shard in member.shards.items():
        key = shard_key(member, shard)
        position = positions.get(key)
        if number in starts and (position is None or best_known(position) is None):
            rows[key] = (position.epoch if position else 1, starts[number])
    try:
        member.putter.note_checkpoints(rows)
    except SpoolDamaged:
        raise
    except SpoolError as error:
        log.warning("starts not noted", source=member.source.name, error=str(error))
    else:
        forget_starts(member)


def remember_starts(member: Member, starts: Mapping[int, int]) -> None:
    """Before the group is made: who is killed before they are noted finds them again. They are no positions yet: while there is
    no group, another `start` may still be set. A disk that does not take is not waited for.
    """
    rows = [[number, shard.created, starts[number]] for number, shard in member.shards.items() if number in starts]
    try:
        write_durably(_starts_path(member), json.dumps({"start": member.source.start, "shards": rows}))
    except OSError as error:
        log.warning("starts not noted", source=member.source.name, error=str(error))


def remembered_starts(member: Member) -> dict[int, int]:
    """Those that a process which was killed had resolved, by the same `start`, for the shards that are still the same."""
    try:
        found = json.loads(_starts_path(member).read_bytes())
        rows = found["shards"] if found["start"] == member.source.start else []
        now = {(number, shard.created) for number, shard in member.shards.items()}
        return {int(number): int(cursor) for number, created, cursor in rows if (number, created) in now}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def forget_starts(member: Member) -> None:
    """They are noted, or another host's count."""
    with contextlib.suppress(OSError):
        _starts_path(member).unlink(missing_ok=True)


def _starts_path(member: Member) -> Path:
    return member.context.settings.spool.directory / f"starts-{member.group_hash()}.json"
