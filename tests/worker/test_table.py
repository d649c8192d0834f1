"""The verdict table of facts/hec.md section 4, row by row, through a socket: where every event ended, how many requests it
took, what was held and said, what was counted as possibly sent twice. The witness is the emulator.

Rows of acknowledgement (53 to 60) are in test_acks.py, those of TLS (49 to 52) in test_tls.py.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import Sending, quick
from worker.settings import RouteSettings

LOGS = 8


@dataclass(frozen=True)
class Refusal:
    """An answer that is no success and lays no blame on an event: kept, held, said, sent again when it has ended."""

    answer: dict[str, Any]
    hint: str
    """Part of what the operator is told."""
    ambiguous: bool = False
    kind: str = "endpoint"
    hec: dict[str, Any] = field(default_factory=dict)


def html(status: int, **headers: str) -> dict[str, Any]:
    return {"status": status, "body": "<html>no</html>", "headers": headers}


def splunk(status: int, code: int, **more: Any) -> dict[str, Any]:
    return {"status": status, "code": code, **more}


REFUSALS: dict[str, Refusal] = {
    "row 04, 200 with another code; 6A 05": Refusal(splunk(200, 5), "HEC port", ambiguous=True),
    "row 04, 200 HTML; 6A 03": Refusal(html(200), "HEC port", ambiguous=True),
    "row 04, 200 empty; 6A 03": Refusal({"status": 200, "body": ""}, "HEC port", ambiguous=True),
    "row 04, 200 {}; 6A 03": Refusal({"status": 200, "body": "{}"}, "HEC port", ambiguous=True),
    "row 04, 200 error; 6A 03": Refusal({"status": 200, "body": '{"error":"x"}'}, "HEC port", ambiguous=True),
    "row 04, 200/999; 6A 04": Refusal(splunk(200, 999), "HEC port", ambiguous=True),
    "row 42, 500 with megabytes; 6A 06": Refusal(
        {"status": 500, "body": "x" * (4 << 20)}, "on the way", ambiguous=True
    ),
    "row 04, 200 with megabytes; 6A 06": Refusal({"status": 200, "body": "x" * (4 << 20)}, "HEC port", ambiguous=True),
    "row 36, 503 without text; 6A 07": Refusal({"status": 503, "body": '{"code":9}'}, "comes back by itself"),
    "row 04, 200 bad JSON": Refusal({"status": 200, "body": '{"code":'}, "HEC port", ambiguous=True),
    "row 05, 201; 6A 09": Refusal(html(201), "not Splunk", ambiguous=True),
    "row 05, 202; 6A 08": Refusal(html(202), "not Splunk", ambiguous=True),
    "row 05, 204": Refusal({"status": 204, "body": ""}, "not Splunk", ambiguous=True),
    "row 06, 301": Refusal(html(301, Location="https://elsewhere/"), "HEC port"),
    "row 06, 302": Refusal(html(302, Location="https://elsewhere/"), "HEC port"),
    "row 06, 303": Refusal(html(303, Location="/en-US/"), "HEC port"),
    "row 06, 307": Refusal(html(307, Location="https://elsewhere/"), "HEC port"),
    "row 06, 308": Refusal(html(308, Location="https://elsewhere/"), "HEC port"),
    "row 15, 400/16": Refusal(splunk(400, 16), "hec.token", kind="token"),
    "row 16, 400/21": Refusal(splunk(400, 21), "hec.token", kind="token"),
    "row 16, 400/22": Refusal(splunk(400, 22), "hec.token", kind="token"),
    "row 16, 400 with code 400; 6A 40": Refusal(splunk(400, 400), "hec.token", kind="token"),
    "row 17, 400 HTML": Refusal(html(400), "firewall or load balancer"),
    "row 18, 401/2; 6A 31": Refusal(splunk(401, 2), "hec.token", kind="token"),
    "row 18, 401/3; 6A 31": Refusal(splunk(401, 3), "hec.token", kind="token"),
    "row 19, 403/4": Refusal(splunk(403, 4), "hec.token", kind="token"),
    "row 20, 403/1": Refusal(splunk(403, 1), "hec.token", kind="token"),
    "row 21, 403 HTML": Refusal(html(403), "allow-list"),
    "row 22, 404 of Splunk": Refusal({"status": 404, "code": 404}, "detention"),
    "row 22, 404 HTML": Refusal(html(404), "detention"),
    "row 23, 405": Refusal(html(405), "not Splunk's HEC"),
    "row 23, 501; 6A 41": Refusal(html(501), "not Splunk's HEC"),
    "row 23, 505; 6A 41": Refusal(html(505), "not Splunk's HEC"),
    "row 24, 407": Refusal(html(407), "hec.proxy"),
    "row 25, 408; 6A 14": Refusal(html(408), "on the way", ambiguous=True),
    "row 26, 411": Refusal(html(411), "not Splunk's HEC"),
    "row 26, 431": Refusal(html(431), "not Splunk's HEC"),
    "row 28, 414": Refusal(html(414), "not Splunk's HEC"),
    "row 29, 415 without gzip too": Refusal(html(415), "without gzip", hec={"gzip": False}),
    "row 30, 417": Refusal(html(417), "on the way", ambiguous=True),
    "row 30, 421": Refusal(html(421), "on the way", ambiguous=True),
    "row 30, 425": Refusal(html(425), "on the way", ambiguous=True),
    "row 30, 426": Refusal(html(426), "not Splunk's HEC"),
    "row 31, 429/26; 6A 13": Refusal(splunk(429, 26), "comes back by itself"),
    "row 33, 429 of a limiter": Refusal(html(429), "comes back by itself"),
    "row 34, 500/8; 6A 41": Refusal(splunk(500, 8), "on the way", ambiguous=True),
    "row 35, 502": Refusal(html(502), "on the way", ambiguous=True),
    "row 35, 504; 6A 15": Refusal(html(504), "on the way", ambiguous=True),
    "row 35, 520": Refusal(html(520), "on the way", ambiguous=True),
    "row 35, 527": Refusal(html(527), "on the way", ambiguous=True),
    "row 36, 503/9": Refusal(splunk(503, 9), "comes back by itself"),
    "row 37, 503/9 with a number": Refusal(splunk(503, 9, number=5), "comes back by itself", ambiguous=True),
    "row 38, 503/18": Refusal(splunk(503, 18), "comes back by itself"),
    "row 38, 503/19": Refusal(splunk(503, 19), "comes back by itself"),
    "row 38, 503/20": Refusal(splunk(503, 20), "comes back by itself"),
    "row 39, 503/23": Refusal(splunk(503, 23), "comes back by itself", ambiguous=True),
    "row 40, 503 HTML": Refusal(html(503), "comes back by itself"),
    "row 41, 402": Refusal(html(402), "never gives", ambiguous=True),
    "row 41, 418": Refusal(html(418), "never gives", ambiguous=True),
    "row 41, 451": Refusal(html(451), "never gives", ambiguous=True),
    "row 42, 599": Refusal(html(599), "on the way", ambiguous=True),
    "row 42, garbage": Refusal({"raw": "garbage\r\n\r\n"}, "answer", ambiguous=True),
    "row 46, reset in the upload": Refusal({"read": 5}, "broke", ambiguous=True),
    "row 47, ended before the status; 6A 44": Refusal({"drop": True}, "broke", ambiguous=True),
    "row 48, ended in the body of a 200; 6A 45": Refusal(
        {"status": 200, "code": 0, "sent": 9}, "broke", ambiguous=True
    ),
}


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_keeps_every_event_is_held_and_said_and_ends_by_itself(row: Refusal) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, **row.hec) as house:
        hec.outage(True, **row.answer)
        house.put(logs=LOGS)
        house.start()
        poll(lambda: [h["kind"] for h in house.holds()] == [row.kind], f"held: {house.holds()}", 30)
        (hold,) = house.holds()
        assert row.hint in hold["hint"]
        assert not hec.stored
        assert not house.dead()
        assert house.waiting() == 1
        assert hec.server._served <= 5, "no tight loop"
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        taken = [r for r in hec.posts() if r.events]
        assert [r.events for r in taken] == [LOGS], "whole, in one request"
        poll(lambda: not house.holds(), "the hold has ended")
        house.stop()
        refused = house.metric("hec_requests_total") - 1
        assert house.metric("hec_possible_duplicates_total") == (refused * LOGS if row.ambiguous else 0)


# rows that lead elsewhere


def test_row_01_6a_01_success_is_one_request() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len(hec.requests) == 1


@pytest.mark.parametrize("knob", ["near_full", "ack_near_full"], ids=["row 02, 200/24; 6A 02", "row 02, 200/25; 6A 02"])
def test_a_warning_is_an_acceptance_and_slows_down(knob: str) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=4) as house:
        setattr(hec.knobs, knob, True)
        for _ in range(6):
            house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert house.sender
        assert house.sender.delivery.endpoints[0].window < 4


def refusing(house: Sending, hec: HecEmulator, answers: list[dict[str, Any]]) -> list[str]:
    """One batch, these answers first."""
    hec.script.extend(answers)
    ids = house.put(logs=LOGS)
    house.start()
    house.wait_empty()
    return ids


def test_row_07_no_data_for_a_body_with_events_is_bisected_and_never_buried() -> None:
    """A proxy strips the bodies: even a single event gets 400/5, which is held."""
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.outage(True, status=400, code=5)
        house.put(logs=LOGS)
        house.start()
        poll(lambda: any("strips" in h["hint"] for h in house.holds()), "held")
        assert not house.dead()
        assert [r.status for r in hec.posts()][:4] == [400] * 4, "8, 4, 2, 1"
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)


@pytest.mark.parametrize(
    ("code", "trust", "requests"),
    [(6, "none", 4), (6, "splunk", 3), (12, "none", 4), (13, "none", 4), (15, "none", 4), (15, "splunk", 3)],
    ids=["row 08, 400/6", "row 08, 400/6 trusted", "row 13, 400/12; 6A 25", "row 13, 400/13; 6A 25", "row 13, 400/15; 6A 25",
         "row 13, 400/15 trusted"],
)  # fmt: skip
def test_the_event_that_is_named_is_sent_alone_and_buried_alone(code: int, trust: str, requests: int) -> None:
    """Refused at 3: event 3 alone, what stood in front (unless Splunk is trusted to have it), what came after."""
    with HecEmulator() as hec, quick([hec.url], hec.token, trust_prefix=trust, in_flight=1) as house:
        ids = refusing(house, hec, [splunk(400, code, number=3), splunk(400, code, number=0)])
        assert [(d.sls_id, d.state, d.status, d.code) for d in house.dead()] == [(ids[3], "dead", 400, code)]
        assert set(hec.stored) == set(ids[4:] if trust == "splunk" else ids[:3] + ids[4:])
        assert len(hec.requests) == requests
        house.stop()
        assert house.metric("hec_possible_duplicates_total") == (0 if trust == "splunk" else 3)


@pytest.mark.parametrize(
    "number", [None, -1, 99, "3", True, 8], ids="row 09, 400/6 with number {}; 6A 22, 6A 26".format
)
def test_without_a_number_that_can_be_used_it_is_bisected(number: Any) -> None:
    """Bad at 5 of 8: 8, [0-3], [4-7], [4-5], [4], [5], [6-7]."""
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=1) as house:
        ids = house.put(logs=LOGS)
        hec.rules.append({**splunk(400, 6, number=number), "contains": ids[5]})
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == [ids[5]]
        assert set(hec.stored) == {*ids} - {ids[5]}
        assert len(hec.requests) == 7
        house.assert_books(delivered=7, buried=1)


def wrong_index() -> tuple[Token, tuple[RouteSettings, ...]]:
    return Token(TOKEN, indexes=("main", "last")), (RouteSettings(topic="bad", index="secret"),)


@pytest.mark.parametrize("policy", ["hold", "dead-letter", "fallback"], ids="row 10, 400/7 with {}".format)
def test_an_index_that_is_refused(policy: str) -> None:
    token, routes = wrong_index()
    options: dict[str, Any] = {"on_incorrect_index": policy, "fallback_index": "last", "in_flight": 1}
    with (
        HecEmulator(tokens=[token], knobs=Knobs(keep_envelopes=True)) as hec,
        quick([hec.url], hec.token, routes=routes, **options) as house,
    ):
        good, bad, more = house.put(logs=2), house.put("bad", logs=3), house.put(logs=2)
        house.start()
        house.wait_empty()
        assert {*good, *more} <= hec.stored.keys()
        if policy == "fallback":
            assert set(hec.stored) == {*good, *bad, *more}
            told = {e["event"]["sls_id"]: (e["index"], e["fields"]) for e in hec.envelopes if "index" in e}
            assert told == {one: ("last", {"wanted_index": "secret"}) for one in bad}
        else:
            state = "parked" if policy == "hold" else "dead"
            assert {(d.sls_id, d.state, d.index) for d in house.dead()} == {(i, state, "secret") for i in bad}
            assert all("Incorrect index" in d.text for d in house.dead())
        most = {"hold": 4, "fallback": 4, "dead-letter": 8}[policy]
        assert len([r for r in hec.requests if r.status == 400]) <= most


@pytest.mark.parametrize(
    "profile", ["enterprise", "cloud"], ids=["row 11, 400/10; 6A 39", "row 11, 400/28; 6A 39"]
)  # fmt: skip
def test_a_token_that_wants_a_channel_gets_one(profile: str) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=True)], knobs=Knobs(profile=profile)) as hec,
        quick([hec.url], hec.token) as house,
    ):
        house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert [r.status for r in hec.posts()] == [400, 200]


def test_row_11_a_token_that_wants_a_channel_is_held_with_ack_off() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token, ack="off") as house:
        house.put(logs=LOGS)
        house.start()
        poll(lambda: any("hec.ack" in h["hint"] for h in house.holds()), "held")
        assert not hec.stored
        hec.tokens = {TOKEN: Token(TOKEN)}
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_11_a_token_that_wants_a_channel_gets_one_after_an_outage_too() -> None:
    """A sender that began in the outage learns of the channel only now, and its request has failed often by then."""
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token) as house:
        hec.script.extend([{"status": 503, "code": 9}] * 4)
        house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert [r.status for r in hec.posts()] == [503] * 4 + [400, 200]


def test_row_12_a_channel_that_is_refused_is_renewed_and_then_held() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token, ack="required") as house:
        hec.outage(True, status=400, code=11)
        house.put(logs=LOGS)
        house.start()
        poll(house.holds, "held")
        assert len({r.channel for r in hec.posts()}) >= 2
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_27_6a_37_413_is_split_and_a_single_event_over_the_cap_is_buried() -> None:
    with HecEmulator(knobs=Knobs(max_content_length=3000)) as hec, quick([hec.url], hec.token) as house:
        ids = house.put(logs=LOGS, size=700)
        large = house.put(logs=1, size=5000)
        house.start()
        house.wait_empty()
        assert set(hec.stored) == set(ids)
        assert [(d.sls_id, d.status) for d in house.dead()] == [(large[0], 413)]
        assert max(r.bytes for r in hec.requests if r.status == 200) <= 3000


def test_row_29_6a_38_415_is_answered_without_gzip_and_remembered() -> None:
    with HecEmulator(knobs=Knobs(gzip=False)) as hec, quick([hec.url], hec.token) as house:
        house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        house.put(logs=LOGS)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert [r.status for r in hec.requests] == [415, 200, 200]


def test_row_29_415_to_several_at_once_is_no_trouble() -> None:
    """Those that were out with gzip when the first was refused tell nothing new: all go out again at once."""
    with HecEmulator() as hec, quick([hec.url], hec.token, max_request_bytes=4096) as house:
        out = house.settings.hec.in_flight
        for _ in range(out):
            house.put(logs=1, size=3000)
        refused, taken = threading.Event(), threading.Event()
        hec.script.extend([{"status": 415, "body": "", "gate": refused}] * out)
        house.start()
        poll(lambda: not hec.script, "all are out")
        hec.script.extend([{"after": True, "gate": taken}] * out)
        refused.set()
        poll(lambda: not hec.script or house.holds(), "all are out again")
        assert not house.holds()
        taken.set()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_32_6a_13_429_27_gets_a_new_channel_and_a_pause_and_is_no_trouble_with_the_token() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token, ack="required") as house:
        hec.outage(True, status=429, code=27)
        house.put(logs=LOGS)
        house.start()
        poll(lambda: len(hec.posts()) >= 4, "tried again and again")
        poll(house.holds, "said")
        assert [h["kind"] for h in house.holds()] == ["endpoint"]
        assert len({r.channel for r in hec.posts()}) >= 3
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)


@pytest.mark.parametrize(
    "answer",
    [splunk(500, 8), html(400), html(403), {"drop": True}, splunk(400, 5)],
    ids=["row 34, 500/8", "row 17, 400 HTML", "row 21, 403 HTML", "row 47, reset", "row 07, 400/5"],
)
def test_one_event_that_something_on_the_way_dislikes_is_parked_while_all_others_pass(answer: dict[str, Any]) -> None:
    """It is never buried: when the firewall has learned better, it is delivered."""
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=2) as house:
        ids = house.put(logs=3)
        hec.rules.append({**answer, "contains": ids[1]})
        house.start()
        poll(lambda: house.metric("hec_requests_total"), "refused")
        while not house.dead():
            others = house.put(logs=2)
            poll(lambda o=others: set(o) <= hec.stored.keys(), "others pass")  # type: ignore[misc]
        house.wait_empty("the lane goes on")
        assert [(d.sls_id, d.state, d.hold.partition(":")[0]) for d in house.dead()] == [(ids[1], "parked", "payload")]
        assert set(hec.stored) == set(house.expected) - {ids[1]}
        poll(lambda: [h["kind"] for h in house.holds()] == ["payload"], "said")
        hec.rules.clear()
        poll(lambda: not house.dead(), "delivered when it passes")
        house.assert_none_lost(hec.stored)


def test_row_43_44_6a_43_an_endpoint_that_cannot_be_reached_is_said_and_others_take_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = socket.getaddrinfo

    def without_it(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "no-such-host.invalid":  # real name servers may take long to say so
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", without_it)
    with HecEmulator() as hec:
        gone, refused = "http://no-such-host.invalid:8088", "http://127.0.0.1:1"
        with quick([gone, refused, hec.url], hec.token) as house:
            for _ in range(12):
                house.put(logs=2)
            house.start()
            house.wait_empty()
            house.assert_all_once(hec.stored)
            poll(lambda: {h["name"] for h in house.holds()} == {gone, refused}, "both are said")
            assert "DNS" in next(h["hint"] for h in house.holds() if h["name"] == gone)
            house.stop()
            assert house.metric("hec_possible_duplicates_total") == 0, "nothing was sent to them"


def test_row_45_6a_46_an_idle_connection_that_was_closed_costs_one_immediate_try_and_no_trouble() -> None:
    """The server closes without a word when the request is on its way over a connection that had served before."""
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=1) as house:
        house.put(logs=LOGS)
        house.start()
        house.wait_empty()
        hec.script.append({"drop": True})
        house.put(logs=LOGS)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        house.stop()
        assert house.metric("hec_requests_total", status="stale connection") == 1
        assert house.metric("hec_possible_duplicates_total") == LOGS
        first, second = [r.time for r in hec.posts()][-2:]
        assert second >= first
        assert not house.holds()
