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
#: A name that stands in JSON as it is, and in which nothing is JSON's own.
_NAME = re.compile(r'[^\x00-\x20"\\,:{}\[\]\ud800-\udfff]+')
_Steps = tuple[str, ...]
#: Fields, each with names in it.
Paths = tuple[tuple[bytes, tuple[bytes, ...]], ...]


def unfold(event: dict[str, Any], paths: tuple[str, ...]) -> None:
    """Replace the JSON text at each dotted path by what it says; what is not JSON stays as it is.

    The text itself goes into the event, so that every number and every name stays as it was written.
    """
    for path, below in _plan(paths):
        text = event.get(path)
        found = unfold_text(text, below) if isinstance(text, str) else None
        if found is not None:
            event[path] = orjson.Fragment(found)


@lru_cache(maxsize=1000)
def _plan(paths: tuple[str, ...]) -> list[tuple[str, list[_Steps]]]:
    """Each with the steps from it to the paths below, outer ones first."""
    ordered = sorted(paths, key=lambda path: path.count("."))
    return [
        (path, [tuple(one[len(path) + 1 :].split(".")) for one in ordered if one.startswith(f"{path}.")])
        for path in ordered
    ]


def simple_paths(paths: tuple[str, ...]) -> Paths | None:
    """Each field with the names just below it, for the compiled encoder; None where a path goes deeper, or has odd names.

    Odd is what has a meaning in JSON: there a name could be found where none is.
    """
    plan = dict(_plan(paths))
    below = [steps for found in plan.values() for steps in found]
    if not all(len(steps) == 1 and _NAME.fullmatch(steps[0]) for steps in below):
        return None
    return tuple(
        (path.encode("utf-8", "surrogatepass"), tuple(name.encode() for (name,) in dict.fromkeys(found)))
        for path, found in plan.items()
    )


def unfold_text(text: str, below: list[_Steps]) -> str | None:
    """An object's or array's text with the texts below unfolded in it; None where it is no JSON of that kind."""
    if text[:1] not in {"{", "["}:
        return None
    try:
        found = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    if text.count("{") + text.count("[") > _DEEPEST and _depth(found) > _DEEPEST:
        return None
    return _unfold_below(text, found, below) if below else text


def _unfold_below(text: str, found: Any, below: list[_Steps]) -> str:
    shown, missed = text, False
    for steps in below:
        holder = _find(found, steps)
        inner = holder.get(steps[-1]) if holder else None
        inner_text = unfold_text(inner, _further(below, steps)) if isinstance(inner, str) else None
        if holder is None or inner is None or inner_text is None:
            continue
        holder[steps[-1]] = orjson.Fragment(inner_text)
        spliced = _splice(shown, steps[-1], inner, inner_text)
        shown, missed = spliced or shown, missed or spliced is None
    return _write_anew(text, found) or shown if missed else shown


def _further(below: list[_Steps], steps: _Steps) -> list[_Steps]:
    return [one[len(steps) :] for one in below if len(one) > len(steps) and one[: len(steps)] == steps]


def _find(found: Any, steps: _Steps) -> dict[str, Any] | None:
    for step in steps[:-1]:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _splice(text: str, name: str, inner: str, inner_text: str) -> str | None:
    """Without writing the rest anew; None where it does not stand there once, written as orjson writes."""
    shown_name, shown = orjson.dumps(name).decode(), orjson.dumps(inner).decode()
    for colon in (":", ": "):
        old = f"{shown_name}{colon}{shown}"
        if text.count(old) == 1:
            return text.replace(old, f"{shown_name}{colon}{inner_text}")
    return None


def _write_anew(text: str, found: Any) -> str | None:
    """None where that would change a number."""
    stays = _numbers(text) == _numbers(orjson.dumps(orjson.loads(text)).decode())
    return orjson.dumps(found).decode() if stays else None


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
