"""How fast things flow, and what follows from it: *full in*, *drained in*, *live again in*. Pure over `now` (monotonic)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Seconds over which the forecasts look back, and over which "now" does.
WINDOW, NOW = 60.0, 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters at one moment."""

    at: float
    waiting: int = 0
    """Bytes in the spool."""
    put: int = 0
    """LogGroups."""
    settled: int = 0
    """LogGroups."""
    fetched: int = 0
    """Bytes, compressed as they came."""
    delivered: int = 0
    """Events."""


@dataclass(slots=True)
class Rates:
    """Over the last minute; one sample a second."""

    samples: deque[Sample] = field(default_factory=deque)

    def note(self, sample: Sample) -> None:
        """Add one; forget what is older than the window."""
        self.samples.append(sample)
        while sample.at - self.samples[0].at > WINDOW:
            self.samples.popleft()

    def full_in(self, room: int) -> float | None:
        """Seconds until `room` bytes are used up at this rate; None when the backlog does not grow."""
        growth = self._per_second("waiting", WINDOW)
        return max(0, room) / growth if growth > 0 else None

    def drained_in(self, groups: int) -> float | None:
        """Seconds until what waits now is delivered; None when nothing is. New logs queue behind it."""
        settled = self._per_second("settled", NOW)
        return 0.0 if not groups else groups / settled if settled > 0 else None

    def live_again_in(self, groups: int) -> float | None:
        """Seconds until nothing waits, although new logs come in; None when we do not gain on them."""
        gain = self._per_second("settled", NOW) - self._per_second("put", NOW)
        return 0.0 if not groups else groups / gain if gain > 0 else None

    def now(self) -> dict[str, float]:
        """As `status` shows them."""
        return {
            "fetched_bytes_per_second": round(self._per_second("fetched", NOW), 1),
            "fetched_groups_per_second": round(self._per_second("put", NOW), 1),
            "delivered_events_per_second": round(self._per_second("delivered", NOW), 1),
        }

    def _per_second(self, counter: str, seconds: float) -> float:
        """Negative only for `waiting`: the others are counters."""
        if len(self.samples) < 2:
            return 0.0
        last = self.samples[-1]
        first = next(one for one in self.samples if last.at - one.at <= seconds or one is last)
        took = last.at - first.at
        return float(getattr(last, counter) - getattr(first, counter)) / took if took > 0 else 0.0
