"""Texts that are times, nearly are, or are not, from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

_ENDS = [
    "",
    "Z",
    "+08:00",
    "-07:30",
    "z",
    "+0800",
    "+08",
    "+23:59",
    "+24:00",
    "-00:00",
    "+08:00:30",
    " +08:00",
    "+08:60",
    "UTC",
]
_FORMS = ["%Y-%m-%dT%H:%M:%S"] * 12 + ["%Y-%m-%d %H:%M:%S", "%Y%m%dT%H%M%S", "%Y-%m-%d", "%G-W%V-%u"]
_ODD = ["", " ", "9", "0", "-", "\u00a0", "٣", "\x1c", "\n", "T"]
_FRACTIONS = [
    "",
    "",
    ".5",
    ".123",
    ".123456",
    ".999999",
    ".1234567",
    ".123456789",
    ".1234567890",
    ".",
    ",5",
    ".5x",
    ".000000999",
]


def _iso(random: Random) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randrange(-(10**8), 45 * 10**8))
    text = moment.strftime(random.choice(_FORMS))
    usual = random.random() < 0.7
    return text + random.choice(_FRACTIONS[:6] if usual else _FRACTIONS) + random.choice(_ENDS[:4] if usual else _ENDS)


def _epoch(random: Random) -> str:
    whole = str(random.randrange(10 ** random.choice([9, 10, 10, 11, 13, 13, 16, 16, 19, 19, 20, 21])))
    return whole.rjust(random.choice([0, 10, 13, 16, 19]), "0") + random.choice(_FRACTIONS)


def times(random: Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        text = _iso(random) if random.random() < 0.6 else _epoch(random)
        if random.random() < 0.15:
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(_ODD) + text[at + random.randrange(2) :]
        before, after = random.choice(["", "", "", "", "", " ", "\t", "\u2003"]), random.choice(["", "", "\n"])
        yield f"{before}{text}{after}".encode()
