"""Mixed audit logs by the hundred megabytes, the same for the same seed, with a ledger of what was made.

Each log is a ready-made template with its time, its nanoseconds and its `gen_id` patched in, so that making them
costs next to nothing beside whatever is being tested. `gen_id` is 16 hex digits: 4 of the seed, 12 of a running number;
a test can tell a lost log from one that came twice without believing anything but what it received.
"""

from __future__ import annotations

import struct
import time as clock
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from random import Random

from tests.emulators import generator_wire as wire
from tests.emulators.generator_nasty import nasty_groups
from tests.emulators.generator_topics import BY_NAME, TOPICS, Topic

#: variants of each topic: enough that a codec's window holds few of them twice, as with real logs
TEMPLATES = 500
GEN_ID = b"gen_id"


@dataclass(frozen=True, slots=True)
class Made:
    """One LogGroup and what it holds."""

    data: bytes
    topic: str
    logs: int
    first: int = 0  # the running number of its first gen_id
    numbered: bool = True
    nasty: str = ""


@dataclass(slots=True)
class Ledger:
    """What was made, and what of it a test has seen since."""

    seed: int = 0
    groups: int = 0
    logs: int = 0
    bytes: int = 0
    numbered: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    nasty: Counter[str] = field(default_factory=Counter)

    def add(self, made: Made) -> None:
        self.groups += 1
        self.logs += made.logs
        self.bytes += len(made.data)
        self.topics[made.topic] += made.logs
        if made.nasty:
            self.nasty[made.nasty] += 1
        if made.numbered:
            self.numbered += made.logs

    def judge(self, seen: Iterable[str]) -> tuple[set[str], dict[str, int], set[str]]:
        """(lost, duplicated with how often, never made) among the `gen_id`s that arrived."""
        times = Counter(seen)
        made = {gen_id(self.seed, number) for number in range(self.numbered)}
        return made - times.keys(), {one: n for one, n in times.items() if n > 1}, times.keys() - made


def gen_id(seed: int, number: int) -> str:
    return f"{seed & 0xFFFF:04x}{number:012x}"


class _Template:
    """A Log in two halves around its gen_id; the sizes never change, so the frame is made once."""

    __slots__ = ("after", "before", "head")

    def __init__(self, pairs: list[tuple[bytes, bytes]], *, numbered: bool, nanoseconds: bool) -> None:
        contents = b"".join(wire.content(key, value) for key, value in pairs)
        marker = wire.content(GEN_ID, b"0" * 16)[:-16] if numbered else b""
        size = 6 + len(contents) + len(marker) + (16 if numbered else 0) + (5 if nanoseconds else 0)
        self.head = b"\x0a" + wire.varint(size) + b"\x08"
        self.before = contents + marker
        self.after = b"\x25" if nanoseconds else b""


def _pairs(topic: Topic, random: Random, log_bytes: int | None) -> list[tuple[bytes, bytes]]:
    pairs = [
        (key.encode(), (value if isinstance(value, str) else value(random)).encode())
        for key, value in topic.fields.items()
    ]
    return pairs if log_bytes is None else _resize(pairs, log_bytes, random)


def _resize(pairs: list[tuple[bytes, bytes]], log_bytes: int, random: Random) -> list[tuple[bytes, bytes]]:
    """Leave fields out, or add one of words, until the log has about the wanted size."""
    room = log_bytes - 40
    kept = []
    for pair in pairs:
        size = len(pair[0]) + len(pair[1]) + 6
        if size <= room:
            kept.append(pair)
            room -= size
    return [*kept, (b"payload", _words(random, room - 13))] if room > 40 else kept


def _words(random: Random, size: int) -> bytes:
    """Text that compresses about as logs do."""
    words = [f"{random.getrandbits(32):x}", "user=", "action=allow", "resource/", "错误", " ", "10.0.", '"k":"v",']
    text = bytearray()
    while len(text) < size:
        text += random.choice(words).encode()
        if random.random() < 0.2:
            text += f"{random.getrandbits(40):010x}".encode()
    return bytes(text[:size]).decode("utf-8", "ignore").encode().ljust(size)


