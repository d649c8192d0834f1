"""The compiled encoder against the one in Python, and both against rules written down a second time."""

from __future__ import annotations

import json
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator
from tests.emulators.generator_nasty import broken_groups, nasty_groups
from tests.emulators.generator_topics import TOPICS
from tests.worker.encoding import GROUPS, Pair, events, expected_event, pull_of
from tests.worker.sending import log_group
from worker import compiled
from worker.decode import Undecodable
from worker.settings import RouteSettings

pytestmark = pytest.mark.skipif(compiled.module is None, reason="no C compiler: only the Python encoder is here")

NOW = 1_767_225_601
PLAIN = Pair()


def check(groups: list[bytes], pair: Pair = PLAIN, *, sparse: bool = False) -> None:
    """Both say the same, and it is what the rules say."""
    encoded = pair.encode(groups, sparse=sparse)
    found = [json.loads(event) for event in events(encoded)]
    parsed = [wire.parse_group(group) for group in groups]
    logs = [(log, group, i, j) for i, group in enumerate(parsed) for j, log in enumerate(group.logs)]
    assert len(found) == len(logs)
    for event, (envelope, (log, group, row, place)) in enumerate(zip(found, logs, strict=True)):
        cursor = f"1000.{row}" if sparse else str(1000 + row)
        sls_id = f"{encoded.head}{cursor}-{place}"
        assert encoded.locate(event) == (row, place)
        assert encoded.sls_id(event) == sls_id
        assert envelope["event"] == expected_event(log, group) | {"sls_id": sls_id}
        nanoseconds = log.time_ns if log.time_ns is not None and 0 < log.time_ns < 10**9 else 0
        time = log.time & 0xFFFFFFFF
        assert envelope["time"] == (f"{time}.{nanoseconds:09d}" if nanoseconds else str(time))
        assert orjson.loads(events(encoded)[event]) == envelope


@pytest.mark.parametrize("name", nasty_groups(NOW))
def test_nasty_groups_arrive_whole_and_the_same_from_both(name: str) -> None:
    check([nasty_groups(NOW)[name]])
    check([nasty_groups(NOW)[name]] * 2, sparse=True)


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
def test_every_topic_of_the_generator_is_the_same_from_both(topic: str) -> None:
    check(Generator(3, topics=[topic], logs_per_group=20).data(60))


def test_for_the_fallback_index_all_stays_in_its_place_and_says_where_it_was_meant_to_go() -> None:
    """Routes with and without an index, and one that leads there anyway; both encoders."""
    routes = (
        RouteSettings(topic="a", index="secret", name="a", fields={"team": "x"}), RouteSettings(topic="b", index="last"),
        RouteSettings(topic="d", drop=True, name="d"), RouteSettings(topic="j", json_fields=("k",), index="other"),
    )  # fmt: skip
    groups = [log_group(topic, [{"k": '{"n": 1}'}, {"v": "2"}]) for topic in "abcdjb"]
    plain, redirected = Pair(*routes).encode(groups), Pair(*routes, index="last").encode(groups)
    assert redirected.ends != plain.ends
    assert len(redirected) == len(plain) == 10
    wanted = {"a": "secret", "j": "other"}
    for event, (before, after) in enumerate(zip(events(plain), events(redirected), strict=True)):
        was, now = json.loads(before), json.loads(after)
        topic = was["event"]["__topic__"]
        note = {"fields": was.get("fields", {}) | {"wanted_index": wanted[topic]}} if topic in wanted else {}
        assert now == was | {"index": "last"} | note
        assert redirected.sls_id(event) == plain.sls_id(event)
        assert redirected.span(event).index == "last"
        assert redirected.span(event).route == plain.span(event).route


def test_the_mix_with_nasty_groups_in_between_is_the_same_from_both() -> None:
    check(Generator(5, nasty=0.3, logs_per_group=9).data(max_bytes=400_000))


@pytest.mark.parametrize("name", broken_groups(NOW))
def test_broken_groups_are_refused_by_both_or_by_none(name: str) -> None:
    raw = wire.group_list([broken_groups(NOW)[name]])
    if name.startswith("lax"):
        try:
            PLAIN.encode_pull(pull_of(raw, 1), raw)
        except Undecodable:
            return
    else:
        with pytest.raises(Undecodable):
            PLAIN.encode_pull(pull_of(raw, 1), raw)


