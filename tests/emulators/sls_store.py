"""What the emulated service holds: logstores, shards, stored LogGroups, and its own book of what it handed out.

Cursors count LogGroups from a first value of about the shard's creation in nanoseconds. Nothing that was stored is ever
thrown away: retention only moves `begin`, so that a test can still list what had been there.
"""

from __future__ import annotations

import base64
import binascii
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from tests.emulators.book import Book
from tests.emulators.generator_wire import frame
from tests.emulators.sls_groups import ConsumerGroup, Refused, ShardView

DAY = 86400
KEY_SPACE = 1 << 128


class Clock:
    """The service's time; tests move it. Signatures are judged by the true time plus `skew`."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._frozen: float | None = None
        self.skew = 0.0

    def now(self) -> float:
        return self._frozen if self._frozen is not None else time.time() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds
        if self._frozen is not None:
            self._frozen += seconds

    def freeze(self, at: float | None = None) -> None:
        self._frozen = self.now() if at is None else at

    def server_time(self) -> float:
        return time.time() + self.skew


def encode_cursor(number: int) -> str:
    return base64.b64encode(str(number).encode()).decode()


def decode_cursor(text: str, code: str = "ParameterInvalid") -> int:
    try:
        return int(base64.b64decode(text, validate=True).decode("ascii"))
    except (ValueError, binascii.Error):
        raise Refused(400, code, f"Invalid cursor: {text!r}") from None


@dataclass(frozen=True, slots=True)
class PullRecord:
    """One answered pull. `next - cursor` groups were read, `count` of them handed out."""

    time: float
    cursor: int
    next: int
    count: int
    raw_bytes: int
    client: str
    query: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    time: float
    group: str
    shard: int
    cursor: int
    consumer: str
    force: bool
    error: str


@dataclass(frozen=True, slots=True)
class HeartbeatRecord:
    time: float
    group: str
    consumer: str
    held: tuple[int, ...]
    answer: tuple[int, ...] | None  # None: refused


@dataclass(eq=False)
class Shard:
    number: int
    created: float
    first: int
    low: int = 0
    high: int = KEY_SPACE
    parents: tuple[int, ...] = ()
    readonly_since: float | None = None
    forced_begin: int = 0
    borders: list[int] = field(default_factory=list)  # places that no pull reads across
    framed: list[bytes] = field(default_factory=list)
    ends: array[int] = field(default_factory=lambda: array("Q"))
    received: array[float] = field(default_factory=lambda: array("d"))
    pulls: Book[PullRecord] = field(default_factory=lambda: Book(maxlen=1_000_000))
    high_water: int = 0  # the highest next cursor ever answered
    read_bytes: float = 0.0
    read_calls: float = 0.0
    read_at: float = 0.0

    def __post_init__(self) -> None:
        self.high_water = self.first

    @property
    def readonly(self) -> bool:
        return self.readonly_since is not None

    @property
    def end(self) -> int:
        return self.first + len(self.framed)

    def append(self, group: bytes, now: float) -> int:
        """Store a LogGroup; its cursor."""
        framed = frame(group)
        self.framed.append(framed)
        self.ends.append((self.ends[-1] if self.ends else 0) + len(framed))
        self.received.append(now)
        return self.end - 1

    def append_framed(self, framed: Iterable[bytes], now: float, *, border: bool = True) -> None:
        """Store many at once. The same objects may be stored again and again, which costs no memory; with a border no pull
        reads across the start of a store, so that the bodies of pulls repeat too."""
        if border:
            self.borders.append(len(self.framed))
        total = self.ends[-1] if self.ends else 0
        for one in framed:
            total += len(one)
            self.framed.append(one)
            self.ends.append(total)
            self.received.append(now)

    def begin(self, now: float, ttl: float) -> int:
        """The first cursor that retention has left."""
        return max(self.first + bisect_left(self.received, now - ttl), self.forced_begin)

    def at_time(self, moment: float, now: float, ttl: float) -> int:
        """The first group received at or after `moment`."""
        return max(self.first + bisect_left(self.received, moment), self.begin(now, ttl))

    def take(self, cursor: int, stop: int, max_bytes: int) -> list[bytes]:
        """The framed groups from `cursor`, as many as fit, at least one."""
        start, last = cursor - self.first, stop - self.first
        border = bisect_right(self.borders, start)
        if border < len(self.borders):
            last = min(last, self.borders[border])
        before = self.ends[start - 1] if start else 0
        fit = bisect_right(self.ends, before + max_bytes, start, last)
        return self.framed[start : max(fit, min(start + 1, last))]

    def view(self) -> ShardView:
        return ShardView(self.parents, self.readonly, self.end)


@dataclass(eq=False)
class Logstore:
    project: str
    name: str
    created: float
    ttl: float = 30 * DAY
    shards: dict[int, Shard] = field(default_factory=dict)
    groups: dict[str, ConsumerGroup] = field(default_factory=dict)
    former: list[Shard] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    heartbeats: Book[HeartbeatRecord] = field(default_factory=lambda: Book(maxlen=200_000))
    next_put: int = 0

    def shard(self, number: int) -> Shard:
        found = self.shards.get(number)
        if found is None:
            raise Refused(404, "ShardNotExist", f"Shard does not exist: {number}")
        return found

    def group(self, name: str) -> ConsumerGroup:
        found = self.groups.get(name)
        if found is None:
            raise Refused(404, "ConsumerGroupNotExist", f"consumer group {name} does not exist")
        return found

    def views(self) -> dict[int, ShardView]:
        return {number: shard.view() for number, shard in self.shards.items()}

    def expire(self, now: float) -> None:
        """A read-only shard goes when the last that was written to it has gone."""
        for number, shard in list(self.shards.items()):
            if shard.readonly_since is not None and shard.readonly_since < now - self.ttl:
                self.former.append(self.shards.pop(number))

    def last_created(self) -> float:
        return max([self.created, *(shard.created for shard in self.shards.values())])

    def writable(self) -> list[Shard]:
        return [shard for _, shard in sorted(self.shards.items()) if not shard.readonly]

    def split(self, number: int, now: float, key: int | None = None, count: int = 2) -> list[Shard]:
        parent = self.shard(number)
        if parent.readonly:
            raise Refused(400, "ParameterInvalid", f"shard {number} is read-only")
        step = (parent.high - parent.low) // count
        cuts = [parent.low + step * n for n in range(1, count)] if key is None else [key]
        if not all(parent.low < cut < parent.high for cut in cuts):
            raise Refused(400, "ParameterInvalid", f"the key is not inside shard {number}")
        bounds = [parent.low, *cuts, parent.high]
        parent.readonly_since = now
        return [parent, *(self._born(now, low, high, (number,)) for low, high in pairwise(bounds))]

    def merge(self, number: int, now: float) -> list[Shard]:
        left = self.shard(number)
        right = next((one for one in self.writable() if one.low == left.high), None)
        if left.readonly or right is None:
            raise Refused(400, "ParameterInvalid", f"shard {number} has no right neighbour that can be merged")
        left.readonly_since = right.readonly_since = now
        return [self._born(now, left.low, right.high, (left.number, right.number)), left, right]

    def _born(self, now: float, low: int, high: int, parents: tuple[int, ...]) -> Shard:
        number = max([*self.shards, *(one.number for one in self.former)]) + 1
        shard = self.shards[number] = Shard(number, now, int(now * 1e9), low, high, parents)
        return shard

    def recreate_shard(self, number: int, now: float) -> Shard:
        """The same number, new createTime, new cursors, nothing in it."""
        old = self.shard(number)
        self.former.append(old)
        now = max(now, old.created + 1)
        shard = self.shards[number] = Shard(number, now, int(now * 1e9), old.low, old.high)
        for group in self.groups.values():
            group.shards.pop(number, None)
        return shard


def new_logstore(
    project: str, name: str, shards: int, now: float, *, ttl: float = 30 * DAY, first_cursor: int | None = None
) -> Logstore:
    store = Logstore(project, name, now, ttl)
    step = KEY_SPACE // max(shards, 1)
    for n in range(shards):
        first = int(now * 1e9) if first_cursor is None else first_cursor
        store.shards[n] = Shard(n, now, first, step * n, KEY_SPACE if n == shards - 1 else step * (n + 1))
    return store
