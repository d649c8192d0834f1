"""What Splunk makes of the body of a request: pure functions over bytes, by what was measured on Enterprise 10.4.

The body is a stream of JSON objects: what stands before the first bad one is already indexed. The number in the answer
is the bad object's, but one higher for code 7. No metadata carries over from one object to the next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

KEYS = {"time", "host", "source", "sourcetype", "index", "fields", "event"}
TEXTS = {
    0: "Success", 1: "Token disabled", 2: "Token is required", 3: "Invalid authorization", 4: "Invalid token",
    5: "No data", 6: "Invalid data format", 7: "Incorrect index", 8: "Internal server error", 9: "Server is busy",
    10: "Data channel is missing", 11: "Invalid data channel", 12: "Event field is required",
    13: "Event field cannot be blank", 14: "ACK is disabled", 15: "Error in handling indexed fields",
    16: "Query string authorization is not enabled", 17: "HEC is healthy", 18: "HEC is unhealthy, queues are full",
    19: "HEC is unhealthy, ack service unavailable", 20: "HEC is unhealthy, queues are full, ack service unavailable",
    23: "Server is shutting down", 24: "HEC queue is approaching its capacity limit",
    25: "HEC ACK is approaching its capacity limit",
    26: "HEC queue is at capacity and cannot process any more requests",
    27: "HEC ACK channel is at capacity and cannot process any more requests",
    28: "Data channel is missing. If you have multiple indexers, sticky session load balancers must be provisioned",
}  # fmt: skip
STATUS = {0: 200, 1: 403, 2: 401, 3: 401, 4: 403, 8: 500, 9: 503, 17: 200, 18: 503, 19: 503, 20: 503, 23: 503,
          24: 200, 25: 200, 26: 429, 27: 429}  # fmt: skip
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")
_SPACE = " \t\r\n"
_BOUNDARY = b'}{"time":'


@dataclass(frozen=True, slots=True)
class Token:
    """One HEC token."""

    value: str
    index: str = "main"
    indexes: tuple[str, ...] = ()
    """Allowed; empty: every name is accepted, even one that does not exist."""
    ack: bool = False
    disabled: bool = False


@dataclass(slots=True)
class Taken:
    """What was indexed of a body, and the first fault."""

    envelopes: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0
    number: int | None = None
    skipped: int = 0
    """Objects answered with success and not indexed: `fields` without `event`, or after an unknown key."""


def take(body: bytes, token: Token) -> Taken:
    """Read the stream until its end or its first fault."""
    taken = Taken()
    count = 0
    for count, found in enumerate(objects(body), 1):
        code = fault(found, token)
        if code:
            taken.code, taken.number = code, count if code == 7 else count - 1
            return taken
        if isinstance(found, dict) and found.keys() - KEYS:
            if count == 1:
                taken.code, taken.number = 5, None
            taken.skipped += 1
            return taken
        if isinstance(found, dict) and "event" not in found:
            taken.skipped += 1
            continue
        taken.envelopes.append(found)
    if count == 0:
        taken.code = 5
    return taken


def take_raw(body: bytes, metadata: dict[str, Any]) -> Taken:
    """The raw endpoint: an event a line, with the request's metadata."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    return Taken([metadata | {"event": line} for line in lines], code=0 if lines else 5)


def instant(value: Any) -> int | None:
    """`time` as microseconds since 1970: seconds, 13 digits of milliseconds, 19 of nanoseconds, number or string."""
    text = repr(value) if isinstance(value, float) else str(value)
    if _bad_time(value) or not _DECIMAL.fullmatch(text):
        return None
    whole, _, fraction = text.partition(".")
    digits = {13: 3, 16: 6, 19: 9}.get(len(whole), 0)
    nanoseconds = int((whole + fraction.ljust(9, "0")[:9]) if not digits else whole.ljust(len(whole) + 9 - digits, "0"))
    return nanoseconds // 1000


class Broken:
    """Stands for what cannot be parsed."""


def objects(body: bytes) -> Iterator[Any]:
    """Each object of the stream; Broken at the end where parsing stops. Fast where objects follow each other at once."""
    pieces = body.split(_BOUNDARY)
    parsed = []
    try:
        for place, piece in enumerate(pieces):
            whole = (b'{"time":' if place else b"") + piece + (b"}" if place < len(pieces) - 1 else b"")
            parsed.append(orjson.loads(whole))
    except orjson.JSONDecodeError:
        yield from _stream(body)
        return
    for one in parsed:
        yield from one if isinstance(one, list) else [one]


def _stream(body: bytes) -> Iterator[Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        yield from _stream(body[: error.start].rsplit(b"{", 1)[0])
        yield Broken()
        return
    decoder, at = json.JSONDecoder(strict=False), 0
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at == len(text):
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except ValueError:
            yield Broken()
            return
        yield from found if isinstance(found, list) else [found]


def fault(found: Any, token: Token) -> int:
    """The code for one object; 0 when it is fine."""
    if not isinstance(found, dict):
        return 6
    if "event" not in found and "fields" not in found:
        return 12
    if "event" in found:
        event = found["event"]
        if event is None or event is False:
            return 6
        if isinstance(event, str) and not event.strip():
            return 13
    if _bad_time(found.get("time")):
        return 15
    fields = found.get("fields", {})
    if not isinstance(fields, dict):
        return 6
    if any(isinstance(value, dict) for value in fields.values()):
        return 15
    index = found.get("index", "")
    return 7 if token.indexes and index and index not in token.indexes else 0


def _bad_time(value: Any) -> bool:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return isinstance(value, float) and "e" in repr(value)
    return not (isinstance(value, str) and _DECIMAL.fullmatch(value))
