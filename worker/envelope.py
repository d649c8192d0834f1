"""The envelope of an event: what is constant in a LogGroup, as ready-made bytes around what differs.

    {"time":"T   MID   "k":"v",…,   CONSTANTS ,tags   OPENING cursor - place   END

Whitelisted keys only (Splunk answers 200 to an unknown key and indexes nothing after it), `fields` flat, no blank event.
The time is text, so that no parser on the way rounds its nanoseconds or writes an exponent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from worker.routes import Resolved
from worker.unfold import Paths, simple_paths

HEAD = b'{"time":"'
TOPIC, TAG, ID = "__topic__", "__tag__:", "sls_id"
HOSTNAME = "__hostname__"


class Look(NamedTuple):
    """What a route takes out of its logs, for the compiled encoder."""

    time: bytes
    """The field that holds the time; empty: none."""
    host: bytes
    rest: bytes
    """What follows a host out of the log, up to the opening of the event; empty: the host is the group's."""
    paths: Paths


@dataclass(frozen=True, slots=True)
class Plan:
    """A kind of group: same topic, source and host name."""

    resolved: Resolved
    mid: bytes
    constants: bytes
    """`__topic__`, as it stands in the event; the group's tags follow."""
    opening: bytes
    """From there up to the cursor part of the id."""
    end: bytes
    with_id: bool
    host: str
    look: Look | None = None
    """What the compiled encoder looks for in the logs; None where it looks for nothing, or leaves that to Python."""

    def tail(self, tags: Iterable[tuple[str, str]]) -> bytes:
        """What follows a log's own fields, up to the cursor."""
        merged = merge_tags(tags)
        shown = b"," + orjson.dumps(merged)[1:-1] if merged else b""
        return self.constants + shown + self.opening


def text(value: str | bytes) -> str:
    """Invalid UTF-8 becomes U+FFFD."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def own_name(key: str) -> str:
    """A log's field may not pass for ours: it is kept under its name and an underscore."""
    return f"{key}_" if key in {TOPIC, ID} or key.startswith(TAG) else key


def id_head(project: str, logstore: str, shard: int, query: str = "") -> str:
    """The constant part of a shard's ids. With a query, pull and place tell an event only among those of the same query."""
    place = f"{project}/{logstore}" + (f"?{query}" if query else "")
    return f"{hashlib.sha256(place.encode()).hexdigest()[:8]}-{shard}-"


def cursor_part(begin: int, place: int, sparse: bool) -> str:
    """The cursor of the LogGroup at `place` in its pull, or where it cannot be counted the pull's and the place."""
    return f"{begin}.{place}" if sparse else str(begin + place)


def merge_tags(tags: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`__tag__:x` of each; of the same twice, a list."""
    merged: dict[str, Any] = {}
    for key, value in tags:
        add_field(merged, TAG + key, value)
    return merged


def add_field(into: dict[str, Any], key: str, value: Any) -> None:
    """The same key twice keeps both values, as a list."""
    if key not in into:
        into[key] = value
    elif isinstance(into[key], Many):
        into[key].append(value)
    else:
        into[key] = Many([into[key], value])


class Many(list[Any]):
    """Values of a duplicate key: a list of our own making, not the log's."""


def choose_host(resolved: Resolved, source: str, hostname: str, project: str) -> str:
    """As the route says; else __source__ unless empty, else the host name's tag, else the project."""
    match resolved.settings.host.partition(":")[0]:
        case "source":
            return source or project
        case "hostname":
            return hostname or source or project
        case "project":
            return project
        case wanted if wanted.startswith("="):
            return resolved.settings.host[1:]
    return source or hostname or project


def make_plan(
    resolved: Resolved, *, topic: str, source: str, hostname: str, project: str, head: str, id_field: str
) -> Plan:
    """`head` is the constant part of the ids."""
    host = choose_host(resolved, source, hostname, project)
    constants = orjson.dumps({TOPIC: topic})[1:-1]
    opening, end = make_end(dict(resolved.settings.fields), head, id_field)
    look = None if resolved.is_plain else make_look(resolved)
    return Plan(resolved, make_mid(resolved, host), constants, opening, end, id_field != "none", host, look)


def make_look(resolved: Resolved) -> Look | None:
    """None where a path goes deeper than the compiled encoder does."""
    route = resolved.settings
    paths = simple_paths(route.json_fields)
    if paths is None:
        return None
    kind, _, host = route.host.partition(":")
    rest = make_mid(resolved, "h").removeprefix(b'","host":"h"') if kind == "field" else b""
    return Look(_name(route.time_field), _name(host), rest, paths)


def _name(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def make_mid(resolved: Resolved, host: str) -> bytes:
    """From the end of the time to the opening of the event."""
    meta = {"host": host, "source": resolved.source, "sourcetype": resolved.sourcetype, "index": resolved.index}
    shown = orjson.dumps({name: value for name, value in meta.items() if value})
    return b'",' + shown[1:-1] + b',"event":{'


def make_end(fields: dict[str, str], head: str, id_field: str) -> tuple[bytes, bytes]:
    """What stands between the tags and the cursor; and what follows the place."""
    added = orjson.dumps(fields)[1:-1]
    start = f'"{ID}":"{head}'.encode()
    if id_field == "event":
        return b"," + start, b'"}' + (b',"fields":{' + added + b"}" if added else b"") + b"}"
    if id_field == "fields":
        return b'},"fields":{' + (added + b"," if added else b"") + start, b'"}}'
    return b"", b"}" + (b',"fields":{' + added + b"}" if added else b"") + b"}"
