"""Events into requests, bounded by uncompressed bytes; one token a request. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.encode import Encoded
from worker.settle import Work

#: After a refusal the rest goes in requests of this size, so that the next refusal repeats little.
CAREFUL = 64 << 10


@dataclass(slots=True)
class Piece:
    """Consecutive events of one pull."""

    work: Work
    encoded: Encoded
    source: int
    """The pull's place in its batch."""
    first: int
    count: int

    @property
    def bytes(self) -> int:
        return self.encoded.ends[self.first + self.count - 1] - self.encoded.start(self.first)

    @property
    def view(self) -> memoryview:
        """Their bytes, not copied."""
        start, end = self.encoded.start(self.first), self.encoded.ends[self.first + self.count - 1]
        return memoryview(self.encoded.data)[start:end]

    def cut(self, first: int, count: int) -> Piece:
        """A part of it."""
        return Piece(self.work, self.encoded, self.source, self.first + first, count)

    def singles(self) -> Iterator[Piece]:
        """Each event on its own."""
        for event in range(self.count):
            yield self.cut(event, 1)


@dataclass(slots=True, eq=False)
class Request:
    """One POST: whose events, how many, how large."""

    token: str
    pieces: list[Piece] = field(default_factory=list)
    events: int = 0
    bytes: int = 0
    tries: int = 0
    resends: int = 0
    """For a missing acknowledgement."""
    repeats: bool = False
    """Splunk took it and may have it still: the next try may duplicate."""
    number: int = 0
    """Its place in the order in which requests were packed; what is tried again keeps it."""
    fresh: bool = False
    """The next try wants a connection of its own."""
    gone: bool = False
    """Its events are settled, or went on in other requests: an answer that comes later says nothing of them."""
    suspicions: int = 0
    """Tries that failed in a way that its very bytes may be the cause of."""
    passed_before: int = 0
    """Requests that had been accepted when it was first suspected."""
    refused_at: frozenset[str] = frozenset()
    """Endpoints that refused its route's token."""
    rests: bool = False
    """Its bytes are not needed now: it waits for its acknowledgement, or to be sent again for want of one."""
    was_first_of: tuple[str, int] | None = None
    """It is the first event of a request that this endpoint refused at event 0, and of so many bytes: a cap on size, if it
    passes alone."""

    def add(self, piece: Piece) -> None:
        """Append."""
        self.pieces.append(piece)
        self.events += piece.count
        self.bytes += piece.bytes

    def like(self) -> Request:
        """An empty one for some of its events."""
        return Request(
            self.token, tries=self.tries, resends=self.resends, number=self.number, fresh=self.fresh,
            suspicions=self.suspicions, passed_before=self.passed_before, repeats=self.repeats,
        )  # fmt: skip

    def singles(self) -> Iterator[Piece]:
        """Each event on its own."""
        for piece in self.pieces:
            yield from piece.singles()

    def part(self, first: int, count: int) -> Request:
        """Some of its events as a request."""
        made = self.like()
        at = 0
        for piece in self.pieces:
            start, end = max(first, at), min(first + count, at + piece.count)
            if start < end:
                made.add(piece.cut(start - at, end - start))
            at += piece.count
        return made


def cut(piece: Piece, limit: int) -> Iterator[Piece]:
    """Into pieces of at most `limit` bytes, but at least one event each."""
    ends, last = piece.encoded.ends, piece.first + piece.count
    first = piece.first
    while first < last:
        stop = bisect_right(ends, piece.encoded.start(first) + limit, first, last)
        stop = max(stop, first + 1)
        yield piece.cut(first - piece.first, stop - first)
        first = stop


def split(request: Request, limit: int) -> list[Request]:
    """Into requests of at most `limit` bytes, in order."""
    made: list[Request] = []
    for whole in request.pieces:
        for piece in cut(whole, limit):
            if not made or made[-1].bytes + piece.bytes > limit:
                made.append(request.like())
            made[-1].add(piece)
    return made


def halves(request: Request) -> list[Request]:
    """Two requests of half the events each; for bisection."""
    middle = request.events // 2
    return [request.part(0, middle), request.part(middle, request.events - middle)]


def around(request: Request, bad: int, limit: int = CAREFUL) -> tuple[Request, list[Request], list[Request]]:
    """The suspect alone; what stood in front of it; what came after it."""
    before = split(request.part(0, bad), limit) if bad else []
    after = split(request.part(bad + 1, request.events - bad - 1), limit) if bad + 1 < request.events else []
    return request.part(bad, 1), before, after
