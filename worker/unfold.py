"""Routes that look into a log: JSON texts unfolded into objects, the event's time taken from a field. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import orjson

_NUMBER = re.compile(r"\d{1,20}(\.\d{1,9})?")
#: digits of an epoch in seconds, milliseconds, microseconds and nanoseconds, now and for centuries
_SCALES = {10: 9, 13: 6, 16: 3, 19: 0}
#: JSON's numbers that would not come out as they went in stay text.
_DEEPEST = 60


def unfold(event: dict[str, Any], paths: tuple[str, ...]) -> None:
    """Replace the JSON text at each dotted path by what it says; what is not JSON stays as it is."""
    for path in sorted(paths, key=lambda p: p.count(".")):
        holder, name = _find(event, path)
        if holder is not None and isinstance(holder.get(name), str):
            holder[name] = parse(holder[name])


def _find(event: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, str]:
    if path in event:
        return event, path
    holder: Any = event
    *outer, name = path.split(".")
    for step in outer:
        holder = holder.get(step) if isinstance(holder, dict) else None
    return (holder if isinstance(holder, dict) else None), name


def parse(value: str) -> Any:
    """Objects and arrays only; numbers must come out as they went in, else the text stays."""
    if value[:1] not in {"{", "["} or value.count("{") + value.count("[") > 10_000:
        return value
    try:
        found = orjson.loads(value)
        shown = orjson.dumps(found)
    except (orjson.JSONDecodeError, TypeError, RecursionError):
        return value
    if _numbers(value) != _numbers(shown.decode()) or _depth(found) > _DEEPEST:
        return value
    return found


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        depth += 1
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _numbers(text: str) -> list[str]:
    """The numbers outside of strings, as written."""
    return re.findall(r"-?\d[\d.eE+-]*", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text))


def event_time(value: Any) -> str | None:
    """Decimal seconds out of epoch seconds, ms, us, ns or ISO 8601; None where it is no time."""
    if not isinstance(value, str):
        return None
    value = value.strip()
    if _NUMBER.fullmatch(value):
        whole, _, fraction = value.partition(".")
        digits = _SCALES.get(len(whole))
        if digits is None:
            return None
        if fraction:
            return f"{whole}.{fraction.ljust(9, '0')}" if digits == 9 else None
        nanoseconds = int(whole) * 10**digits
        return decimal(nanoseconds // 10**9, nanoseconds % 10**9)
    return _iso_time(value)


def _iso_time(value: str) -> str | None:
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    seconds = int(found.timestamp() // 1)
    return decimal(seconds, found.microsecond * 1000) if seconds >= 0 else None


def decimal(seconds: int, nanoseconds: int) -> str:
    """Never an exponent; nine digits where there are nanoseconds; what cannot be nanoseconds is left out."""
    return f"{seconds}.{nanoseconds:09d}" if 0 < nanoseconds < 1_000_000_000 else str(seconds)
