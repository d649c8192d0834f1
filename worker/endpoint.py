"""Which URL takes the next request. Pure over values and `now` (monotonic seconds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.backoff import next_wait

#: Bytes: no cap is learned under it.
LEAST_CAP = 4096
#: Requests near a learned cap, after which twice as much is tried.
TRY_LARGER = 1000


@dataclass(slots=True)
class Endpoint:
    """A URL and what is known of it."""

    url: str
    in_flight: int = 0
    trouble_since: float | None = None
    next_try: float = 0.0
    max_bytes: int = 0
    """The size it takes, uncompressed; learned."""
    most_bytes: int = 0
    """As the settings say: no cap is tried over it."""
    taken: int = 0
    """Requests near the cap that it has taken since the cap was learned or tried."""
    gzip: bool = True
    probing: bool = False
    """In trouble, and one request is out to see whether it still is."""
    took: int = 0
    """The largest body it has taken, uncompressed bytes: no smaller one is too large."""
    window: float = 64.0
    """Requests it may have at once: halved when it says that it is nearly full, regained by acceptances."""
    is_silent: bool = False
    """It accepts and never acknowledges: an acknowledgement ends the trouble, an acceptance does not."""

    last_used: float = 0.0
    """Of two with as many in flight, the other's turn comes first."""
    is_held: bool = False
    """It waits for a human: probed with as little as can be."""
    refuses_token: bool = False
    """That is its trouble: the default token."""

    def is_open(self, now: float) -> bool:
        """Whether a request may go there now; in trouble only one at a time."""
        if self.trouble_since is None:
            return self.in_flight < max(1, int(self.window))
        return now >= self.next_try and not self.probing

    def failed(self, now: float, chance: float, retry_after: float | None = None) -> None:
        """Another failure: wait longer the longer the trouble lasts."""
        if self.trouble_since is None:
            self.trouble_since = now
        wait = next_wait(now - self.trouble_since, chance)
        self.next_try = now + max(wait, retry_after or 0.0)
        self.probing = False

    def age(self, now: float) -> float:
        """Seconds that the trouble has lasted."""
        return now - self.trouble_since if self.trouble_since is not None else 0.0

    def works(self) -> None:
        """It took a request."""
        self.trouble_since = None
        self.probing = self.is_silent = self.is_held = self.refuses_token = False

    def accepted(self, size: int) -> None:
        """A body of so many bytes."""
        self.took = max(self.took, size)
        if self.max_bytes < self.most_bytes and 2 * size > self.max_bytes:
            self._try_larger()
        self.window = min(64.0, self.window + 1 / max(1.0, self.window))

    def _try_larger(self) -> None:
        """The cap may be gone, like everything that was only wrong for a while."""
        self.taken += 1
        if self.taken >= TRY_LARGER:
            self.taken, self.max_bytes = 0, min(2 * self.max_bytes, self.most_bytes)

    def slow_down(self) -> None:
        """It is nearly full: half as many at once."""
        self.window = max(1.0, min(self.window, self.in_flight + 1) / 2)

    def begins(self, now: float) -> None:
        """A request goes there."""
        self.in_flight += 1
        self.last_used = now
        self.probing = self.trouble_since is not None

    def shrink(self, size: int) -> None:
        """A request of `size` bytes was too large: half of it may not be, and what it once took is not."""
        if size <= self.took:
            self.took = 0  # its cap was lowered
        self.taken = 0
        self.max_bytes = max(LEAST_CAP, min(self.max_bytes, max(size // 2, self.took)))


def choose(endpoints: Sequence[Endpoint], now: float) -> Endpoint | None:
    """One whose time for a probe has come; else, in turn, the one with least in flight of those without trouble."""
    ready = [e for e in endpoints if e.is_open(now)]
    due = [e for e in ready if e.trouble_since is not None]
    if due:
        return min(due, key=lambda e: e.next_try)
    return min(ready, key=lambda e: (e.in_flight, e.last_used), default=None)


def next_opening(endpoints: Sequence[Endpoint], now: float) -> float:
    """When the next of them may be tried again. One that may already, and got nothing, waits for something else."""
    closed = (e for e in endpoints if e.trouble_since is not None and not e.probing)
    return min((e.next_try for e in closed if e.next_try > now), default=float("inf"))
