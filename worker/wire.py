"""Protobuf by hand, only to judge: whether a body is a LogGroupList as strictly as the compiled encoder judges it.

protobuf's library takes a known field of a wrong kind for an unknown one and drops it. That would lose a log, so it is an
error here; fields that the schema does not know are skipped. Slow, and seldom needed.
"""

from __future__ import annotations

from collections.abc import Callable

from worker.decode import Undecodable

_VARINT, _FIXED64, _TEXT, _FIXED32 = 0, 1, 2, 5
_Check = Callable[[bytes, int, int], None]


def check_list(raw: bytes) -> None:
    """Raises Undecodable."""
    _check(raw, 0, len(raw), _LIST)


def check_group(raw: bytes) -> None:
    """Of one LogGroup. Raises Undecodable."""
    _check(raw, 0, len(raw), _GROUP)


def _check(raw: bytes, at: int, end: int, schema: dict[int, tuple[int, _Check | None]]) -> None:
    while at < end:
        tag, at = _varint(raw, at, end, 5)
        number, kind = tag >> 3, tag & 7
        if not number or tag > 0xFFFFFFFF:
            raise Undecodable(f"no such field at byte {at}")
        wanted, nested = schema.get(number, (kind, None))
        if kind != wanted:
            raise Undecodable(f"field {number} of kind {kind} at byte {at}")
        start, at = _skip(raw, at, end, kind)
        if nested:
            nested(raw, start, at)


def _skip(raw: bytes, at: int, end: int, kind: int) -> tuple[int, int]:
    """Where the field's value starts and ends."""
    if kind == _VARINT:
        return at, _varint(raw, at, end, 10)[1]
    size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
    if kind == _TEXT:
        size, at = _varint(raw, at, end, 5)
    if size is None or size > end - at:
        raise Undecodable(f"field of kind {kind} at byte {at} does not fit")
    return at, at + size


def _varint(raw: bytes, at: int, end: int, most: int) -> tuple[int, int]:
    number = 0
    for place in range(min(most, end - at)):
        byte = raw[at + place]
        if place == 9 and byte > 1:
            break
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, at + place + 1
    raise Undecodable(f"endless number at byte {at}")


def _nested(schema: dict[int, tuple[int, _Check | None]]) -> tuple[int, _Check]:
    return _TEXT, lambda raw, at, end: _check(raw, at, end, schema)


_PAIR: dict[int, tuple[int, _Check | None]] = {1: (_TEXT, None), 2: (_TEXT, None)}
_LOG: dict[int, tuple[int, _Check | None]] = {1: (_VARINT, None), 2: _nested(_PAIR), 4: (_FIXED32, None)}
_GROUP: dict[int, tuple[int, _Check | None]] = {
    1: _nested(_LOG), 2: (_TEXT, None), 3: (_TEXT, None), 4: (_TEXT, None), 5: (_TEXT, None), 6: _nested(_PAIR),
}  # fmt: skip
_LIST: dict[int, tuple[int, _Check | None]] = {1: _nested(_GROUP)}
