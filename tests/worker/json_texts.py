"""JSON texts that break readers, from a seed: sound ones as everybody writes them, odd ones, damaged ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

_SPACES = ["", "", "", " ", "  ", "\n", "\t", "\r\n", "\x0b", "\xa0", "\x00"]
_NUMBERS = [
    "0", "-0", "7", "-7", "01", "-", "+1", ".5", "1.", "1.5", "-1.50", "1e5", "1E+5", "1e-5", "1e", "1e+", "1.e5", "0x1", "1_0",
    "12345678901234567890", "-9223372036854775809", "1" * 299, "1" * 300, "1" * 301, "9" * 309, "0." + "0" * 400 + "1",
    "1e299", "1e300", "1e308", "1.8e308", "-1e309", "1e999", "1e-999", "1e-9999", "1e0005", "0e999", "1" * 301 + "e-300",
    "NaN", "Infinity", "-Infinity", "1e5.5", "--1", "1-1",
]  # fmt: skip
_WORDS = ["true", "false", "null", "tru", "nul", "falsey", "True", "None", "undefined", "t", "f", "n"]
_PIECES = [
    "a", "text", "in", "{", "}", "[", "]", ":", ",", "'", "/", "\x7f", "\x00", "\x1f", "\n", "\\", '\\"', "\\\\", "\\/", "\\b",
    "\\f", "\\n", "\\r", "\\t", "\\v", "\\'", "\\x41", "\\u0041", "\\u00e9", "\\u4e2d", "\\u0000", "\\u001f", "\\u001F", "\\u0009",
    "\\u005c", "\\u0022", "\\ud83d\\ude00", "\\uD83D\\uDE00", "\\ud83d", "\\ude00", "\\ud83d\\u0041", "\\ud83d\\n",
    "\\ud83d\\ud83d", "\\u12", "\\u12G4", "\\U0041", "中", "é", "😀", "\u2028", "\ufffd", "\ufeff", "sixteen bytes!!!", '\\"in',
]  # fmt: skip
_NAMES = [
    "in",
    "in",
    "other",
    "a",
    "b",
    "",
    "i\\u006e",
    "x\\\\in",
    'x\\"in',
    "中",
    "\\ud800",
    "In",
    "inn",
    "time",
    "[",
    "}",
]
_INNER = [
    '{"b": 1}', "[]", '{"b":[1,2],"c":"\\"d\\" \\\\ \\n 中"}', '{"in": 1}', '{"other":"{}"}', "{", "text", "5", "[1e999]",
    '["\\ud800"]', "[" * 60 + "]" * 60, "[1.50]", "[\x00]", '{"/": "/"}', "",
]  # fmt: skip


def sound_text(random: Random, value: object) -> str:
    """As one of the usual writers has it."""
    ascii_only, tight = random.random() < 0.3, random.random() < 0.5
    separators = (",", ":") if tight else None
    return json.dumps(
        value, ensure_ascii=ascii_only, separators=separators, indent=random.choice([None, None, None, 1])
    )


def _string(random: Random) -> str:
    kind = random.randrange(10)
    if kind < 5:
        return sound_text(
            random, random.choice(["a", "text of more than sixteen bytes", "10.0.0.1", "中文", 'q" s\\ n\n', ""])
        )
    if kind < 8:
        return sound_text(random, random.choice(_INNER))
    if kind < 9:
        return '"' + "x" * random.randrange(40) + random.choice(_PIECES) + '"'
    return '"' + "".join(random.choices(_PIECES, k=random.randrange(5))) + '"'


def _value(random: Random, depth: int) -> str:
    kind = random.randrange(12)
    if depth and kind < 5:
        return _container(random, depth - 1)
    if kind < 9:
        return _string(random)
    if kind == 9:
        return random.choice(["true", "false", "null"])
    return (
        random.choice(_NUMBERS if random.random() < 0.5 else _NUMBERS[:3])
        if kind == 10
        else str(random.randrange(10**6))
    )


def _container(random: Random, depth: int) -> str:
    space = random.choice(_SPACES[:9] if random.random() < 0.98 else _SPACES)
    count = random.randrange(4)
    if random.random() < 0.5:
        return f"[{space}" + f"{space},".join(_value(random, depth) for _ in range(count)) + f"{space}]"
    colon = random.choice([":", ":", ": ", ": ", " : ", ":\n", "="] if random.random() < 0.1 else [":", ": "])
    names = (random.choice(_NAMES if random.random() < 0.2 else _NAMES[:6]) for _ in range(count))
    return f"{{{space}" + f",{space}".join(f'"{name}"{colon}{_value(random, depth)}' for name in names) + f"{space}}}"


def _json_in_json(random: Random) -> str:
    """As ActionTrail has it: an object with texts of JSON in it."""
    pairs: list[tuple[str, object]] = [
        ("in", random.choice(_INNER)),
        ("a", random.choice([1, "text", "中", {"in": 1}, []])),
    ]
    if random.random() < 0.5:
        pairs.append(("other", random.choice(_INNER)))
    random.shuffle(pairs)
    text = sound_text(random, dict(pairs))
    return text.replace("/", "\\/") if random.random() < 0.1 else text


def _deep(random: Random) -> str:
    """Around the deepest that is unfolded, and around the deepest that orjson reads."""
    levels = random.choice([57, 58, 59, 60, 61, 62, 1023, 1024, 1025])
    opens = ['{"a":' if random.random() < 0.3 else "[" for _ in range(levels)]
    closes = ["}" if one != "[" else "]" for one in reversed(opens)]
    inner = random.choice(["", "1", '"[[["', "{}", "[]"]) if opens[-1] == "[" else "1"
    return "".join(opens) + inner + "".join(closes)


def _damaged(random: Random, text: str) -> str:
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(text) + 1)
        match random.randrange(5):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[at + random.randrange(1, 4) :]
            case 2:
                text = text[:at] + random.choice(_PIECES + _WORDS + _NUMBERS + _SPACES + list('{}[]:,"')) + text[at:]
            case 3:
                text = text[:at] + text[at : at + random.randrange(9)] + text[at:]
            case _:
                text = text[:at] + random.choice('{}[]:,"\\ 0e.-=;#/') + text[at + 1 :]
    return text


def texts(seed: int, count: int) -> Iterator[bytes]:
    """Most begin as an object or an array; a few are no UTF-8."""
    random = Random(seed)
    for _ in range(count):
        kind = random.random()
        if kind < 0.25:
            text = _deep(random) if kind < 0.01 else _json_in_json(random)
        else:
            text = _container(random, 3) if kind < 0.95 else _value(random, 3)
        if random.random() < 0.5:
            text = _damaged(random, text)
        raw = text.encode("utf-8", "surrogatepass")
        if random.random() < 0.05:
            at = random.randrange(len(raw) + 1)
            raw = raw[:at] + random.choice([b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\xaf", b"\x80"]) + raw[at:]
        yield raw
