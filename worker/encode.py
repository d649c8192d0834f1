"""A pull's bytes → HEC events, with where each ends, whose route it took, and its way back to the log.

The body is validated whole before its first event leaves. Both encoders give the same bytes; `ENCODER` says which runs.
"""

from __future__ import annotations

import importlib
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from buffer.values import DeadLetter, Pull
from worker.decode import Undecodable
from worker.encode_python import encode_logs, merged_fields, parse, shape
from worker.envelope import Plan, cursor_part, id_head, make_plan, text
from worker.loggroup import LogGroup
from worker.routes import Router

try:
    _encoder: Any = importlib.import_module("worker._encoder")
except ImportError:  # no compiler was there when it was installed
    _encoder = None

ENCODER = "compiled" if _encoder is not None else "python"
#: Plans are remembered per topic, source and tags; hostile tags must not fill the memory.
_MOST_PLANS = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive events with the same route and token."""

    first: int
    count: int
    route: str
    token: str
    index: str
    sourcetype: str


@dataclass(slots=True)
class Encoded:
    """The events of one pull."""

    data: bytes = b""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    spans: list[Span] = field(default_factory=list)
    decoded: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    head: str = ""
    firsts: list[int] = field(default_factory=list)
    """The first event of each group that has any."""
    places: list[int] = field(default_factory=list)
    """That group's place in the pull."""
    cursors: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ends)

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

    def span(self, event: int) -> Span:
        """The span that holds it."""
        for span in self.spans:
            if event < span.first + span.count:
                return span
        raise IndexError(event)


class Encoder:
    """Holds the plans; one per sender."""

    def __init__(self, router: Router, compiled: bool | None = None) -> None:
        self._router = router
        self.compiled = (_encoder is not None) if compiled is None else compiled
        self._plans: dict[tuple[object, ...], Plan] = {}

    def encode(self, pull: Pull, raw: bytes) -> Encoded:
        """All events of a pull. Raises Undecodable, and then none has left."""
        head = id_head(pull.key.project, pull.key.logstore, pull.key.shard)
        if self.compiled:
            return self._encode_compiled(pull, raw, head)
        groups = parse(raw)
        check_count(pull, len(groups))
        out: list[bytes] = []
        encoded = Encoded(head=head)
        for place, group in enumerate(groups):
            tags = tuple((text(tag.Key), text(tag.Value)) for tag in group.LogTags)
            plan = self._plan(pull, head, text(group.Topic), text(group.Source), tags)
            if self._account(encoded, plan, len(group.Logs), len(out), pull, place):
                encode_logs(group.Logs, plan, encoded.cursors[-1], out)
        fill(encoded, out)
        return encoded

    def _plan(self, pull: Pull, head: str, topic: str, source: str, tags: tuple[tuple[str, str], ...]) -> Plan:
        key = (pull.source, head, pull.key.project, pull.key.logstore, topic, source, tags)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) > _MOST_PLANS:
                self._plans.clear()
            resolved = self._router.resolve(pull.source, pull.key.project, pull.key.logstore, topic)
            plan = self._plans[key] = make_plan(
                resolved, topic=topic, source=source, tags=list(tags), project=pull.key.project, head=head,
                id_field=self._router.id_field,
            )  # fmt: skip
        return plan

    def _account(self, encoded: Encoded, plan: Plan, logs: int, first: int, pull: Pull, place: int) -> bool:
        """Count a group; whether it has events to send."""
        resolved = plan.resolved
        if not logs:
            return False
        encoded.decoded[resolved.route] = encoded.decoded.get(resolved.route, 0) + logs
        if resolved.settings.drop:
            encoded.filtered[resolved.route] = encoded.filtered.get(resolved.route, 0) + logs
            return False
        encoded.firsts.append(first)
        encoded.places.append(place)
        encoded.cursors.append(cursor_part(pull.begin, place, pull.sparse))
        add_span(encoded.spans, first, logs, plan)
        return True

    def _encode_compiled(self, pull: Pull, raw: bytes, head: str) -> Encoded:
        """Two passes: scan and validate every group, resolve their plans, then encode all at once without the GIL."""
        try:
            groups = _encoder.scan(raw)
        except ValueError as error:
            raise Undecodable(f"not a LogGroupList: {error}") from error
        check_count(pull, len(groups))
        encoded = Encoded(head=head)
        work: list[tuple[Any, ...]] = []
        total = 0
        for place, (start, end, topic, source, tags, logs) in enumerate(groups):
            plan = self._plan(pull, head, text(topic), text(source), tuple((text(k), text(v)) for k, v in tags))
            if not self._account(encoded, plan, logs, total, pull, place):
                continue
            cursor = encoded.cursors[-1]
            if plan.resolved.is_plain:
                tail = plan.tail + f"{cursor}-".encode() if plan.with_id else plan.tail
                work.append((start, end, plan.mid, tail, plan.end, plan.with_id))
            else:
                out: list[bytes] = []
                group = LogGroup()
                group.ParseFromString(raw[start:end])
                encode_logs(group.Logs, plan, cursor, out)
                work.append((out,))
            total += logs
        data, ends = _encoder.encode(raw, work)
        encoded.data, encoded.ends = data, array("Q", ends)
        return encoded

    def encode_letter(self, letter: DeadLetter) -> Encoded:
        """A dead letter with today's settings and its old id."""
        group = LogGroup()
        group.ParseFromString(letter.log)
        tags = [(text(tag.Key), text(tag.Value)) for tag in group.LogTags]
        resolved = self._router.resolve(letter.source, letter.project, letter.logstore, text(group.Topic))
        head, _, id_end = letter.sls_id.rpartition("-")[0].rpartition("-")
        place = letter.sls_id.rpartition("-")[2]
        plan = make_plan(
            resolved, topic=text(group.Topic), source=text(group.Source), tags=tags, project=letter.project,
            head=f"{head}-", id_field=self._router.id_field,
        )  # fmt: skip
        log = group.Logs[0]
        encoded = Encoded(head=f"{head}-", firsts=[0], places=[0], cursors=[id_end])
        encoded.decoded[resolved.route] = 1
        add_span(encoded.spans, 0, 1, plan)
        fill(encoded, [shape(merged_fields(log.Contents), log.Time, log.Time_ns, plan, f"{id_end}-{place}")])
        return encoded


