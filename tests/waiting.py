"""Waiting for what another process does: poll with a deadline, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable


def poll(condition: Callable[[], object], what: str, deadline: float = 60.0, every: float = 0.02) -> None:
    """Wait until `condition` holds; fail with `what` when it does not within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(every)
