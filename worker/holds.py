"""Waits for a remedy that concern only some events: an index, a route's own token, a route. Pure over `now` (monotonic)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from worker.backoff import next_wait
from worker.encode import Span
from worker.tokens import mask

#: Single-event refusals in a row on one route, or this share of its last events: the settings are wrong, not the data.
STORM_IN_A_ROW = 100
STORM_SHARE, STORM_WINDOW = 0.2, 1000


@dataclass(slots=True)
class Hold:
    """One of them."""

    kind: str
    name: str
    since: float
    error: str
    hint: str
    next_probe: float = 0.0
    probing: bool = False
    probed: tuple[str, str] = "", ""
    """Lane and id of the last probe."""

    @property
    def key(self) -> str:
        """As it stands in a parked letter."""
        return f"{self.kind}:{self.name}"

    def failed(self, now: float, chance: float) -> None:
        """The probe was refused too."""
        self.probing = False
        self.next_probe = now + next_wait(now - self.since, chance)

    def may_probe(self, now: float) -> bool:
        """Whether it is time."""
        return not self.probing and now >= self.next_probe


@dataclass(slots=True)
class Holds:
    """All that park events now."""

    active: dict[str, Hold] = field(default_factory=dict)

    def begin(self, kind: str, name: str, now: float, error: str, hint: str) -> Hold:
        """New, or the one that is there."""
        key = f"{kind}:{name}"
        if key not in self.active:
            self.active[key] = Hold(kind, name, now, error, hint, next_probe=now + 0.5)
        return self.active[key]

    def end(self, key: str) -> None:
        """The cause has ended."""
        self.active.pop(key, None)

    @property
    def next_probe(self) -> float:
        """When the first is to be probed; infinite where there is none."""
        return min((hold.next_probe for hold in self.active.values() if not hold.probing), default=math.inf)

    def of(self, span: Span) -> Hold | None:
        """The hold that concerns these events, so that they are parked without being sent."""
        if not self.active:
            return None
        for key in (f"index:{span.index}", f"token:{mask(span.token)}", f"route:{span.route}"):
            if key in self.active:
                return self.active[key]
        return None


@dataclass(slots=True)
class Storm:
    """A route's recent fates."""

    row: int = 0
    recent: deque[tuple[int, bool]] = field(default_factory=deque)
    events: int = 0
    refused: int = 0

    def accepted(self, events: int) -> None:
        """So many went through."""
        self.row = 0
        self._note(events, was_refused=False)

    def refuse(self) -> bool:
        """One was refused on its own; True when that makes a storm."""
        self.row += 1
        self._note(1, was_refused=True)
        shared = self.events >= STORM_WINDOW and self.refused > STORM_SHARE * self.events
        return self.row >= STORM_IN_A_ROW or shared

    def _note(self, events: int, *, was_refused: bool) -> None:
        self.recent.append((events, was_refused))
        self.events += events
        self.refused += events if was_refused else 0
        while self.recent and self.events - self.recent[0][0] >= STORM_WINDOW:
            gone, was = self.recent.popleft()
            self.events -= gone
            self.refused -= gone if was else 0
