"""Routes that look into a log, compiled: the same bytes as from Python, and Python asked only where it is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator
from tests.emulators.generator_nasty import nasty_groups
from tests.worker.encoding import KEYS, SPITEFUL, Pair, events
from tests.worker.json_texts import texts
from tests.worker.times import times
from worker import compiled
from worker.encode_python import shape
from worker.settings import RouteSettings

pytestmark = pytest.mark.skipif(compiled.module is None, reason="no C compiler: only the Python encoder is here")

NOW = 1_767_225_601
PATHS = ("j", "k", "k.in", "k.other", "j.j", "sls_id_", "__topic__")
LOOKS = RouteSettings(json_fields=PATHS, time_field="t", host="field:h", index="i", fields={"f": "v"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The fields of each event that Python has made, whichever encoder runs."""
    made: list[dict[str, Any]] = []

    def noted(fields: dict[str, Any], *rest: Any) -> bytes:
        made.append(dict(fields))
        return shape(fields, *rest)

    monkeypatch.setattr("worker.encode.shape", noted)
    return made


def logs_of(*fields: dict[bytes, bytes]) -> list[bytes]:
    return [wire.group([wire.log(NOW, list(one.items()), 5) for one in fields], b"t", b"s", [(b"g", b"v")])]


def found(groups: list[bytes], route: RouteSettings = LOOKS) -> list[dict[str, Any]]:
    return [json.loads(event) for event in events(Pair(route).encode(groups))]


# what the compiled encoder does alone


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b'{"a": [1.50, "x\\u4e2d\\n", {}, true, false, null, -0, 1E5], "\xe4\xb8\xad": {"b": ""}}', None),
        (b"[]", None),
        (b'[ \n\r\t{"a" : 1} ] ', None),
        (b'{"a":1,"a":2}', None),
        (b"[" * 59 + b"]" * 59, None),
        (b"[" + b"1" * 300 + b",1e299]", None),
        (b'{"in": "{\\"b\\": \\"\\\\\\"\\"}", "x": 1.50}', b'{"in": {"b": "\\""}, "x": 1.50}'),
        (b'{"x":"","in":"[]","other":"{\\"a\\":1}"}', b'{"x":"","in":[],"other":{"a":1}}'),
        (b'{"in": "no JSON", "other": 5, "x": {"in": "{}"}}', None),
        (b'["in", "{}"]', None),
        (b'{"x": "\\"in\\":\\"[]\\"", "in":"[]"}', b'{"x": "\\"in\\":\\"[]\\"", "in":[]}'),
        (b'{"in":"[\xff]"}', '{"in":"[\ufffd]"}'.encode()),
        (b'{"in":"{\\"a\\":\\"\xff\\"}"}', '{"in":{"a":"\ufffd"}}'.encode()),
    ],
)
def test_a_json_text_stands_in_the_event_as_it_was_written_and_python_is_not_asked(
    text: bytes, shown: bytes | None, asked: list[dict[str, Any]]
) -> None:
    encoded = Pair(LOOKS).encode(logs_of({b"a": b"x", b"k": text, b"z": b"y"}))
    assert not asked
    assert b'"a":"x","k":' + (shown or text) + b',"z":"y",' in bytes(encoded.data)
    assert orjson.loads(encoded.data)["event"]["k"] == orjson.loads(shown or text)


def test_a_text_with_json_in_it_leaves_nothing_behind_for_the_next(asked: list[dict[str, Any]]) -> None:
    shown = found(
        logs_of({b"k": b'{"in":"[]"}'}, {b"k": b'{"x":1}'}, {b"k": b'{"in":5}'}, {b"k": b'["in"]'}, {b"k": b"{"})
    )
    assert [event["event"]["k"] for event in shown] == [{"in": []}, {"x": 1}, {"in": 5}, ["in"], "{"]
    assert not asked


