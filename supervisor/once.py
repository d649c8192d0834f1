"""`--once`: consumers end by themselves when they have read to the end; then the senders are told; then it is done. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from supervisor.child import Child, State

#: Seconds of waiting after which it is said for what, and again.
SAY_AFTER, SAY_EVERY = 10.0, 60.0


class Step(enum.Enum):
    """What the loop is to do."""

    WAIT = "wait"
    TELL_SENDERS = "tell the senders"
    END = "end"


def next_step(children: Sequence[Child]) -> Step:
    """By who still lives."""
    if any(child.state is not State.STOPPED for child in children if child.kind == "consumer"):
        return Step.WAIT
    if all(child.state is State.STOPPED for child in children):
        return Step.END
    return Step.TELL_SENDERS


def waits_for(children: Sequence[Child], status: dict[str, Any]) -> str:
    """Nothing ends while a hold lasts, and whoever started us has to know."""
    held = "; ".join(f"{hold['kind']} {hold['name']}: {hold['error']}" for hold in status["holds"][:3])
    living = ", ".join(child.name for child in children if child.state is not State.STOPPED)
    return held or f"{living}; {status['spool']['batches']} batches in the spool"
