"""Cases 68 to 75 of facts/hec.md 6A: what a request holds, seen by the emulator."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest

from tests.emulators import generator_wire as wire
from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token, instant
from tests.worker.sending import quick
from worker.settings import RouteSettings

OTHER = "00000000-0000-4000-8000-000000000002"


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize(
    ("limit", "logs", "size"),
    [
        (10_000, 1, 20), (10_000, 100, 20), (10_000, 100, 4800), (10_000, 10, 9800), (10_000, 5, 30_000),
        (4096, 1, 5000), (2 << 20, 3000, 1000),
    ],
)  # fmt: skip
def test_6a_68_events_are_packed_to_the_limit_none_is_lost_none_out_of_order_and_no_request_is_empty(
    limit: int, logs: int, size: int, compress: bool
) -> None:
    with HecEmulator() as hec:
        options: dict[str, Any] = {"max_request_bytes": limit, "gzip": compress, "in_flight": 1}
        with quick([hec.url], hec.token, **options) as house:
            house.put(logs=logs, size=size)
            house.put(logs=1)
            house.start()
            house.wait_empty()
            assert list(hec.stored) == house.expected
            house.assert_all_once(hec.stored)
            assert all(r.events for r in hec.requests)
            assert all(r.bytes <= limit or r.events == 1 for r in hec.requests)
            least = sum(r.bytes for r in hec.requests) / limit
            assert len(hec.requests) <= 2 * least + 3, "and well filled"


def test_6a_68_a_request_may_be_exactly_as_large_as_the_limit() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.put(logs=100, size=1000)
        house.start()
        house.wait_empty()
        (whole,) = hec.requests
    with HecEmulator() as hec, quick([hec.url], hec.token, max_request_bytes=whole.bytes) as house:
        house.put(logs=100, size=1000)
        house.start()
        house.wait_empty()
        assert [r.bytes for r in hec.requests] == [whole.bytes]


@pytest.mark.parametrize("nanoseconds", [0, 1, 123_456_789, 999_999_999])
@pytest.mark.parametrize("seconds", [0, 1, 999_999_999, 1_790_000_000, 2**32 - 1])
def test_row_62_6a_69_time_is_decimal_and_exact(seconds: int, nanoseconds: int) -> None:
    with HecEmulator(knobs=Knobs(keep_envelopes=True)) as hec, quick([hec.url], hec.token) as house:
        house.put_raw(wire.group_list([wire.group([wire.log(seconds, [(b"k", b"v")], nanoseconds)], b"t")]), [1])
        house.start()
        house.wait_empty()
        (envelope,) = hec.envelopes
        assert envelope["time"] == (f"{seconds}.{nanoseconds:09d}" if nanoseconds else str(seconds))
        if seconds >= 10**9:
            assert instant(envelope["time"]) == seconds * 10**6 + nanoseconds // 1000


def test_6a_70_a_log_without_fields_is_sent_as_its_metadata_and_never_blank() -> None:
    with HecEmulator(knobs=Knobs(keep_envelopes=True)) as hec, quick([hec.url], hec.token, id_field="none") as house:
        logs = [wire.log(1), wire.log(1, [(b"", b"")]), wire.log(1, [(b" ", b" ")])]
        house.put_raw(wire.group_list([wire.group(logs, b"t", b"10.0.0.1")]), [3])
        house.start()
        house.wait_empty()
        assert [e["event"] for e in hec.envelopes] == [
            {"__topic__": "t"}, {"": "", "__topic__": "t"}, {" ": " ", "__topic__": "t"}
        ]  # fmt: skip


def test_6a_73_tokens_never_mix_in_a_request_and_metadata_are_each_events_own() -> None:
    routes = (
        RouteSettings(topic="a", token=OTHER, index="ia", sourcetype="sa", name="a"),
        RouteSettings(topic="b", index="ib", sourcetype="sb", source="src", host="=h", name="b"),
    )
    with (
        HecEmulator(tokens=[Token(TOKEN), Token(OTHER)], knobs=Knobs(keep_envelopes=True)) as hec,
        quick([hec.url], hec.token, routes=routes) as house,
    ):
        house.put_mixed([(topic, [{"n": str(n)} for n in range(3)]) for topic in "abcabc" * 5])
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        shown = {
            (e["event"]["__topic__"], e.get("index"), e["sourcetype"], e["source"], e["host"]) for e in hec.envelopes
        }
        assert shown == {
            ("a", "ia", "sa", "sls:p/l", "10.0.0.1"), ("b", "ib", "sb", "src", "h"),
            ("c", None, "aliyun:sls", "sls:p/l", "10.0.0.1"),
        }  # fmt: skip
        assert Counter(r.token for r in hec.requests for _ in range(r.events)) == {OTHER: 30, TOKEN: 60}


@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_6a_74_the_headers_that_splunk_needs_and_no_others(compress: bool, ack: bool) -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=ack)]) as hec:
        with quick([hec.url], hec.token, gzip=compress, ack="required" if ack else "auto") as house:
            house.put()
            house.start()
            house.wait_empty()
        for request in hec.requests:
            assert request.token == TOKEN
            assert request.headers["user-agent"].startswith("sls-siem/")
            assert bool(request.channel) is ack
            compressed = compress and not request.path.endswith("/ack")
            assert request.headers.get("content-encoding") == ("gzip" if compressed else None)


def test_6a_75_a_token_in_an_event_is_a_field_and_nothing_else() -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN), Token(OTHER)], knobs=Knobs(keep_envelopes=True)) as hec,
        quick([hec.url], hec.token) as house,
    ):
        logs = [{"token": OTHER, "hec_token": OTHER, "Authorization": f"Splunk {OTHER}", "index": "x", "event": "y"}]
        house.put_mixed([("t", logs)])
        house.start()
        house.wait_empty()
        assert [r.token for r in hec.requests] == [TOKEN]
        assert "index" not in hec.envelopes[0]
        assert {name: hec.envelopes[0]["event"][name] for name in logs[0]} == logs[0]


def test_a_request_is_one_gzip_member_that_python_reads_too() -> None:
    from worker.hec import gzip as packed

    pieces: list[bytes | memoryview] = [memoryview(b'{"event":1}'), b"", json.dumps({"event": "x" * 100_000}).encode()]
    assert gzip.decompress(packed(pieces)) == b"".join(pieces)
