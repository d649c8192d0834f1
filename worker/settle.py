"""What becomes of each event of what was read: when all of a batch's are settled, it is acked in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from buffer.values import Batch, DeadLetter, Tally
from worker.encode import Encoded, Encoder

#: Bytes that are left of a batch, and of each of its pulls, whose events were let go; that an event which waits for the ack
#: as a dead letter takes besides its own.
BARE, OBJECTS = 2 << 10, 2 << 10


def raised(counts: dict[str, int], name: str, by: int) -> None:
    """Count."""
    counts[name] = counts.get(name, 0) + by


@dataclass(slots=True)
class Part:
    """The events of one pull of a batch."""

    encoded: Encoded
    encoder: Encoder
    """Who made them, and makes them anew."""
    events: int
    bytes: int

    @property
    def is_loaded(self) -> bool:
        """Whether its bytes are here."""
        return len(self.encoded) == self.events


@dataclass(slots=True)
class BatchWork:
    """A batch that was read and not yet acked."""

    lane: str
    batch: Batch
    pending: int = 0
    """Events out or waiting to go out."""
    encoded: bool = False
    """All its pulls have been taken apart."""
    decoded: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    buried: list[DeadLetter] = field(default_factory=list)
    buried_by: dict[str, int] = field(default_factory=dict)
    """Route → how many of them."""
    set_aside: list[tuple[int, str]] = field(default_factory=list)
    """Pulls that cannot be decoded, by their places, and why."""
    bytes: int = 0
    """Compressed and encoded together: what it holds of the memory."""
    parts: dict[int, Part] = field(default_factory=dict)
    """By the pull's place."""
    redirected: dict[int, Part] = field(default_factory=dict)
    """The same, encoded for the fallback index: of those pulls of which some events go there."""
    resting: int = 0
    """Of those pending: in requests whose bytes are not needed now (worker/resting.py)."""
    is_bare: bool = False
    """Bodies and events were let go; the lane has them."""
    is_lost: bool = False
    """The lane has it no more, or it is taken apart anew: nothing of it is sent from here."""
    _stays: int = 0
    """Bytes that its letters hold until the ack."""

    def accept(self, encoded: Encoded, first: int, count: int) -> None:
        """These were taken by Splunk."""
        del encoded, first
        self.pending -= count

    def bury(self, letter: DeadLetter, route: str) -> None:
        """This one was refused, or waits for a hold."""
        self.pending -= 1
        self.buried.append(letter)
        self._stays += len(letter.log) + OBJECTS
        raised(self.buried_by, route, 1)

    def part_of(self, place: int, encoded: Encoded) -> Part:
        """The one that these events of the pull in that place belong to."""
        redirected = self.redirected.get(place)
        return redirected if redirected is not None and redirected.encoded is encoded else self.parts[place]

    def release(self, hold: str) -> None:
        """It ended before these were written down as waiting for it."""
        self.buried = [replace(one, state="due", hold="") if one.hold == hold else one for one in self.buried]

    @property
    def done(self) -> bool:
        """Whether it can be acked."""
        return self.encoded and self.pending == 0

    @property
    def rests(self) -> bool:
        """Nothing of it is packed, queued for the first time or in flight."""
        return self.encoded and self.pending == self.resting > 0

    def let_go(self) -> int:
        """Keep only which events wait; the bytes that stay."""
        for part in (*self.parts.values(), *self.redirected.values()):
            part.encoded.become(Encoded())
        wanted = {place for place, _ in self.set_aside}
        pulls = [pull if at in wanted else replace(pull, body=b"") for at, pull in enumerate(self.batch.pulls)]
        self.batch = replace(self.batch, pulls=tuple(pulls))
        self.is_bare = True
        return self._stays + BARE + sum(BARE + len(pull.body) for pull in pulls)

    @property
    def delivered(self) -> dict[str, int]:
        """By route, once it is done: what was neither filtered nor buried. Counting each request would cost more than all else."""
        gone = {route: self.filtered.get(route, 0) + self.buried_by.get(route, 0) for route in self.decoded}
        return {route: events - gone[route] for route, events in self.decoded.items() if events > gone[route]}

    @property
    def tally(self) -> Tally:
        """For the books."""
        return Tally(self.decoded, self.delivered, self.filtered)


@dataclass(slots=True)
class LetterWork:
    """A dead letter that is sent again: due, or the probe of a hold."""

    lane: str
    letter: DeadLetter
    probe: bool = False
    delivered: bool = False
    refused: DeadLetter | None = None

    def accept(self, encoded: Encoded, first: int, count: int) -> None:
        """Taken by Splunk."""
        del encoded, first, count
        self.delivered = True

    def bury(self, letter: DeadLetter) -> None:
        """Refused again."""
        self.refused = letter

    @property
    def done(self) -> bool:
        """Whether its fate is known."""
        return self.delivered or self.refused is not None


Work = BatchWork | LetterWork
