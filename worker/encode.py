"""A pull's bytes → HEC events, with where each ends, whose route it took, and its way back to the log.

The body is validated whole before its first event leaves. Both encoders give the same bytes; `ENCODER` says which runs.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any, overload

from buffer.values import DeadLetter, Pull
from worker import compiled
from worker.decode import Undecodable
from worker.encode_python import Pairs, encode_group, merged, merged_fields, read_group, shape, split
from worker.envelope import HOSTNAME, Plan, cursor_part, id_head, make_plan, text
from worker.loggroup import LogGroup
from worker.routes import Resolved, Router

#: Which one runs; see worker/compiled.py.
ENCODER = "python" if compiled.module is None else "compiled"
#: Plans are remembered per topic, source and host name; hostile ones must not fill the memory.
_MOST_PLANS = 20_000
#: The field that keeps the index an event was meant for.
WANTED_INDEX = "wanted_index"
#: What the compiled encoder does with a kind of group; its `Row` is start, size, kind and logs.
_PLAIN, _DROP, _LOOK, _ASK = 0, 1, 2, 3
_ROW = struct.Struct("=QQII")


@dataclass(slots=True)
class Span:
    """Consecutive events with the same route and token."""

    first: int
    count: int
    route: str
    token: str
    index: str
    sourcetype: str


class Cursors(Sequence[str]):
    """The cursor parts of the ids of a pull's groups, made when asked for."""

    def __init__(self, begin: int, places: Sequence[int], sparse: bool) -> None:
        self._begin, self._places, self._sparse = begin, places, sparse

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return cursor_part(self._begin, self._places[row], self._sparse)


class Spans(Sequence[Span]):
    """The spans of a pull, made when asked for: where topics mix there are as many as groups, and mostly nobody asks."""

    def __init__(self, rows: list[tuple[int, int, int]], kinds: list[tuple[str, str, str, str]]) -> None:
        self.rows, self.kinds = rows, kinds
        """(first, count, kind); (route, token, index, sourcetype)."""

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Span: ...
    @overload
    def __getitem__(self, row: slice) -> list[Span]: ...
    def __getitem__(self, row: int | slice) -> Span | list[Span]:
        if isinstance(row, slice):
            return [Span(first, count, *self.kinds[kind]) for first, count, kind in self.rows[row]]
        first, count, kind = self.rows[row]
        return Span(first, count, *self.kinds[kind])

    def around(self, first: int, count: int) -> list[Span]:
        """Those that hold some of these events, in order."""
        start = bisect_right(self.rows, first, key=_first_of) - 1
        stop = bisect_left(self.rows, first + count, lo=start, key=_first_of)
        return self[start:stop]


@dataclass(slots=True)
class Encoded:
    """The events of one pull."""

    data: bytes | bytearray = b""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    spans: Spans = field(default_factory=lambda: Spans([], []))
    decoded: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    head: str = ""
    firsts: Sequence[int] = field(default_factory=list)
    """The first event of each group that has any."""
    places: Sequence[int] = field(default_factory=list)
    """That group's place in the pull."""
    cursors: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ends)

    def become(self, other: Encoded) -> None:
        """The same as the other one, for all who hold this one."""
        for one in fields(self):
            setattr(self, one.name, getattr(other, one.name))

    def start(self, event: int) -> int:
        """Where an event begins in `data`."""
        return self.ends[event - 1] if event else 0

    def locate(self, event: int) -> tuple[int, int]:
        """Its group's place in the pull, and its place in the group."""
        row = bisect_right(self.firsts, event) - 1
        return self.places[row], event - self.firsts[row]

    def cursor(self, event: int) -> str:
        """The cursor part of its id."""
        return self.cursors[bisect_right(self.firsts, event) - 1]

    def sls_id(self, event: int) -> str:
        """The same for ever, whoever sends it."""
        return f"{self.head}{self.cursor(event)}-{self.locate(event)[1]}"

    def spans_of(self, first: int, count: int) -> list[Span]:
        """The spans that hold some of these events, in order."""
        return self.spans.around(first, count)

    def token(self) -> str | None:
        """Of all of them; None where they differ."""
        tokens = {kind[1] for kind in self.spans.kinds}
        return tokens.pop() if len(tokens) == 1 else None

    def span(self, event: int) -> Span:
        """The span that holds it."""
        return self.spans_of(event, 1)[0]


