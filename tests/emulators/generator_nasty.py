"""Everything the real service has ever handed out that breaks a forwarder: LogGroups by name.

`nasty_groups` decode as protobuf and must arrive; `broken_groups` do not and must be set aside whole, never half sent
(but for the last of them, marked lax: a field that the schema requires is missing, and either is right).
"""

from __future__ import annotations

import json

from tests.emulators.generator_wire import frame, group, log

DAY = 86400


def _event(value: bytes) -> tuple[bytes, bytes]:
    return b"message", value


def _one(now: int, *pairs: tuple[bytes, bytes], ns: int | None = None) -> bytes:
    return group([log(now, pairs, ns)], b"nasty", b"192.0.2.1", [(b"__hostname__", b"web-1")])


def nasty_groups(now: int) -> dict[str, bytes]:
    """name -> LogGroup; `now` in unix seconds."""
    tags = [(b"__hostname__", b"web-1"), (b"__receive_time__", str(now).encode()), (b"__pack_id__", b"5C1-2")]
    deep = json.dumps({"a": json.dumps({"b": json.dumps({"c": 'quote " and \\ slash'})})}).encode()
    return {
        "invalid utf-8": _one(now, _event(b"\xff\xfe\x80 broken \xc3"), (b"bad\xffkey", b"x")),
        "surrogate in utf-8": _one(now, _event(b"\xed\xa0\x80 lone \xed\xbf\xbf")),
        "overlong utf-8": _one(now, _event(b"\xc0\xaf \xf4\x90\x80\x80")),
        "nul": _one(now, _event(b"a\x00b"), (b"k\x00", b"\x00")),
        "control characters": _one(now, _event(bytes(range(32)) + b"\x7f")),
        "line separators": _one(now, _event("a\u2028b\u2029c\u0085d\ufeff".encode())),
        "emoji": _one(now, _event("😀👩‍👩‍👧‍👦🇨🇳".encode()), ("🔑".encode(), b"key")),
        "chinese": _one(now, _event("中文日志：登录失败".encode()), ("字段".encode(), "值".encode())),
        "empty strings": _one(now, _event(b""), (b"", b"empty key"), (b"", b"")),
        "dashes": _one(now, (b"a", b"-"), (b"b", b"-")),
        "duplicate keys": _one(now, (b"k", b"1"), (b"k", b"2"), (b"k", b"1"), (b"k", b"")),
        "reserved keys": _one(
            now,
            (b"__topic__", b"user's own"),
            (b"__topic___", b"taken too"),
            (b"sls_id", b"forged"),
            (b"__source__", b"user's"),
            (b"__time__", b"1"),
            (b"__tag__:__hostname__", b"user's"),
            (b"__tag__:x", b"y"),
        ),
        "reserved keys twice": _one(now, (b"sls_id", b"a"), (b"sls_id", b"b"), (b"sls_id_", b"c")),
        "hyphens dots spaces": _one(now, (b"vpc-id", b"v"), (b"a.b", b"c"), (b"User Agent", b"x"), (b'q"uote', b"'")),
        "envelope keys": _one(
            now, (b"time", b"0"), (b"host", b"h"), (b"index", b"main"), (b"event", b"{}"), (b"fields", b"[]")
        ),
        "json in json": _one(
            now, (b"event", deep), (b"broken_json", b'{"a":'), (b"number_like", b"1e999"), (b"nan", b"NaN")
        ),
        "deep json": _one(now, (b"event", b"[" * 2000 + b"]" * 2000)),
        "huge field": _one(now, (b"requestObject", b'{"x":"' + b"y" * 300_000 + b'"}')),
        "many fields": _one(now, *((b"k%d" % n, b"v") for n in range(2000))),
        "empty log": group([log(now)], b"nasty", b"192.0.2.1"),
        "empty logs": group([log(now)] * 3, b"nasty"),
        "empty group": group([], b"nasty", b"192.0.2.1"),
        "nothing at all": b"",
        "no topic no source": group([log(now, [_event(b"x")])]),
        "empty topic and source": group([log(now, [_event(b"x")])], b"", b""),
        "bad topic": group([log(now, [_event(b"x")])], b"\xfftopic", b"\xfe", [(b"\xff", b"\xfe")]),
        "tags": group([log(now, [_event(b"x")])], b"nasty", b"", tags, machine=b"machine", category=b"category"),
        "duplicate tags": group([log(now, [_event(b"x")])], b"nasty", b"s", [(b"t", b"1"), (b"t", b"2"), (b"", b"")]),
        "nanoseconds": group([log(now, [_event(b"n")], ns) for ns in (0, 1, 999_999_999, 123_456_789)], b"nasty", b"s"),
        "nanoseconds out of range": _one(now, _event(b"n"), ns=4_000_000_000),
        "day old": _one(now - DAY, _event(b"old")),
        "out of order": group([log(now - n, [_event(b"%d" % n)]) for n in (0, 3600, 5, DAY, 1)], b"nasty", b"s"),
        "year zero": _one(0, _event(b"epoch")),
        "future": _one(now + DAY * 400, _event(b"later")),
        "largest time": _one(2**32 - 1, _event(b"max")),
        "unknown fields": _one(now, _event(b"x")) + b"\x7a\x03abc\x80\x01\x05",
        "one byte logs": group([log(now, [(b"k", b"v")])] * 500, b"nasty", b"s"),
    }


def broken_groups(now: int) -> dict[str, bytes]:
    """name -> bytes that SLS would never store and no decoder may half accept."""
    whole = _one(now, _event(b"x" * 100))
    return {
        "cut": whole[:-7],
        "garbage": bytes(range(255, 128, -1)),
        "endless varint": b"\x0a" + b"\xff" * 12,
        "length beyond the end": b"\x0a\xff\x7f" + whole,
        "group end": whole + b"\x0c",
        "lax: log is a number": b"\x08\x05",
        "lax: log without time": group([b""], b"nasty"),
        "lax: content without value": group([b"\x08\x01\x12\x03\x0a\x01k"], b"nasty"),
        "frame in frame": frame(frame(whole))[:-3],
    }
