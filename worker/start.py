"""Where a shard starts, as one pure function; and the parser of the setting `start`.

S is the checkpoint that SLS holds; P (next cursor of the highest put) and C (the last checkpoint this host knows of)
come from this spool's own lanes. The first row that fits:

    S < C                             S, in a new epoch without P: somebody moved it back on purpose
    S >= P                            S
    S < P                             P: put, but not yet checkpointed
    no S, P or C known                the higher of them
    none, but others of the group     `begin`: born after the group, by a split or a merge
    none has any                      the setting `start`
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import datetime

from buffer.values import Position


class Where(enum.Enum):
    """Which row of the table fitted."""

    MOVED_BACK = "the checkpoint was moved back"
    CHECKPOINT = "checkpoint"
    PUT = "put but not yet checkpointed"
    KNOWN = "known here, without a checkpoint in SLS"
    BORN = "born after the group"
    SETTING = "the setting start"


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: a cursor, or None for what SLS must resolve (begin, or the setting)."""

    where: Where
    cursor: int | None
    epoch: int


def decide(server: int | None, known: Position | None, others_have_checkpoints: bool) -> Start:
    """The table."""
    epoch = known.epoch if known else 1
    put, mark = (known.put, known.checkpoint) if known else (None, None)
    if server is not None:
        if mark is not None and server < mark:
            return Start(Where.MOVED_BACK, server, epoch + 1)
        if put is None or server >= put:
            return Start(Where.CHECKPOINT, server, epoch)
        return Start(Where.PUT, put, epoch)
    best = best_known(known)
    if best is not None:
        return Start(Where.KNOWN, best, epoch)
    return Start(Where.BORN if others_have_checkpoints else Where.SETTING, None, epoch)


def best_known(known: Position | None) -> int | None:
    """The higher of P and C; None where neither is known."""
    if known is None:
        return None
    return max((cursor for cursor in (known.put, known.checkpoint) if cursor is not None), default=None)


_SPAN = re.compile(r"-(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_start(text: str, now: float) -> str:
    """What GetCursor takes as `from`: begin, end, or Unix seconds. ValueError says what is allowed."""
    word = text.strip()
    if word in {"begin", "end"}:
        return word
    if span := _SPAN.fullmatch(word):
        return str(int(now - float(span[1]) * _SECONDS[span[2]]))
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f"start = {text!r}: use begin, end, -2h, or a time with its offset, as 2026-01-01T00:00:00+08:00"
        )
    return str(int(moment.timestamp()))
