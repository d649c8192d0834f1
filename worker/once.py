"""`--once`: whether a source is read to the end that it had when we began, put, and checkpointed.

SLS's checkpoints are the witness, not our own readers: shards move between slots while they find their balance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from worker.heartbeat import Heart
from worker.sls_errors import SlsError

ASK_EVERY = 1.0
_asked: dict[int, float] = {}


def reached(targets: Mapping[int, int], saved: Mapping[int, int | None], existing: Mapping[int, object]) -> bool:
    """Every shard that still exists has a checkpoint at or beyond its target."""
    return all(
        (found := saved.get(number)) is not None and found >= target
        for number, target in targets.items()
        if number in existing
    )


def all_reached(heart: Heart) -> bool:
    """Asked of SLS at most once a second; what cannot be asked is not reached."""
    if heart.joined is False:
        return True
    now = time.monotonic()
    if heart.joined is None or now - _asked.get(id(heart), 0.0) < ASK_EVERY:
        return False
    _asked[id(heart)] = now
    member = heart.member
    try:
        saved = member.saving.checkpoints(member.source.consumer_group)
    except SlsError:
        return False
    return reached(heart.targets, saved, member.shards)