def check_count(pull: Pull, found: int) -> None:
    """What SLS announced is what is there."""
    if found != pull.groups:
        raise Undecodable(f"{found} LogGroups, {pull.groups} announced")


def add_span(spans: list[Span], first: int, count: int, plan: Plan) -> None:
    """Join it to the span before where nothing differs."""
    resolved = plan.resolved
    kind = (resolved.route, resolved.token, resolved.index, resolved.sourcetype)
    if spans and (spans[-1].route, spans[-1].token, spans[-1].index, spans[-1].sourcetype) == kind:
        spans[-1] = Span(spans[-1].first, spans[-1].count + count, *kind)
    else:
        spans.append(Span(first, count, *kind))


def fill(encoded: Encoded, out: list[bytes]) -> None:
    """The events, one after the other, and their ends."""
    at = 0
    ends = encoded.ends
    for event in out:
        at += len(event)
        ends.append(at)
    encoded.data = b"".join(out)


def letter_of(
    pull: Pull, raw: bytes, encoded: Encoded, event: int, *, status: int, code: int, why: str, state: str, hold: str,
    now: float,
) -> DeadLetter:  # fmt: skip
    """The log behind an event, as a LogGroup of one, with everything needed to send it again. The slow path."""
    place, row = encoded.locate(event)
    group = parse(raw)[place]
    one = LogGroup()
    one.CopyFrom(group)
    del one.Logs[:]
    one.Logs.add().CopyFrom(group.Logs[row])
    span = encoded.span(event)
    return DeadLetter(
        sls_id=encoded.sls_id(event), log=one.SerializeToString(), source=pull.source, project=pull.key.project,
        logstore=pull.key.logstore, shard=pull.key.shard, cursor=encoded.cursor(event), place=row,
        topic=text(group.Topic), status=status, code=code, text=why[:500], index=span.index,
        sourcetype=span.sourcetype, time=now, tries=1, state=state, hold=hold,
    )  # fmt: skip
