"""The encoder in pure Python: complete, and the reference for the compiled one.

A log's fields go through one dict and one orjson call; what is constant in the group is spliced in as ready-made bytes.
"""

from __future__ import annotations

from typing import Any

import orjson

from worker.decode import Undecodable
from worker.envelope import HEAD, Many, Plan, add_field, make_mid, own_name, text
from worker.loggroup import DecodeError, LogGroupList
from worker.unfold import decimal, event_time, unfold
from worker.wire import check_list

#: Field names are few and come again and again; hostile ones must not fill the memory.
_MOST_NAMES = 50_000


#: A field's name as it came → as it stands in the event. A plain dict: a miss is rare, and a subclass with __missing__ makes
#: each of the hits dearer.
NAMES: dict[Any, str] = {}
#: Places in a group, ready made.
_PLACES = [b"%d" % place for place in range(1000)]


def learn(contents: Any) -> None:
    """The names of these fields."""
    if len(NAMES) > _MOST_NAMES:
        NAMES.clear()
    for content in contents:
        NAMES[content.Key] = own_name(text(content.Key))


def parse(raw: bytes) -> Any:
    """The LogGroups. Raises Undecodable."""
    found = LogGroupList()
    try:
        found.ParseFromString(raw)
    except (DecodeError, RecursionError) as error:
        raise Undecodable(f"not a LogGroupList: {error}") from error
    found.DiscardUnknownFields()
    if found.ByteSize() != len(raw):  # protobuf skips a known field of a wrong kind as if it were unknown
        check_list(raw)
    return found.LogGroups


def encode_group(group: Any, plan: Plan, cursor: str, out: list[bytes]) -> None:
    """Append one event per log to `out`."""
    tail = plan.tail((text(tag.Key), text(tag.Value)) for tag in group.LogTags)
    if plan.with_id:
        tail += f"{cursor}-".encode()
    if plan.resolved.is_plain:
        encode_logs(group.Logs, plan, tail, out)
        return
    for place, log in enumerate(group.Logs):
        out.append(shape(merged_fields(log.Contents), log.Time, log.Time_ns, plan, tail, place))


def encode_logs(logs: Any, plan: Plan, tail: bytes, out: list[bytes]) -> None:
    """Nothing differs from log to log but the log."""
    names, dumps, start, end = NAMES, orjson.dumps, plan.mid, plan.end
    for place, log in enumerate(logs):
        contents = log.Contents
        try:
            fields: dict[str, Any] = {names[c.Key]: c.Value for c in contents}
        except KeyError:
            learn(contents)
            fields = {names[c.Key]: c.Value for c in contents}
        if len(fields) != len(contents):
            fields = plain(merged_fields(contents))
        try:
            shown = dumps(fields)
        except TypeError:
            shown = dumps(plain(merged_fields(contents)))
        nanoseconds = log.Time_ns
        has_fraction = 0 < nanoseconds < 1_000_000_000
        time = b"%d.%09d" % (log.Time, nanoseconds) if has_fraction else b"%d" % log.Time
        middle = shown[1:-1] + b"," if fields else b""
        number = (_PLACES[place] if place < 1000 else b"%d" % place) if plan.with_id else b""
        out.append(b"".join((HEAD, time, start, middle, tail, number, end)))


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """For orjson, which takes no kinds of list but list."""
    return {name: list(value) if isinstance(value, Many) else value for name, value in fields.items()}


def merged_fields(contents: Any) -> dict[str, Any]:
    """With both values of a duplicate key, and every byte string as text."""
    fields: dict[str, Any] = {}
    for content in contents:
        add_field(fields, own_name(text(content.Key)), text(content.Value))
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
