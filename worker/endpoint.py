"""Which URL takes the next request. Pure over values and `now` (monotonic seconds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.backoff import next_wait


@dataclass(slots=True)
class Endpoint:
    """A URL and what is known of it."""

    url: str
    in_flight: int = 0
    trouble_since: float | None = None
    next_try: float = 0.0
    max_bytes: int = 0
    """The size it takes, uncompressed; learned."""
    gzip: bool = True
    probing: bool = False
    """In trouble, and one request is out to see whether it still is."""

    def is_open(self, now: float) -> bool:
        """Whether a request may go there now; in trouble only one at a time."""
        if self.trouble_since is None:
            return True
        return now >= self.next_try and not self.probing

    def failed(self, now: float, chance: float, retry_after: float | None = None) -> None:
        """Another failure: wait longer the longer the trouble lasts."""
        if self.trouble_since is None:
            self.trouble_since = now
        wait = next_wait(now - self.trouble_since, chance)
        self.next_try = now + max(wait, retry_after or 0.0)
        self.probing = False

    def works(self) -> None:
        """It took a request."""
        self.trouble_since = None
        self.probing = False

    def begins(self) -> None:
        """A request goes there."""
        self.in_flight += 1
        self.probing = self.trouble_since is not None

    def shrink(self, size: int) -> None:
        """A request of `size` bytes was too large."""
        self.max_bytes = max(4096, min(self.max_bytes, size // 2))


def choose(endpoints: Sequence[Endpoint], now: float) -> Endpoint | None:
    """Least in flight among those without trouble; else one whose time for a probe has come."""
    well = [e for e in endpoints if e.trouble_since is None]
    due = [e for e in endpoints if e.trouble_since is not None and e.is_open(now)]
    if due and (not well or all(e.in_flight for e in well) or due[0].in_flight == 0):
        return min(due, key=lambda e: e.next_try)
    return min(well, key=lambda e: e.in_flight) if well else None


def next_opening(endpoints: Sequence[Endpoint]) -> float:
    """When one of them may be tried again."""
    return min((e.next_try for e in endpoints if e.trouble_since is not None and not e.probing), default=float("inf"))
