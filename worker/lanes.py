"""Which lanes a sender serves, and what it has read of each and not yet acked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from buffer.errors import SpoolFull
from buffer.storage import Outlet
from buffer.values import Batch
from worker.endpoint import Endpoint
from worker.settle import BatchWork, LetterWork

#: As it is written down: not the most of today's settings, which may be more tomorrow.
NO_CAP = "0"


def serves(name: str, spool_id: str, sender: int, senders: int) -> bool:
    """This spool's lane of slot i: sender i mod M; all others by a hash of the name."""
    prefix, _, slot = name.rpartition("-")
    if prefix == spool_id and slot.isdecimal():
        return int(slot) % senders == sender
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % senders == sender


@dataclass(slots=True)
class LaneWork:
    """One lane in this sender's hands."""

    path: Path
    reader: Outlet
    after: int = 0
    """The last batch that was read."""
    batches: dict[int, BatchWork] = field(default_factory=dict)
    letters: dict[str, LetterWork] = field(default_factory=dict)
    empty_until: float = 0.0
    """Nothing more was there; look again then, or when the bell rings."""
    caps: dict[str, str] = field(default_factory=dict)
    """URL → the learned cap of its endpoint, as it is written down here."""
    held_bytes: int = 0
    """By its batches, of this sender's memory."""
    anew: list[int] = field(default_factory=list)
    """Batches to be read and taken apart once more."""
    full: bool = False
    """The dead letters' quota is reached: not read on."""
    no_room_until: float = 0.0
    """The disk had no room to write down what became of its batches: tried again then, and meanwhile not read on. 0: it has."""

    @property
    def name(self) -> str:
        return self.path.name

    def hold(self, work: BatchWork, size: int) -> None:
        """What it holds of the memory now, bytes."""
        self.held_bytes += size - work.bytes
        work.bytes = size

    def forget(self, work: BatchWork) -> None:
        """It is done with."""
        self.hold(work, 0)
        del self.batches[work.batch.id]

    def reread(self, number: int) -> list[Batch]:
        """A batch that was read before; none where it is there no more: a damaged one is set aside by this."""
        return [batch for batch in self.reader.read(number - 1, 1, 0) if batch.id == number]

    def recall_caps(self, endpoints: Iterable[Endpoint]) -> None:
        """The sizes that endpoints were found to take, before a restart."""
        for endpoint in endpoints:
            known = self.reader.recall(f"max_bytes {endpoint.url}") or NO_CAP
            self.caps[endpoint.url] = known
            if known != NO_CAP:
                endpoint.max_bytes = min(endpoint.max_bytes, int(known))

    def remember_caps(self, endpoints: Iterable[Endpoint]) -> None:
        """Where they have changed."""
        for endpoint in endpoints:
            cap = str(endpoint.max_bytes) if endpoint.max_bytes < endpoint.most_bytes else NO_CAP
            if cap != self.caps.get(endpoint.url, NO_CAP):
                with contextlib.suppress(SpoolFull):
                    self.reader.remember(f"max_bytes {endpoint.url}", cap)
                    self.caps[endpoint.url] = cap
