"""Any bytes at all that stand for LogGroups: decoded, routed, encoded, packed and posted by a sender. Either Splunk's rules
take every event of them, as they were, or the body is set aside with the reason; nothing is lost and nothing invented.

The oracles are the reader of generator_wire.py, the rules of tests/worker/encoding.py, and the emulator's rules of Splunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import lz4.block
import pytest
import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulators import generator_wire as wire
from tests.emulators.generator_nasty import nasty_groups
from tests.emulators.hec import HecEmulator, Knobs
from tests.emulators.hec_rules import instant
from tests.waiting import poll
from tests.worker.encoding import GROUPS, KEYS, SPITEFUL, expected_event, text
from tests.worker.sending import Sending, quick
from tests.worker.test_encode_same import mutate
from worker.envelope import id_head
from worker.settings import RouteSettings

ROUTES = (
    RouteSettings(topic="json", name="json", json_fields=("a", "a.b", "b"), index="cloud_audit", sourcetype="st"),
    RouteSettings(topic="timed", name="timed", time_field="a", host="field:b", fields={"team": 'x"\\'}),
    RouteSettings(topic="dropped", name="dropped", drop=True),
)
TOPICS = st.sampled_from([b"json", b"timed", b"dropped", b"oss_access_log", b"", b"\xff"])
JSON = st.sampled_from(
    [b"{}", b"[]", b"null", b'{"a":1e999}', b'{"b":"{\\"c\\":1}"}', b'{"b":"[1,2"}', b'{"\\ud800":1}', b"{", b'{"a":{"a":{}}}',
     b"1700000000", b"1700000000123", b"1.7e9", b"-1", b"2026-01-01T00:00:00+08:00", b"[" * 3000,
     b'{"a":' * 100 + b"1" + b"}" * 100]
)  # fmt: skip
LOGS = st.builds(
    wire.log,
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.one_of(st.sampled_from([b"a", b"b"]), KEYS), st.one_of(JSON, SPITEFUL)), max_size=5),
    st.one_of(st.none(), st.integers(0, 999_999_999)),
)
SHAPED = st.builds(wire.group, st.lists(LOGS, max_size=4), TOPICS, SPITEFUL)


class Way:
    """A sender and a Splunk for all the examples."""

    def __init__(self, house: Sending, hec: HecEmulator) -> None:
        self.house, self.hec = house, hec

    def send(self, raw: bytes, logs: list[int], **pulled: Any) -> dict[str, dict[str, Any]]:
        """id → envelope of what Splunk has of this pull; each once."""
        self.hec.reset()
        before = self.house.books()
        self.first = self.house._cursor
        self.house.put_raw(raw, logs, **pulled)
        poll(lambda: self.house.waiting() == 0 or self.house.defect, "done with", every=0.002)
        assert self.house.defect is None
        self.moved = {name: value - before.get(name, 0) for name, value in self.house.books().items()}
        assert not self.house.dead(), [letter.text for letter in self.house.dead()]
        assert {r.status for r in self.hec.requests} <= {200}, "every request is valid"
        found = {e["event"]["sls_id"]: e for e in self.hec.envelopes}
        assert len(found) == len(self.hec.envelopes), "none twice"
        return found


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with (
        HecEmulator(knobs=Knobs(keep_envelopes=True)) as hec,
        quick([hec.url], hec.token, routes=ROUTES, max_request_bytes=4096) as house,
    ):
        house.start()
        yield Way(house, hec)


def check_whole(way: Way, groups: list[bytes], **pulled: Any) -> None:
    parsed = [wire.parse_group(group) for group in groups]
    raw = pulled.pop("raw", None) or wire.group_list(groups)
    found = way.send(raw, [len(group.logs) for group in parsed], **pulled)
    head = id_head("p", "l", 0)
    logs = {
        f"{head}{way.first + row}-{place}": (log, group)
        for row, group in enumerate(parsed)
        for place, log in enumerate(group.logs)
    }
    kept = {one: (log, group) for one, (log, group) in logs.items() if text(group.topic) != "dropped"}
    assert found.keys() == kept.keys()
    assert way.moved["decoded"] == len(logs)
    assert way.moved["filtered"] == len(logs) - len(kept)
    assert way.moved["delivered"] == len(kept)
    for one, (log, group) in kept.items():
        check_envelope(found[one], one, log, group)


def check_envelope(envelope: dict[str, Any], sls_id: str, log: wire.ParsedLog, group: wire.ParsedGroup) -> None:
    assert envelope.keys() <= {"time", "host", "source", "sourcetype", "index", "event", "fields"}
    assert isinstance(envelope["event"], dict)
    assert instant(envelope["time"]) is not None
    assert all(isinstance(value, str) for value in envelope.get("fields", {}).values())
    expected = expected_event(log, group) | {"sls_id": sls_id}
    if text(group.topic) == "json":
        assert envelope["event"].keys() == expected.keys()
        assert (envelope["index"], envelope["sourcetype"]) == ("cloud_audit", "st")
        expected = {k: v for k, v in expected.items() if k not in {"a", "b"}}
    assert {name: envelope["event"][name] for name in expected} == expected
    if text(group.topic) != "timed":
        nanoseconds = log.time_ns if log.time_ns is not None and 0 < log.time_ns < 10**9 else 0
        assert instant(envelope["time"]) == log.time * 10**6 + nanoseconds // 1000


@settings(max_examples=80, deadline=None)
@given(groups=st.lists(st.one_of(GROUPS, SHAPED), max_size=4))
def test_6a_71_any_logs_at_all_arrive_whole_and_once_as_requests_that_splunk_takes(
    way: Way, groups: list[bytes]
) -> None:
    check_whole(way, groups)


@pytest.mark.parametrize("name", nasty_groups(1_767_225_601))
def test_6a_72_nasty_logs_arrive_whole(way: Way, name: str) -> None:
    """Lone surrogates, invalid UTF-8, duplicate and reserved keys, blanks, thousands of fields, megabytes."""
    check_whole(way, [nasty_groups(1_767_225_601)[name]] * 2)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_bodies_arrive_whole(way: Way, codec: str) -> None:
    groups = [wire.group([wire.log(1, [(b"k", b"v" * n)]) for n in range(300)], b"t")] * 3
    raw = wire.group_list(groups)
    body = lz4.block.compress(raw, store_size=False) if codec == "lz4" else zstd.compress(raw, 1)
    check_whole(way, groups, raw=body, codec=codec, raw_size=len(raw))


def check_either(way: Way, raw: bytes, groups: int, **pulled: Any) -> bool:
    """Whole, or set aside with the reason; True when it was taken."""
    damaged = len(list((way.house.lane / "damaged").iterdir()))
    found = way.send(raw, [0] * groups, spoil=True, **pulled)
    if not way.moved["set_aside"]:
        assert way.moved["settled"] == groups
        assert way.moved["decoded"] - way.moved["filtered"] == len(found) == way.moved["delivered"]
        if not pulled:
            parsed = [wire.parse_group(group) for group in wire.parse_list(raw)]
            assert sum(len(group.logs) for group in parsed if text(group.topic) != "dropped") == len(found)
        return True
    assert way.moved["set_aside"] == groups
    assert way.moved["decoded"] == 0
    assert not found, "a body is validated whole before its first event leaves"
    assert len(list((way.house.lane / "damaged").iterdir())) > damaged, "kept, with the reason"
    return False


def test_damaged_and_cut_bodies_are_taken_whole_or_set_aside_whole(way: Way) -> None:
    """`suspect`: as what SLS gave three times though its own numbers said otherwise."""
    random = Random(7)
    seeds = [wire.group_list([group]) for group in nasty_groups(1_767_225_601).values() if len(group) < 2000]
    rounds = int(os.environ.get("WHOLE_WAY_ROUNDS", "150"))
    taken = [check_either(way, mutate(random, random.choice(seeds)), 1, suspect=True) for _ in range(rounds)]
    cut = [raw[: random.randrange(len(raw))] for raw in seeds]
    taken += [check_either(way, raw, 1) for raw in cut if raw]
    assert any(taken)
    assert not all(taken)


def test_noise_for_every_codec_is_set_aside(way: Way) -> None:
    random = Random(11)
    for size in (1, 2, 10, 100, 5000):
        for codec in ("lz4", "zstd", "none", "gzip"):
            noise = random.randbytes(size)
            check_either(way, noise, 1, codec=codec, raw_size=random.choice([size, 10 * size, 1 << 20]))


def test_an_enormous_event_goes_alone_and_one_over_splunks_cap_is_buried_with_the_reason() -> None:
    knobs = Knobs(profile="cloud", cloud_cap=1_000_000)
    with HecEmulator(knobs=knobs) as hec, quick([hec.url], hec.token, max_request_bytes=100_000) as house:
        fine, too_large, more = house.put(logs=1, size=900_000), house.put(logs=1, size=3_000_000), house.put(logs=20)
        house.start()
        house.wait_empty()
        assert set(hec.stored) == {*fine, *more}
        assert [(d.sls_id, d.status, d.code) for d in house.dead()] == [(too_large[0], 400, 6)]
