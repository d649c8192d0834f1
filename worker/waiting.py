"""What still waits in the spool of the shards that this process holds, for `checkpoint = "delivered"`.

All lanes are looked through, because a shard that moved between slots waits in several. One look serves all shards and
sources of the process: an index is opened once a look, and a look is made every two seconds, not once a shard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buffer.spool import lowest_waiting_of

#: (project, logstore, shard)
Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """The lowest cursors that waited."""

    begun: float
    """Monotonic: what was put later may be missing."""
    lowest: Mapping[Place, int]


class Waiting:
    """Threads of the process share it."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._places: set[Place] = set()
        self._lock = threading.Lock()
        self._last = Look(float("-inf"), {})

    def watch(self, place: Place) -> None:
        """Look for this one too."""
        with self._lock:
            if place not in self._places:
                self._places.add(place)
                self._last = Look(float("-inf"), {})

    def look(self, since: float) -> Look:
        """One begun after `since`: the last, or a new one. SpoolError."""
        with self._lock:
            if self._last.begun <= since:
                begun = time.monotonic()
                self._last = Look(begun, lowest_waiting_of(self._spool, self._places))
            return self._last


def delivered_target(durable: int, lowest: int | None, acquired: int | None) -> int:
    """For `checkpoint = "delivered"`: up to the first pull that still waits, but never behind what was found."""
    target = durable if lowest is None else min(durable, lowest)
    return target if acquired is None else max(acquired, target)
