"""Why SLS refuses a cursor with InvalidCursor, and where reading goes on. The decision is pure.

One such answer is not believed by itself: taken at its word it would mean to read the whole retention again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from worker.held import HeldShard
from worker.logs import get_logger
from worker.member import Member
from worker.sls import Shard
from worker.sls_errors import InvalidCursor

log = get_logger()

#: Refusals in a row of a cursor that SLS itself says it has, before reading begins anew: a few seconds.
INSISTS = 10


class Why(enum.Enum):
    """What an InvalidCursor means."""

    ANEW = "the shard was made anew under its old number"
    RETENTION = "retention was faster"
    PASSING = "SLS has the cursor, and refuses it all the same"
    UNKNOWN = "beyond the end, or refused again and again"


@dataclass(frozen=True, slots=True)
class Found:
    """`begin`: the earliest cursor that SLS has."""

    why: Why
    begin: int


def look(member: Member, shard: Shard, at: int, refusals: int) -> Found:
    """Ask SLS what it has of the shard that was read up to `at`. SlsError: it does not say."""
    member.refresh()
    listed = member.shards.get(shard.number)
    begin = member.data.get_cursor_at(shard.number, "begin")
    same = listed is not None and listed.created == shard.created
    end = member.data.get_cursor_at(shard.number, "end") if same and begin <= at else begin
    return Found(judge(at, begin, end, same=same, refusals=refusals), begin)


def judge(at: int, begin: int, end: int, *, same: bool, refusals: int) -> Why:
    """`same`: the shard is the one that was read; `refusals`: in a row, this one too."""
    if not same:
        return Why.ANEW
    if begin > at:
        return Why.RETENTION
    return Why.PASSING if at <= end and refusals < INSISTS else Why.UNKNOWN


def write_off(member: Member, held: HeldShard, at: int, found: Found, error: InvalidCursor) -> None:
    """Count what lies between, durably, or begin an epoch that knows nothing of what was put. SpoolError."""
    lost = found.begin - at
    if found.why is Why.RETENTION:
        member.putter.skip_lost(held.key, held.epoch, found.begin, member.source.name, lost)
    else:
        held.epoch += 1
        member.putter.start_epoch(held.key, held.epoch, None)
    log.error("logs lost to retention", source=member.source.name, shard=held.number, cursor=at, begin=found.begin,
              groups=lost if found.why is Why.RETENTION else "unknown", error=error.error)  # fmt: skip
