"""Why SLS refuses a cursor with InvalidCursor, and where reading goes on. The decision is pure.

One such answer is not believed by itself: taken at its word it would mean to read the whole retention again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from worker.member import Member
from worker.sls import Shard

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
