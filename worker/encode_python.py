"""The encoder in pure Python: complete, and the reference for the compiled one.

A group's names and values come out of protobuf as two lists. All its values are escaped in one call; then a log is one
join of the values with what stands between them, which is made once for logs with the same names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from google.protobuf.unknown_fields import UnknownFieldSet

from worker.decode import Undecodable
from worker.envelope import HEAD, Many, Plan, add_field, make_mid, own_name, text
from worker.loggroup import DecodeError, EncodeError, FlatGroup, Frames, LogGroup
from worker.unfold import decimal, event_time, unfold
from worker.wire import check_group, check_list

#: Field names are few and come again and again; hostile ones must not fill the memory.
_MOST_NAMES = 50_000
#: A field's name as it came → what stands between the value before and its own.
BETWEEN: dict[bytes, bytes] = {}
#: How an event begins.
_WHOLE, _FINE = HEAD + b"%d", HEAD + b"%d.%09d"
#: A byte between values that no escape has in it and that hardly any value has: DEL.
_SEPARATOR = b"\x7f"
Pairs = Iterable[tuple[str | bytes, str | bytes]]
#: Places in a group, ready made.
_PLACES = [b"%d" % place for place in range(1000)]


def parse(raw: bytes) -> list[Any]:
    """The LogGroups. Raises Undecodable."""
    return [read_group(frame)[0] for frame in split(raw)]


def split(raw: bytes) -> list[bytes]:
    """Each LogGroup's bytes. Raises Undecodable."""
    try:
        frames = Frames.FromString(raw)
    except DecodeError as error:
        raise Undecodable(f"not a LogGroupList: {error}") from error
    if len(UnknownFieldSet(frames)):
        check_list(raw)
    found: list[bytes] = frames.LogGroups[:]
    return found


def read_group(raw: bytes) -> tuple[Any, Any]:
    """A LogGroup; and the fields of all its logs. Raises Undecodable."""
    group = LogGroup()
    try:
        group.ParseFromString(raw)
        flat = FlatGroup.FromString(raw)
    except (DecodeError, RecursionError) as error:
        raise Undecodable(f"not a LogGroup: {error}") from error
    if not is_as_written(group, flat, raw):
        check_group(raw)
        group.DiscardUnknownFields()
        complete(group)
        flat = FlatGroup.FromString(group.SerializeToString())
    return group, flat.Logs.Contents


def is_as_written(group: Any, flat: Any, raw: bytes) -> bool:
    """By SLS: each field of a log has one name and one value, and there is nothing that we do not know.

    Only then are the names and the values, each read as one list, those of the same fields; and protobuf skips a known field
    of a wrong kind as if it were unknown.
    """
    try:
        size = len(group.SerializeToString())
    except EncodeError:
        return False
    logs = flat.Logs
    return size == len(raw) and not any(map(len, map(UnknownFieldSet, (flat, logs, logs.Contents, flat.LogTags))))


def complete(group: Any) -> None:
    """A name or a value that is not there is empty."""
    for log in group.Logs:
        for content in log.Contents:
            for name in ("Key", "Value"):
                if not content.HasField(name):
                    setattr(content, name, "")


def encode_group(group: Any, plan: Plan, cursor: str, out: list[bytes], fields: Any = None) -> None:
    """Append one event per log to `out`. `fields` are those of all logs, which a plain route needs."""
    tail = plan.tail((text(tag.Key), text(tag.Value)) for tag in group.LogTags)
    if plan.with_id:
        tail += f"{cursor}-".encode()
    if fields is not None and plan.resolved.is_plain:
        encode_logs(group.Logs, fields.Key[:], escaped(fields.Value[:]), plan, tail, out)
        return
    for place, log in enumerate(group.Logs):
        out.append(shape(merged_fields(log.Contents), log.Time, log.Time_ns, plan, tail, place))


def encode_logs(logs: Any, names: list[bytes], values: list[bytes], plan: Plan, tail: bytes, out: list[bytes]) -> None:
    """Nothing differs from log to log but the log."""
    at = 0
    known: list[bytes] | None = None
    row: list[bytes] = []
    for place, log in enumerate(logs):
        end = at + len(log.Contents)
        own = names[at:end]
        if own != known:
            known, row = own, make_row(own, plan, tail)
        nanoseconds = log.Time_ns
        if row:
            row[0] = _FINE % (log.Time, nanoseconds) if 0 < nanoseconds < 1_000_000_000 else _WHOLE % log.Time
            row[2:-3:2] = values[at:end]
            if plan.with_id:
                row[-2] = _PLACES[place] if place < 1000 else b"%d" % place
            out.append(b"".join(row))
        else:
            out.append(shape(merged_fields(log.Contents), log.Time, nanoseconds, plan, tail, place))
        at = end


def make_row(names: list[bytes], plan: Plan, tail: bytes) -> list[bytes]:
    """An event of a log with these names, in pieces: its head is missing at 0, a value at 2, 4, …, and its place at -2.

    Empty where a name comes twice.
    """
    try:
        between = [BETWEEN[name] for name in names]
    except KeyError:
        learn(names)
        between = [BETWEEN[name] for name in names]
    if not between:
        return [b"", plan.mid + tail, b"", plan.end]
    if len(set(between)) < len(between):
        return []
    row = [b""] * (2 * len(between) + 4)
    row[1:-3:2] = between
    row[1], row[-3], row[-1] = plan.mid + between[0][2:], b'",' + tail, plan.end
    return row


def learn(names: list[bytes]) -> None:
    """What stands before the values of these names."""
    if len(BETWEEN) > _MOST_NAMES:
        BETWEEN.clear()
    for name in names:
        BETWEEN[name] = b'",' + orjson.dumps(own_name(text(name))) + b':"'


def escaped(values: list[bytes]) -> list[bytes]:
    """As they stand between quotes in JSON."""
    joined = _SEPARATOR.join(values)
    shown = orjson.dumps(text(joined))[1:-1]
    if shown == joined:
        return values
    found = shown.split(_SEPARATOR)
    if len(found) == len(values):
        return found
    return [orjson.dumps(text(value))[1:-1] for value in values]


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """For orjson, which takes no kinds of list but list."""
    return {name: list(value) if isinstance(value, Many) else value for name, value in fields.items()}


def merged_fields(contents: Any) -> dict[str, Any]:
    """With both values of a duplicate key, and every byte string as text."""
    return merged([(content.Key, content.Value) for content in contents])


def merged(pairs: Pairs) -> dict[str, Any]:
    """The same, of names and values."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        add_field(fields, own_name(text(key)), text(value))
    return fields


def shape(fields: dict[str, Any], seconds: int, nanoseconds: int, plan: Plan, tail: bytes, place: int | str) -> bytes:
    """One event by a route that looks into it: unfolded JSON, time or host from a field."""
    route = plan.resolved.settings
    time = (event_time(fields.get(route.time_field)) if route.time_field else None) or decimal(seconds, nanoseconds)
    mid = plan.mid
    if route.host.startswith("field:"):
        found = fields.get(route.host[6:])
        mid = make_mid(plan.resolved, found if isinstance(found, str) and found else plan.host)
    unfold(fields, route.json_fields)
    middle = orjson.dumps(plain(fields))[1:-1] + b"," if fields else b""
    number = str(place).encode() if plan.with_id else b""
    return b"".join((HEAD, time.encode(), mid, middle, tail, number, plan.end))
