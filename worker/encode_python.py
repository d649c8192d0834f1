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

#: Field names are few and come again and again; hostile ones must not fill the memory.
_MOST_NAMES = 50_000


class Names(dict[Any, str]):
    """A field's name as it came → as it stands in the event."""

    def __missing__(self, key: str | bytes) -> str:
        if len(self) > _MOST_NAMES:
            self.clear()
        name = self[key] = own_name(text(key))
        return name


NAMES = Names()


def parse(raw: bytes) -> Any:
    """The LogGroups. Raises Undecodable."""
    groups = LogGroupList()
    try:
        groups.ParseFromString(raw)
    except (DecodeError, RecursionError) as error:
        raise Undecodable(f"not a LogGroupList: {error}") from error
    return groups.LogGroups


def encode_logs(logs: Any, plan: Plan, cursor: str, out: list[bytes]) -> None:
    """Append one event per log to `out`."""
    if not plan.resolved.is_plain:
        encode_shaped(logs, plan, cursor, out)
        return
    names, dumps, mid, end = NAMES, orjson.dumps, plan.mid, plan.end
    tail = plan.tail + f"{cursor}-".encode() if plan.with_id else plan.tail
    for place, log in enumerate(logs):
        contents = log.Contents
        fields: dict[str, Any] = {names[c.Key]: c.Value for c in contents}
        if len(fields) != len(contents):
            fields = merged_fields(contents)
        try:
            shown = dumps(fields)
        except TypeError:
            shown = dumps(merged_fields(contents))
        nanoseconds = log.Time_ns
        has_fraction = 0 < nanoseconds < 1_000_000_000
        time = b"%d.%09d" % (log.Time, nanoseconds) if has_fraction else b"%d" % log.Time
        middle = shown[1:-1] + b"," if fields else b""
        number = b"%d" % place if plan.with_id else b""
        out.append(b"".join((HEAD, time, mid, middle, tail, number, end)))


def merged_fields(contents: Any) -> dict[str, Any]:
    """With both values of a duplicate key, and every byte string as text."""
    fields: dict[str, Any] = {}
    for content in contents:
        add_field(fields, NAMES[content.Key], text(content.Value))
    return fields


def encode_shaped(logs: Any, plan: Plan, cursor: str, out: list[bytes]) -> None:
    """Routes that look into the log: unfolded JSON, time or host from a field."""
    for place, log in enumerate(logs):
        fields = merged_fields(log.Contents)
        out.append(shape(fields, log.Time, log.Time_ns, plan, f"{cursor}-{place}"))


def shape(fields: dict[str, Any], seconds: int, nanoseconds: int, plan: Plan, id_end: str) -> bytes:
    """One event by a route that looks into it."""
    route = plan.resolved.settings
    time = (event_time(fields.get(route.time_field)) if route.time_field else None) or decimal(seconds, nanoseconds)
    mid = plan.mid
    if route.host.startswith("field:"):
        found = fields.get(route.host[6:])
        mid = make_mid(plan.resolved, found if isinstance(found, str) and found else plan.host)
    unfold(fields, route.json_fields)
    shown = orjson.dumps({name: list(v) if isinstance(v, Many) else v for name, v in fields.items()})
    middle = shown[1:-1] + b"," if fields else b""
    number = id_end.encode() if plan.with_id else b""
    return b"".join((HEAD, time.encode(), mid, middle, plan.tail, number, plan.end))