#: Contents of a log whose names and values are as many as if each had one of both.
MISLEADING = {
    "two names, then two values": (
        wire.field(2, wire.field(1, b"a") + wire.field(1, b"b")) + wire.field(2, wire.field(2, b"x") + wire.field(2, b"y")),
        {"b": "", "": "y"},
    ),
    "a name alone, then a value alone": (
        wire.field(2, wire.field(1, b"a")) + wire.field(2, wire.field(2, b"x")), {"a": "", "": "x"}
    ),
    "a value too many, then one too few": (
        wire.field(2, wire.field(1, b"a") + wire.field(2, b"") + wire.field(2, b"x")) + wire.field(2, wire.field(1, b"b")),
        {"a": "x", "b": ""},
    ),
    "value before name": (wire.field(2, wire.field(2, b"x") + wire.field(1, b"a")), {"a": "x"}),
    "nothing in it": (wire.field(2, b"") + wire.content(b"a", b"x"), {"": "", "a": "x"}),
    "something unknown in it": (wire.field(2, b"\x78\x05" + wire.field(1, b"a") + wire.field(2, b"x")), {"a": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MISLEADING)
@pytest.mark.parametrize("alone", [True, False])
def test_each_name_keeps_its_own_value_however_a_log_is_written(name: str, alone: bool) -> None:
    contents, expected = MISLEADING[name]
    log = b"\x08\x05" + contents
    group = wire.group([log] if alone else [wire.log(1, [(b"k", b"v")]), log, wire.log(2, [(b"k", b"w")])])
    found = [json.loads(event)["event"] for event in events(PLAIN.encode([group]))]
    given = [{name: event[name] for name in event if name not in {"__topic__", "sls_id"}} for event in found]
    assert given == ([expected] if alone else [{"k": "v"}, expected, {"k": "w"}])


@pytest.mark.parametrize(
    "junk", [b"\x0a\x00", b"\x22\x00", b"\x0a\x01\x05", b"\x10\x05", b"\x12\x02\x08\x05", b"\x12\x02\x10\x05"], ids=bytes.hex
)  # fmt: skip
def test_a_field_of_a_wrong_kind_in_a_log_is_refused_by_both(junk: bytes) -> None:
    """Lists of numbers in one piece among them, which protobuf would take for numbers."""
    raw = wire.group_list([wire.group([wire.log(1, [(b"k", b"v")], 5) + junk])])
    with pytest.raises(Undecodable):
        PLAIN.encode_pull(pull_of(raw, 1), raw)


@pytest.mark.parametrize(
    "values", [[b"\x7f", b"a"], [b'"', b"\x7f"], [b"\\", b'",', b'","', b""], [b"\xf0\x9f\x98", b"\x98"]]
)
def test_values_that_look_like_what_stands_between_values_stay_apart(values: list[bytes]) -> None:
    check([wire.group([wire.log(1, [(b"k%d" % n, value) for n, value in enumerate(values)])])])


def test_a_body_cut_at_any_byte_is_refused_or_holds_fewer_groups() -> None:
    groups = [nasty_groups(NOW)["reserved keys"], nasty_groups(NOW)["tags"], nasty_groups(NOW)["invalid utf-8"]]
    raw = wire.group_list(groups)
    for end in range(len(raw)):
        with pytest.raises(Undecodable):
            PLAIN.encode_pull(pull_of(raw[:end], 3), raw[:end])


@settings(max_examples=400, deadline=None)
@given(st.lists(GROUPS, max_size=4), st.booleans())
def test_any_logs_at_all_are_the_same_from_both(groups: list[bytes], sparse: bool) -> None:
    check(groups, sparse=sparse)


@settings(max_examples=300, deadline=None)
@given(GROUPS, st.sampled_from(["event", "fields", "none"]), st.booleans())
def test_every_place_of_the_id_and_every_route_is_the_same_from_both(group: bytes, id_field: str, shaped: bool) -> None:
    routes = [
        RouteSettings(topic="oss*", index="i", fields={"k": 'v"\\'}, time_field="a" if shaped else ""),
        RouteSettings(topic="?", drop=True),
        RouteSettings(topic="*\ufffd*", json_fields=("a", "b"), host="field:b", token="t" if shaped else ""),
    ]
    encoded = Pair(*routes, id_field=id_field).encode([group, group])
    for event in events(encoded):
        assert set(json.loads(event)) <= {"time", "host", "source", "sourcetype", "index", "event", "fields"}


def mutate(random: Random, raw: bytes) -> bytes:
    """As a disk or a hostile sender would."""
    body = bytearray(raw)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(body)) if body else 0
        match random.randrange(5):
            case 0 if body:
                body[at] = random.randrange(256)
            case 1 if body:
                body[at] ^= 1 << random.randrange(8)
            case 2:
                del body[at : at + random.randrange(1, 6)]
            case 3:
                body[at:at] = random.choice(
                    [b"\x08\x05", b"\x7a\x00", b"\x0a\x00", b"\x12\x00", b"\x0b\x0c", b"\x1d" + b"abcd"]
                )
            case _:
                body[at : at + 1] = random.randbytes(3)
    return bytes(body)


def test_damaged_bodies_are_refused_by_both_or_the_same_from_both() -> None:
    random = Random(1)
    seeds = [wire.group_list([group]) for name, group in nasty_groups(NOW).items() if len(group) < 3000]
    taken = 0
    for _ in range(6000):
        raw = mutate(random, random.choice(seeds))
        try:
            PLAIN.encode_pull(pull_of(raw, 1, suspect=True), raw)
            taken += 1
        except Undecodable:
            pass
    assert taken > 500