@lru_cache(maxsize=256)
def _templates(name: str, log_bytes: int | None, numbered: bool, nanoseconds: bool) -> list[_Template]:
    """The same for every seed, so that a second generator starts at once."""
    random = Random(name)
    count = max(3, min(TEMPLATES, 3_000_000 // (log_bytes or 1)))
    return [
        _Template(_pairs(BY_NAME[name], random, log_bytes), numbered=numbered, nanoseconds=nanoseconds)
        for _ in range(count)
    ]


class Generator:
    """`Generator(seed).groups(n)`: LogGroups of the mix of a SOC, until `n` logs are made."""

    def __init__(
        self,
        seed: int = 1,
        *,
        topics: Iterable[str] | None = None,
        logs_per_group: int = 40,
        log_bytes: int | None = None,
        nasty: float = 0.0,
        numbered: bool = True,
        nanoseconds: bool = True,
        start: int | None = None,
    ) -> None:
        self.ledger = Ledger(seed=seed)
        self._random = Random(seed)
        self._topics = [BY_NAME[name] for name in topics] if topics is not None else list(TOPICS)
        self._weights = list(accumulate(topic.share for topic in self._topics))
        self._logs_per_group = logs_per_group
        self._nasty = nasty
        self._numbered = numbered
        self._nanoseconds = nanoseconds
        self._time = start if start is not None else int(clock.time())
        self._id_head = f"{seed & 0xFFFF:04x}"
        self._number = 0
        self._nasty_groups = sorted(nasty_groups(self._time).items())
        self._nasty_next = 0
        self._shape = (log_bytes, numbered, nanoseconds)
        self._tails = {topic.name: self._tail(topic) for topic in self._topics}

    @staticmethod
    def _tail(topic: Topic) -> bytes:
        """What follows the logs in the group, up to the pack id, which is patched."""
        tags = [
            (b"__hostname__", topic.logstore.encode() + b"-host"),
            (b"__path__", b"/var/log/" + topic.name.encode()),
        ]
        return wire.group((), topic.name.encode(), topic.source.encode(), tags)

    def groups(self, logs: int | None = None, *, max_bytes: int | None = None) -> Iterator[Made]:
        """Make groups until `logs` logs or `max_bytes` bytes are made by this call; the last group may be shorter."""
        count = size = 0
        while (logs is None or count < logs) and (max_bytes is None or size < max_bytes):
            made = self._next(self._logs_per_group if logs is None else min(self._logs_per_group, logs - count))
            self.ledger.add(made)
            count += made.logs
            size += len(made.data)
            yield made

    def data(self, logs: int | None = None, *, max_bytes: int | None = None) -> list[bytes]:
        """Only the bytes of `groups`."""
        return [made.data for made in self.groups(logs, max_bytes=max_bytes)]

    def nasty(self) -> list[Made]:
        """Every nasty group once."""
        made = [Made(data, "nasty", wire.count_logs(data), 0, False, name) for name, data in self._nasty_groups]
        for one in made:
            self.ledger.add(one)
        return made

    def _next(self, logs: int) -> Made:
        if self._nasty and self._random.random() < self._nasty:
            name, data = self._nasty_groups[self._nasty_next % len(self._nasty_groups)]
            self._nasty_next += 1
            held = wire.count_logs(data)
            if held <= logs:
                return Made(data, "nasty", held, 0, False, name)
        return self._group(logs)

    def _group(self, logs: int) -> Made:
        topic = self._random.choices(self._topics, cum_weights=self._weights)[0]
        first, self._number = self._number, self._number + logs
        parts = self._logs(_templates(topic.name, *self._shape), logs, first)
        parts.append(self._tails[topic.name])
        pack = b"%016X-%X" % (first + 1, logs)
        parts.append(wire.field(6, wire.field(1, b"__pack_id__") + wire.field(2, pack)))
        return Made(b"".join(parts), topic.name, logs, first, self._numbered)

    def _logs(self, templates: list[_Template], logs: int, first: int) -> list[bytes]:
        """The framed logs; the clock of the data goes on by a second a group and jumps back now and then."""
        self._time += 1
        back = self._random.choice((0, 0, 0, 0, 0, 0, 0, 3, 3600, 86400))
        moment = wire.varint(max(self._time - back, 2**28))
        pick = self._random.randrange(len(templates))
        parts: list[bytes] = []
        for number in range(first, first + logs):
            template = templates[(pick + number) % len(templates)]
            marker = b"%s%012x" % (self._id_head.encode(), number) if self._numbered else b""
            nanosecond = struct.pack("<I", number * 7919 % 1_000_000_000) if self._nanoseconds else b""
            parts += (template.head, moment, template.before, marker, template.after, nanosecond)
        return parts
