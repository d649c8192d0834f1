"""Bytes in flight: pulled and not yet put. A bound on them is the first guard of memory, because it needs no sensor."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Room:
    """Readers enter with what they expect, correct it when they know, and leave. One at a time always may."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._inside = 0
        self._change = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes in flight now."""
        return self._used

    def enter(self, expect: Callable[[], int], give_up: Callable[[], bool]) -> int | None:
        """Wait for room; the bytes that are kept for the caller, None when it gave up.

        `expect` is asked again at each look: before the first pulls it is far too much, and they would come one by one.
        """
        with self._change:
            expected = expect()
            while self._inside and self._used + expected > self._limit:
                if give_up():
                    return None
                self._change.wait(0.5)
                expected = expect()
            self._inside += 1
            self._used += expected
            return expected

    def correct(self, expected: int, found: int) -> None:
        """Now the size is known."""
        with self._change:
            self._used += found - expected
            self._change.notify_all()

    def leave(self, size: int) -> None:
        """Put, or thrown away."""
        with self._change:
            self._inside -= 1
            self._used -= size
            self._change.notify_all()
