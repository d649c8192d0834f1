"""SLS's protobuf by hand: enough to write LogGroups fast and to read them back without any other code.

The writer makes what SLS would store; the reader is the tests' own witness of it, so neither uses protobuf's library
nor anything of the product. Invalid UTF-8 passes through untouched, as it does on the service.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Pairs = Iterable[tuple[bytes, bytes]]

_SMALL = [bytes([n]) for n in range(128)]


def varint(number: int) -> bytes:
    if number < 128:
        return _SMALL[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def content(key: bytes, value: bytes) -> bytes:
    """A Log.Content, framed as field 2 of a Log."""
    return field(2, field(1, key) + field(2, value))


def log(time: int, pairs: Pairs = (), time_ns: int | None = None) -> bytes:
    """A Log, without frame."""
    body = b"\x08" + varint(time) + b"".join(content(key, value) for key, value in pairs)
    return body if time_ns is None else body + b"\x25" + struct.pack("<I", time_ns)


def group(
    logs: Iterable[bytes],
    topic: bytes | None = None,
    source: bytes | None = None,
    tags: Pairs = (),
    *,
    machine: bytes | None = None,
    category: bytes | None = None,
) -> bytes:
    """A LogGroup, without frame."""
    parts = [field(1, one) for one in logs]
    parts += [
        field(number, value)
        for number, value in ((2, category), (3, topic), (4, source), (5, machine))
        if value is not None
    ]
    parts += [field(6, field(1, key) + field(2, value)) for key, value in tags]
    return b"".join(parts)


def frame(group_bytes: bytes) -> bytes:
    """A LogGroup as it stands in a LogGroupList."""
    return b"\x0a" + varint(len(group_bytes)) + group_bytes


def group_list(groups: Iterable[bytes]) -> bytes:
    return b"".join(map(frame, groups))


class Malformed(Exception):
    """Not protobuf."""


@dataclass(frozen=True, slots=True)
class ParsedLog:
    time: int
    time_ns: int | None
    pairs: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class ParsedGroup:
    topic: bytes
    source: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    logs: tuple[ParsedLog, ...]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    shift = number = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("varint")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The top-level fields of a message: (number, bytes or integer)."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            number, at = _read_varint(data, at)
            yield tag >> 3, number
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _read_varint(data, at)
        if size is None or at + size > len(data):
            raise Malformed(f"field of kind {kind} at {at}")
        value = data[at : at + size]
        at += size
        yield tag >> 3, value if kind == 2 else int.from_bytes(value, "little")


def _text(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise Malformed("a number where text belongs")
    return value


def _pair(data: bytes | int) -> tuple[bytes, bytes]:
    found = dict(fields(_text(data)))
    return _text(found.get(1, b"")), _text(found.get(2, b""))


def parse_log(data: bytes) -> ParsedLog:
    time, time_ns, pairs = 0, None, []
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            time = value
        elif number == 2:
            pairs.append(_pair(value))
        elif number == 4 and isinstance(value, int):
            time_ns = value
    return ParsedLog(time, time_ns, tuple(pairs))


def parse_group(data: bytes) -> ParsedGroup:
    topic = source = b""
    logs, tags = [], []
    for number, value in fields(data):
        if number == 1:
            logs.append(parse_log(_text(value)))
        elif number == 3:
            topic = _text(value)
        elif number == 4:
            source = _text(value)
        elif number == 6:
            tags.append(_pair(value))
    return ParsedGroup(topic, source, tuple(tags), tuple(logs))


def parse_list(data: bytes) -> list[bytes]:
    """The LogGroups of a LogGroupList, each without frame."""
    return [_text(value) for number, value in fields(data) if number == 1]


def count_logs(group_bytes: bytes) -> int:
    return sum(1 for number, _ in fields(group_bytes) if number == 1)