@pytest.mark.parametrize(
    "text",
    [b"", b"5", b'"x"', b" {}", b"{", b"[1,]", b'{"a":1,}', b"[NaN]", b"[01]", b"[1.]", b"{}{}", b"[\x0b1]", b"[1]\x00", b'["\n"]',
     b'["\\ud800"]', b'["\\ude00"]', b'["\\u00g0"]', b"\xff", b"[\xff]", b"{'a':1}", b"[1e]", b"[-]", b"[tru]", b'["', b'{"a"}',
     b'{"a"=1}', b"[1;2]", b"[1]//", b"[/**/1]"],
)  # fmt: skip
def test_what_is_no_json_stays_text_and_python_is_not_asked(text: bytes, asked: list[dict[str, Any]]) -> None:
    (event,) = found(logs_of({b"k": text}))
    assert event["event"]["k"] == text.decode("utf-8", "replace")
    assert not asked


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (b"1767225601", "1767225601"),
        (b" 1767225601.25\n", "1767225601.250000000"),
        (b"\x1c1767225601\x1f", "1767225601"),
        (b"0000000001.5", "0000000001.500000000"),
        (b"0000000001", "1"),
        (b"1767225601123", "1767225601.123000000"),
        (b"1767225601123456", "1767225601.123456000"),
        (b"1767225601123456789", "1767225601.123456789"),
        (b"9999999999999999999", "9999999999.999999999"),
        (b"2026-01-01T00:00:01Z", "1767225601"),
        (b"2026-01-01T08:00:01.123456789+08:00", "1767225601.123456000"),
        (b"2025-12-31 16:30:01.5-07:30", "1767225601.500000000"),
        (b"2024-02-29T00:00:00", "1709164800"),
        (b"1970-01-01T00:00:00Z", "0"),
        *((value, f"{NOW}.000000005") for value in (b"", b"-", b"12", b"17672256012", b"1767225601123.5", b"no time", b"1" * 20)),
    ],
)  # fmt: skip
def test_the_time_of_a_field_is_the_events_and_python_is_not_asked(
    value: bytes, time: str, asked: list[dict[str, Any]]
) -> None:
    (event,) = found(logs_of({b"t": value}))
    assert event["time"] == time
    assert not asked


def test_a_host_out_of_the_log_and_the_groups_where_it_is_missing_empty_or_there_twice(
    asked: list[dict[str, Any]],
) -> None:
    group = wire.group([
        wire.log(NOW, [(b"h", b'web-1 "\xe4\xb8\xad\xff"')]), wire.log(NOW, [(b"h", b"")]), wire.log(NOW, []),
        wire.log(NOW, [(b"h", b"a"), (b"h", b"b")]),
    ], b"t", b"its source")  # fmt: skip
    assert [event["host"] for event in found([group])] == ['web-1 "中\ufffd"', "its source", "its source", "its source"]
    assert not asked


def test_a_field_that_is_there_twice_gives_no_time_and_is_not_unfolded(asked: list[dict[str, Any]]) -> None:
    log = wire.log(NOW, [(b"t", b"1"), (b"k", b"{}"), (b"j", b"[1]"), (b"k", b"[]"), (b"t", b"1767225602")])
    (event,) = found([wire.group([log])])
    assert event["time"] == str(NOW)
    assert (event["event"]["k"], event["event"]["j"]) == (["{}", "[]"], [1])
    assert not asked


def test_names_are_looked_for_as_they_stand_in_the_event(asked: list[dict[str, Any]]) -> None:
    """Ours cannot be taken for the log's, and a name that is no UTF-8 is found as it is shown."""
    route = RouteSettings(
        json_fields=("__topic__", "__topic___", "\ufffd"), time_field="sls_id", host="field:__tag__:g"
    )
    (event,) = found(
        logs_of({b"__topic__": b"[1]", b"\xff": b"[2]", b"sls_id": b"1767225602", b"__tag__:g": b"x"}), route
    )
    shown = event["event"]
    assert (shown["__topic__"], shown["__topic___"], shown["\ufffd"]) == ("t", [1], [2])
    assert (event["time"], event["host"]) == (f"{NOW}.000000005", "s")
    assert not asked