def _first_of(row: tuple[int, int, int]) -> int:
    return row[0]


class Encoder:
    """Holds the plans; one per sender, and one more for what goes to the fallback index."""

    def __init__(self, router: Router, compiled: bool | None = None, *, index: str = "") -> None:
        """With `index` all events go there, and say for which one they were meant."""
        self._router, self._index = router, index
        self.compiled = ENCODER == "compiled" if compiled is None else compiled
        self._plans: dict[tuple[object, ...], Plan] = {}

    def encode(self, pull: Pull, raw: bytes) -> Encoded:
        """All events of a pull. Raises Undecodable, and then none has left."""
        head = id_head(pull.key.project, pull.key.logstore, pull.key.shard, pull.key.query)
        if self.compiled and 0 <= pull.begin < 1 << 62:
            return self._encode_compiled(pull, raw, head)
        return self._encode_python(pull, raw, head)

    def _encode_python(self, pull: Pull, raw: bytes, head: str) -> Encoded:
        frames = split(raw)
        check_count(pull, len(frames))
        out: list[bytes] = []
        firsts: list[int] = []
        places: list[int] = []
        encoded = Encoded(
            head=head, firsts=firsts, places=places, cursors=Cursors(pull.begin, places, pull.sparse)
        )  # fmt: skip
        for place, frame in enumerate(frames):
            group, fields = read_group(frame)
            logs = len(group.Logs)
            plan = self._plan(pull, head, text(group.Topic), text(group.Source), hostname_of(group.LogTags))
            if not account(encoded, plan, logs):
                continue
            firsts.append(len(out))
            places.append(place)
            add_span(encoded.spans, len(out), logs, plan)
            encode_group(group, plan, encoded.cursors[-1], out, fields)
        fill(encoded, out)
        return encoded

    def _plan(self, pull: Pull, head: str, topic: str, source: str, hostname: str) -> Plan:
        key = (pull.source, head, pull.key.project, pull.key.logstore, topic, source, hostname)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) > _MOST_PLANS:
                self._plans.clear()
            resolved = self._resolve(pull.source, pull.key.project, pull.key.logstore, topic)
            plan = self._plans[key] = make_plan(
                resolved, topic=topic, source=source, hostname=hostname, project=pull.key.project, head=head,
                id_field=self._router.id_field,
            )  # fmt: skip
        return plan

    def _resolve(self, source: str, project: str, logstore: str, topic: str) -> Resolved:
        resolved = self._router.resolve(source, project, logstore, topic)
        if self._index in {"", resolved.index}:
            return resolved
        fields = resolved.settings.fields | ({WANTED_INDEX: resolved.index} if resolved.index else {})
        return replace(resolved, index=self._index, settings=replace(resolved.settings, fields=fields))

    def _encode_compiled(self, pull: Pull, raw: bytes, head: str) -> Encoded:
        """Two passes: scan and validate every group, resolve the plan of each kind, then encode all without the GIL.

        It is taken for the logs of which the compiled encoder is not sure, which `ask` makes.
        """
        try:
            kinds, rows = compiled.module.scan(raw)
        except ValueError as error:
            raise Undecodable(f"not a LogGroupList: {error}") from error
        check_count(pull, len(rows) // _ROW.size)
        encoded = Encoded(head=head)
        plans: list[Plan] = []
        table: list[tuple[Any, ...]] = []
        spans: dict[tuple[str, str, str, str], int] = {}
        for topic, source, hostname, logs in kinds:
            plan = self._plan(pull, head, text(topic), text(source), text(hostname))
            account(encoded, plan, logs)
            span = spans.setdefault(span_kind(plan), len(spans))
            plans.append(plan)
            table.append(
                (plan.mid, plan.constants, plan.opening, plan.end, span, plan.with_id, mode_of(plan), plan.look)
            )

        def ask(kind: int, pairs: Pairs, seconds: int, nanoseconds: int, tail: bytes, place: int) -> bytes:
            return shape(merged(pairs), seconds, nanoseconds, plans[kind], tail, place)

        found = compiled.module.encode(raw, rows, table, ask, pull.begin, pull.sparse)
        encoded.data = found[0]
        encoded.ends, encoded.firsts, encoded.places = (array("Q", numbers) for numbers in found[1:4])
        encoded.cursors = Cursors(pull.begin, encoded.places, pull.sparse)
        encoded.spans = Spans(found[4], list(spans))
        return encoded

    def encode_letter(self, letter: DeadLetter) -> Encoded:
        """A dead letter with today's settings and its old id."""
        group = LogGroup()
        group.ParseFromString(letter.log)
        resolved = self._resolve(letter.source, letter.project, letter.logstore, text(group.Topic))
        front, _, place = letter.sls_id.rpartition("-")
        head, _, cursor = front.rpartition("-")
        plan = make_plan(
            resolved, topic=text(group.Topic), source=text(group.Source), hostname=hostname_of(group.LogTags),
            project=letter.project, head=f"{head}-", id_field=self._router.id_field,
        )  # fmt: skip
        encoded = Encoded(head=f"{head}-", firsts=[-letter.place], places=[0], cursors=[cursor])
        encoded.decoded[resolved.route] = 1
        add_span(encoded.spans, 0, 1, plan)
        log = group.Logs[0]
        tail = plan.tail((text(tag.Key), text(tag.Value)) for tag in group.LogTags)
        if plan.with_id:
            tail += f"{cursor}-".encode()
        fill(encoded, [shape(merged_fields(log.Contents), log.Time, log.Time_ns, plan, tail, place)])
        return encoded


def hostname_of(tags: Any) -> str:
    """The first, where several claim to be it."""
    for tag in tags:
        if tag.Key == HOSTNAME:
            return text(tag.Value)
    return ""


def account(encoded: Encoded, plan: Plan, logs: int) -> bool:
    """Count logs; whether there are events to send."""
    if not logs:
        return False
    route = plan.resolved.route
    encoded.decoded[route] = encoded.decoded.get(route, 0) + logs
    if plan.resolved.settings.drop:
        encoded.filtered[route] = encoded.filtered.get(route, 0) + logs
        return False
    return True


def mode_of(plan: Plan) -> int:
    """For the compiled encoder."""
    if plan.resolved.settings.drop:
        return _DROP
    if plan.resolved.is_plain:
        return _PLAIN
    return _LOOK if plan.look else _ASK


def check_count(pull: Pull, found: int) -> None:
    """What SLS announced is what is there; of a suspect body it is known that it is not."""
    if found != pull.groups and not pull.suspect:
        raise Undecodable(f"{found} LogGroups, {pull.groups} announced")


def span_kind(plan: Plan) -> tuple[str, str, str, str]:
    """Events between which these do not differ share a span."""
    resolved = plan.resolved
    return resolved.route, resolved.token, resolved.index, resolved.sourcetype


def add_span(spans: Spans, first: int, count: int, plan: Plan) -> None:
    """Join it to the span before where nothing differs."""
    kind = span_kind(plan)
    if kind not in spans.kinds:
        spans.kinds.append(kind)
    number = spans.kinds.index(kind)
    if spans.rows and spans.rows[-1][2] == number:
        first, before, number = spans.rows.pop()
        count += before
    spans.rows.append((first, count, number))


def fill(encoded: Encoded, out: list[bytes]) -> None:
    """The events, one after the other, and their ends."""
    encoded.ends = array("Q", accumulate(map(len, out)))
    encoded.data = b"".join(out)
