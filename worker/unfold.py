"""Routes that look into a log: JSON texts unfolded into objects, the event's time taken from a field. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?")
#: digits of an epoch in seconds, milliseconds, microseconds and nanoseconds, now and for centuries
_SCALES = {10: 9, 13: 6, 16: 3, 19: 0}
#: What nests deeper stays text. Levels.
_DEEPEST = 60
#: What may be a number that orjson would not write as it read it; seldom wrong inside of strings.
_ODD_NUMBER = re.compile(r"[:,\[\s]-?(?:0\b|\d+[.eE]|\d{16})")


def unfold(event: dict[str, Any], paths: tuple[str, ...]) -> None:
    """Replace the JSON text at each dotted path by what it says; what is not JSON stays as it is."""
    for path, steps, below in _plan(paths):
        holder, name = (event, path) if path in event else _find(event, steps)
        text = holder.get(name) if holder else None
        if holder and isinstance(text, str):
            holder[name] = parse(text, below)


@lru_cache(maxsize=1000)
def _plan(paths: tuple[str, ...]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Outer paths first: each with its steps, and the steps from it to the paths below."""
    return [
        (path, path.split("."), [one[len(path) + 1 :].split(".") for one in paths if one.startswith(f"{path}.")])
        for path in sorted(paths, key=lambda path: path.count("."))
    ]


def _find(event: Any, steps: list[str]) -> tuple[dict[str, Any] | None, str]:
    holder = event
    for step in steps[:-1]:
        holder = holder.get(step) if isinstance(holder, dict) else None
    return (holder if isinstance(holder, dict) else None), steps[-1]


def parse(text: str, below: list[list[str]]) -> Any:
    """Objects and arrays only. The text itself goes into the event, so every number stays as it was written; it is
    taken apart only where one of the paths `below` leads to another text, and not if that would change a number."""
    if text[:1] not in {"{", "["}:
        return text
    try:
        found = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):
        return text
    if text.count("{") + text.count("[") > _DEEPEST and _depth(found) > _DEEPEST:
        return text
    if any(_leads_to_text(found, steps) for steps in below) and _numbers_stay(text, found):
        return found
    return orjson.Fragment(text)


def _leads_to_text(found: Any, steps: list[str]) -> bool:
    holder, name = _find(found, steps)
    return holder is not None and isinstance(holder.get(name), str)


def _numbers_stay(text: str, found: Any) -> bool:
    return not _ODD_NUMBER.search(text) or _numbers(text) == _numbers(orjson.dumps(found).decode())


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