def test_each_group_is_looked_into_as_its_own_route_says(asked: list[dict[str, Any]]) -> None:
    routes = (
        RouteSettings(topic="a", json_fields=("x", "y", "j"), time_field="t"),
        RouteSettings(topic="b", json_fields=("k",), host="field:h"),
        RouteSettings(topic="c"),
    )
    fields = [(b"j", b"[1]"), (b"k", b"[2]"), (b"t", b"1767225602"), (b"h", b"host")]
    groups = [wire.group([wire.log(NOW, fields)], topic, b"s") for topic in (b"a", b"b", b"c", b"a", b"c", b"b")]
    shown = [json.loads(event) for event in events(Pair(*routes).encode(groups))]
    looked = {
        "a": ([1], "[2]", "1767225602", "s"),
        "b": ("[1]", [2], str(NOW), "host"),
        "c": ("[1]", "[2]", str(NOW), "s"),
    }
    for event, topic in zip(shown, "abcacb", strict=True):
        assert (event["event"]["j"], event["event"]["k"], event["time"], event["host"]) == looked[topic]
    assert not asked


# where Python is asked


@pytest.mark.parametrize(
    "text",
    [b'{"in": "{\\u0022b\\u0022: 1}"}', b'{"in":"{}","in":"[]"}', b'{"in":"[\\"\\/\\"]"}', b'{"x":{"in":"[]"},"in":"[]"}',
     b'{"in" :"[]"}', b'{"\\u0069n":"[]"}', b'{"x\\"in":"[]","in":"[]"}', b'{"in":"{\\"other\\":\\"[]\\"}","other":"[]"}',
     b"[1e999]", b"[" + b"1" * 301 + b"]",
     b"[" * 60 + b"]" * 60, b"[" * 61 + b"]" * 61, b"[" * 2000 + b"]" * 2000],
)  # fmt: skip
def test_python_makes_the_events_whose_texts_are_odd_and_only_those(text: bytes, asked: list[dict[str, Any]]) -> None:
    odd, plain = {b"k": text}, {b"k": b"[1]"}
    assert found(logs_of(plain, odd, plain))[2]["event"]["k"] == [1]
    assert [fields["k"] for fields in asked] == [text.decode()]


@pytest.mark.parametrize("paths", [("k", "k.a", "k.a.b"), ("k", "k.a.b"), ("k", 'k."'), ("k", "k.a:")])
def test_python_makes_all_events_of_a_route_that_goes_deeper(
    paths: tuple[str, ...], asked: list[dict[str, Any]]
) -> None:
    inner = json.dumps({"b": "{}"})
    text = json.dumps({"a": inner, '"': "[]", "a:": "[]"}).encode()
    found(logs_of({b"k": text}, {b"k": b"x"}), RouteSettings(json_fields=paths))
    assert len(asked) == 2


def test_an_error_in_python_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> bytes:
        raise MemoryError("in the middle")

    pair = Pair(RouteSettings(json_fields=("k", "k.a.b")))
    monkeypatch.setattr("worker.encode.shape", fails)
    monkeypatch.setattr(pair, "python", pair.compiled)
    with pytest.raises(MemoryError, match="in the middle"):
        pair.encode(logs_of({b"k": b"{}"}) * 3)


# anything at all


def in_groups(values: Iterator[bytes], name: bytes, size: int = 500) -> list[bytes]:
    logs = [wire.log(NOW, [(b"a", b"x"), (name, value), (b"z", b"y")], 5) for value in values]
    return [wire.group(logs[at : at + size], b"t", b"s") for at in range(0, len(logs), size)]


