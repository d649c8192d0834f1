"""Whether our shards are still ours, by our own clock: SLS gives them away after a silence."""

from __future__ import annotations

import time

#: Of the time-out: earlier than SLS, whatever the answers' way back took.
SHARE = 0.8


def boottime() -> float:
    """Seconds, also those that the machine slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Pull, put and save only while it holds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds after which SLS gives our shards away."""
        self.generation = 0
        """Grows whenever it has fallen: what was pulled before is thrown away, however soon it holds again."""
        self._acknowledged = float("-inf")

    def narrow(self, timeout: float) -> None:
        """The group's own time-out, where it is shorter than ours."""
        self.timeout = min(self.timeout, timeout)

    def acknowledge(self, sent: float) -> None:
        """A heartbeat sent at `sent` was answered."""
        if not self.holds():
            self.generation += 1
        self._acknowledged = max(self._acknowledged, sent)

    def fall(self) -> None:
        """SLS says that it has forgotten us."""
        self._acknowledged = float("-inf")

    def holds(self, generation: int | None = None) -> bool:
        """Now, and without a fall since `generation`."""
        if generation is not None and generation != self.generation:
            return False
        return boottime() - self._acknowledged < SHARE * self.timeout