def test_texts_are_unfolded_where_orjson_reads_them_and_nowhere_else(asked: list[dict[str, Any]]) -> None:
    """By orjson, and by no code of ours."""
    given = [text.decode("utf-8", "replace") for text in texts(1, 8000)]
    encoded = found(in_groups(texts(1, 8000), b"j"), RouteSettings(json_fields=("j",)))
    unfolded = 0
    for text, event in zip(given, encoded, strict=True):
        try:
            read = orjson.loads(text) if text[:1] in {"{", "["} else text
        except orjson.JSONDecodeError:
            read = text
        if not isinstance(read, str) and text.count("[") + text.count("{") < 60:
            unfolded += 1
            assert event["event"]["j"] == json.loads(text), text
        elif isinstance(read, str):
            assert event["event"]["j"] == text
    assert unfolded > 2000
    assert len(asked) < 500


@pytest.mark.parametrize("id_field", ["event", "fields", "none"])
def test_texts_in_texts_are_the_same_from_both(id_field: str, asked: list[dict[str, Any]]) -> None:
    groups = in_groups(texts(2, 5000), b"k")
    Pair(LOOKS, id_field=id_field).encode(groups, sparse=id_field == "fields")
    assert len(asked) < 1000


def test_times_are_the_same_from_both(asked: list[dict[str, Any]]) -> None:
    groups = in_groups(times(Random(3), 8000), b"t")
    Pair(LOOKS).encode(groups)
    assert len(asked) < 5000


SOUND = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.one_of(st.sampled_from(["in", "other"]), st.text()), inner)
    ),
)
TEXTS = st.one_of(
    st.builds(json.dumps, SOUND, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1])),
    st.builds(lambda inner: json.dumps({"in": json.dumps(inner), "other": inner}, ensure_ascii=False), SOUND),
    st.text(alphabet='{}[]":,0123456789.eE-abn\\ \n', max_size=30),
).map(lambda text: text.encode("utf-8", "replace"))
VALUES = st.one_of(TEXTS, SPITEFUL, st.sampled_from([b"1767225601", b"2026-01-01T00:00:01Z", b"{}", b"host"]))
NAMES = st.one_of(st.sampled_from([b"j", b"k", b"t", b"h", b"__topic__", b"sls_id"]), KEYS)
GROUPS = st.builds(
    wire.group,
    st.lists(
        st.builds(
            wire.log, st.integers(0, 2**32 - 1), st.lists(st.tuples(NAMES, VALUES), max_size=7), st.integers(0, 2 * 10**9)
        ),
        max_size=5,
    ),
    st.sampled_from([b"", b"plain", b"u"]),
    SPITEFUL,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(GROUPS, max_size=3), st.booleans(), st.sampled_from(["event", "fields", "none"]))
def test_any_logs_on_any_routes_are_the_same_from_both(groups: list[bytes], sparse: bool, id_field: str) -> None:
    routes = [
        RouteSettings(topic="plain"),
        RouteSettings(topic="t", json_fields=("k", "k.a.b"), host="field:h"),
        RouteSettings(topic="u", json_fields=("t", "h"), time_field="k"),
        LOOKS,
    ]
    Pair(*routes, id_field=id_field).encode(groups + logs_of({b"k": b'{"a":{"b":"[]"}}'}), sparse=sparse)


@pytest.mark.parametrize("name", nasty_groups(NOW))
def test_nasty_groups_are_the_same_from_both_on_a_route_that_looks_into_them(name: str) -> None:
    group = nasty_groups(NOW)[name]
    names = sorted({key.decode("utf-8", "replace") for log in wire.parse_group(group).logs for key, _ in log.pairs})[
        :50
    ]
    for route in (
        RouteSettings(json_fields=tuple(names)),
        RouteSettings(time_field=names[0]) if names else LOOKS,
        LOOKS,
    ):
        Pair(route).encode([group, group], sparse=True)


def test_every_topic_of_the_generator_is_the_same_from_both_on_routes_that_look_into_it(
    asked: list[dict[str, Any]],
) -> None:
    json_fields = (
        "event",
        "event.requestParameterJson",
        "detail",
        "user",
        "objectRef",
        "requestObject",
        "sourceIPs",
        "param",
    )
    groups = Generator(4, logs_per_group=5).data(2000)
    found(groups, RouteSettings(json_fields=json_fields, time_field="start_time", host="field:client_ip"))
    assert not asked
