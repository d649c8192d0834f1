"""What becomes of events for each kind of answer: a real sender, a real lane, a real HTTP server, as facts/hec.md 6A asks.

The numbers in the names are those cases'.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buffer.operate import dead_replay
from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import Sending, sending
from worker.settings import RouteSettings


def test_01_success_is_one_request_and_one_ack(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put(logs=50)
        house.start()
        house.wait_empty()
        assert house.stop() == 0
        house.assert_all_once(hec.stored)
        assert len(hec.requests) == 1
        assert house.books()["delivered"] == 50
        request = hec.requests[0]
        assert request.headers["user-agent"].startswith("sls-siem/")
        assert request.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "answers",
    [
        [{"status": 200, "code": 24}],
        [{"status": 200, "code": 25}],
    ],
    ids=["02 code 24", "02 code 25"],
)
def test_accepted_with_a_warning_is_accepted(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        hec.rules.append({**answers[0], "after": True, "count": 1})
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len(hec.requests) == 1


NOT_TAKEN: dict[str, dict[str, Any]] = {
    "03 200 {}": {"status": 200, "body": "{}"},
    "03 200 HTML": {"status": 200, "body": "<html>login</html>"},
    "03 200 empty": {"status": 200, "body": ""},
    "04 200 code 999": {"status": 200, "code": 999},
    "05 200 code 5": {"status": 200, "code": 5},
    "06 huge body": {"status": 500, "body": "x" * (4 << 20)},
    "07 no text": {"status": 503, "body": '{"code":9}'},
    "08 202": {"status": 202, "body": ""},
    "09 201": {"status": 201, "body": ""},
    "10 busy": {"status": 503, "code": 9},
    "12 retry-after": {"status": 503, "code": 9, "headers": {"Retry-After": "1"}},
    "12 retry-after garbage": {"status": 503, "code": 9, "headers": {"Retry-After": "-5x"}},
    "13 429": {"status": 429, "code": 26},
    "14 408": {"status": 408, "body": ""},
    "15 504": {"status": 504, "body": "<html>"},
    "16 busy with a number": {"status": 503, "code": 9, "number": 5},
    "17 shutting down": {"status": 503, "code": 23},
    "30 403/4": {"status": 403, "code": 4},
    "30 403/1": {"status": 403, "code": 1},
    "31 401/2": {"status": 401, "code": 2},
    "31 401/3": {"status": 401, "code": 3},
    "33 404": {"status": 404, "body": "Not Found"},
    "36 303": {"status": 303, "body": "", "headers": {"Location": "/en-US/"}},
    "40 400/400": {"status": 400, "body": '{"text":"Invalid token","code":400}'},
    "41 500/8": {"status": 500, "code": 8},
    "41 501": {"status": 501, "body": ""},
    "41 505": {"status": 505, "body": ""},
    "17 400 HTML": {"status": 400, "body": "<html>bad request</html>"},
    "21 403 HTML": {"status": 403, "body": "<html>forbidden</html>"},
    "24 407": {"status": 407, "body": ""},
    "23 405": {"status": 405, "body": ""},
    "30 421": {"status": 421, "body": ""},
    "41 418": {"status": 418, "body": ""},
    "35 520": {"status": 520, "body": "<html>"},
    "44 closed without answer": {"drop": True},
    "45 reset in the body": {"status": 200, "code": 0, "sent": 5},
}


@pytest.mark.parametrize("answer", NOT_TAKEN.values(), ids=NOT_TAKEN.keys())
def test_an_answer_that_is_no_success_keeps_the_events_and_they_are_delivered_later(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        hec.script.extend([answer, answer])
        house.put(logs=20)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len(hec.requests) == 3, "two refusals, one success, no tight loop"
        assert not house.dead()


def test_46_a_connection_that_the_server_closed_while_idle_costs_nothing(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put()
        house.start()
        house.wait_empty()
        hec.server.drop_connections()
        house.put()
        house.wait_empty()
        house.assert_none_lost(hec.stored)


@pytest.mark.parametrize("trust", ["none", "splunk"])
def test_20_a_bad_event_named_by_its_number_is_buried_alone(tmp_path: Path, trust: str) -> None:
    with (
        HecEmulator() as hec,
        sending(tmp_path, [hec.url], hec.token, trust_prefix=trust, in_flight=1) as house,
    ):
        ids = house.put(logs=8)
        hec.script.extend([{"status": 400, "code": 6, "number": 3}, {"status": 400, "code": 6, "number": 0}])
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == [ids[3]]
        assert (house.dead()[0].status, house.dead()[0].code, house.dead()[0].text) == (400, 6, "Invalid data format")
        kept = set(ids[4:]) if trust == "splunk" else set(ids) - {ids[3]}
        assert hec.stored.keys() == kept, "a scripted refusal stores no prefix"
        assert house.books()["buried"] == 1


@pytest.mark.parametrize("number", [None, -1, 99, "3"], ids=["22 missing", "26 negative", "26 too large", "26 text"])
def test_without_a_usable_number_bisection_finds_the_one(tmp_path: Path, number: Any) -> None:
    """The emulator refuses whatever holds the event of topic `bad` (its index is not allowed), and hides the number."""
    routes = (RouteSettings(topic="bad", index="secret"),)
    token = Token(TOKEN, indexes=("main",))
    with (
        HecEmulator(tokens=[token]) as hec,
        sending(tmp_path, [hec.url], hec.token, routes=routes, on_incorrect_index="dead-letter") as house,
    ):
        house.put(logs=4)
        bad = house.put(topic="bad", logs=1)
        house.put(logs=3)
        hide = {"status": 400, "code": 6} | ({"number": number} if number is not None else {})
        hec.script.append(hide)
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == bad
        assert hec.stored.keys() == set(house.expected) - set(bad)


def test_23_a_wrong_index_is_counted_from_one_and_held(tmp_path: Path) -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        sending(tmp_path, [hec.url], hec.token, routes=routes) as house,
    ):
        bad = house.put(topic="bad", logs=2)
        good = house.put(logs=5)
        house.start()
        house.wait_empty("what may go has gone, the rest is parked")
        assert set(good) <= hec.stored.keys()
        assert {d.sls_id for d in house.dead()} == set(bad)
        assert {d.state for d in house.dead()} == {"parked"}
        poll(lambda: [h["name"] for h in house.holds()] == ["secret"], "the hold names the index", 20)
        hec.tokens = {TOKEN: Token(TOKEN, indexes=("main", "secret"))}
        poll(lambda: not house.dead(), "the hold has ended by itself and the parked are delivered", 60)
        house.assert_none_lost(hec.stored)
        assert max(hec.stored[i] for i in bad) == 1
        assert house.books()["delivered_later"] == 2


def are_dead(house: Sending, ids: list[str]) -> bool:
    return set(ids) <= {letter.sls_id for letter in house.dead()}


def test_parked_events_survive_kill_9_and_other_routes_flow(tmp_path: Path) -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        sending(tmp_path, [hec.url], hec.token, routes=routes) as house,
    ):
        house.start()
        for _ in range(3):
            bad = house.put(topic="bad", logs=20)
            good = house.put(logs=20)
            poll(partial(set(good).issubset, hec.stored), "the other route flows")
            poll(partial(are_dead, house, bad), "refused events are parked")
            house.kill()
            house.start()
        hec.tokens = {TOKEN: Token(TOKEN)}
        poll(lambda: not house.dead(), f"all parked are delivered: {house.holds()}", 60)
        house.wait_empty()
        house.assert_none_lost(hec.stored)


def test_fallback_index(tmp_path: Path) -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main", "last"))], knobs=Knobs(keep_envelopes=True)) as hec,
        sending(
            tmp_path, [hec.url], hec.token, routes=routes, on_incorrect_index="fallback", fallback_index="last"
        ) as house,
    ):
        house.put(topic="bad", logs=3)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert {e["index"] for e in hec.envelopes} == {"last"}


def test_24_a_cap_on_size_is_learned_and_nothing_is_buried(tmp_path: Path) -> None:
    knobs = Knobs(profile="cloud", cloud_cap=700_000)
    with HecEmulator(knobs=knobs) as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put(logs=1500, size=1000)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert not house.dead()


def test_37_413_splits_until_it_is_taken_and_is_remembered_over_a_restart(tmp_path: Path) -> None:
    with (
        HecEmulator(knobs=Knobs(max_content_length=100_000)) as hec,
        sending(tmp_path, [hec.url], hec.token) as house,
    ):
        house.put(logs=1000, size=500)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        house.stop()
        refused = sum(r.status == 413 for r in hec.requests)
        house.put(logs=1000, size=500)
        house.start()
        house.wait_empty()
        assert sum(r.status == 413 for r in hec.requests) == refused, "the size was remembered"
        house.assert_all_once(hec.stored)


def test_37_a_single_event_over_the_cap_is_buried_with_the_reason(tmp_path: Path) -> None:
    with (
        HecEmulator(knobs=Knobs(max_content_length=10_000)) as hec,
        sending(tmp_path, [hec.url], hec.token) as house,
    ):
        large = house.put(logs=1, size=50_000)
        small = house.put(logs=5)
        house.start()
        house.wait_empty()
        assert hec.stored.keys() == set(small)
        assert [d.sls_id for d in house.dead()] == large
        assert "too large" in house.dead()[0].text


def test_38_415_is_answered_by_sending_without_gzip(tmp_path: Path) -> None:
    with HecEmulator(knobs=Knobs(gzip=False)) as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert [r.status for r in hec.requests] == [415, 200]


def test_39_and_52_a_token_that_wants_acknowledgement_gets_it(tmp_path: Path) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec,
        sending(tmp_path, [hec.url], hec.token) as house,
    ):
        hec.knobs.ack_delay = 0.5
        house.put(logs=30)
        house.start()
        poll(lambda: hec.stored, "accepted")
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert any(r.path.endswith("/ack") and r.status == 200 for r in hec.requests)


def test_54_an_acknowledgement_that_never_comes_is_sent_again_and_never_counts_as_delivered(tmp_path: Path) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec,
        sending(tmp_path, [hec.url], hec.token, ack="required", ack_timeout=1.5) as house,
    ):
        hec.knobs.ack_delay = -1.0
        ids = house.put(logs=5)
        house.start()
        poll(lambda: hec.stored[ids[0]] >= 2, "sent again on a new channel", 30)
        assert house.waiting() == 1, "still on disk"
        assert len({r.channel for r in hec.requests if r.channel}) >= 2
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        house.assert_none_lost(hec.stored)


def test_65_un_acked_events_are_sent_again_after_a_kill(tmp_path: Path) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec,
        sending(tmp_path, [hec.url], hec.token, ack="required") as house,
    ):
        hec.knobs.ack_delay = -1.0
        house.put(logs=5)
        house.start()
        poll(lambda: hec.stored, "accepted, not acknowledged")
        house.kill()
        hec.knobs.ack_delay = 0.0
        house.start()
        house.wait_empty()
        assert set(hec.stored.values()) == {2}


def test_60_no_ack_id_although_required_is_not_delivered(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token, ack="required") as house:
        house.put()
        house.start()
        poll(house.holds, "it is held and said")
        assert house.waiting() == 1


def test_35_43_50_other_urls_take_over_and_come_back(tmp_path: Path) -> None:
    with HecEmulator() as one, HecEmulator() as two:
        urls = [one.url, "http://127.0.0.1:1", "http://no-such-host.invalid:8088", two.url]
        with sending(tmp_path, urls, TOKEN) as house:
            one.outage(True, status=404, code=404)
            house.start()
            for _ in range(20):
                house.put(logs=5)
            house.wait_empty()
            assert not one.stored
            house.assert_none_lost(two.stored)
            one.outage(False)
            poll(lambda: (house.put(), one.stored)[1], "the first is tried again and takes", 60, 0.1)
            house.wait_empty()
            house.assert_none_lost(one.stored + two.stored)


def test_32_a_new_token_in_the_file_is_used_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    with HecEmulator() as hec, sending(tmp_path, [hec.url], "", token_file=path) as house:
        house.put()
        house.start()
        poll(lambda: any(h["kind"] == "token" for h in house.holds()), "held")
        path.write_text(f"{hec.token}\n")
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: not house.holds(), "the hold has ended")


def test_73_routes_with_tokens_of_their_own_never_share_a_request(tmp_path: Path) -> None:
    other = "00000000-0000-4000-8000-000000000002"
    routes = (RouteSettings(topic="a", token=other, name="a"),)
    with (
        HecEmulator(tokens=[Token(TOKEN), Token(other)]) as hec,
        sending(tmp_path, [hec.url], hec.token, routes=routes) as house,
    ):
        for topic in "abab":
            house.put(topic=topic)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert {r.token for r in hec.requests} == {TOKEN, other}


def test_a_route_whose_token_is_refused_is_parked_and_the_others_flow(tmp_path: Path) -> None:
    other = "00000000-0000-4000-8000-000000000002"
    routes = (RouteSettings(topic="a", token=other, name="a"),)
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token, routes=routes) as house:
        parked, flows = house.put(topic="a"), house.put(topic="b")
        house.start()
        house.wait_empty()
        assert hec.stored.keys() == set(flows)
        assert {d.sls_id for d in house.dead()} == set(parked)
        hec.tokens[other] = Token(other)
        poll(lambda: not house.dead(), "delivered when the token works", 60)
        house.assert_all_once(hec.stored)


def test_27_a_storm_of_refusals_is_a_hold_of_the_route_and_not_a_flood_of_dead_letters(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        hec.outage(True, status=400, code=12, number=0)
        house.put(logs=300)
        house.start()
        house.wait_empty()
        states = [d.state for d in house.dead()]
        assert states.count("dead") < 110
        assert states.count("parked") > 180
        hec.outage(False)
        poll(lambda: all(d.state == "dead" for d in house.dead()), "the parked are delivered", 60)
        dead_replay(house.settings.spool, None)
        poll(lambda: not house.dead(), "the dead are replayed", 60)
        house.assert_none_lost(hec.stored)


def test_a_dropped_route_is_counted_as_filtered(tmp_path: Path) -> None:
    routes = (RouteSettings(topic="noise", drop=True, name="noise"),)
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token, routes=routes) as house:
        house.put(topic="noise", logs=7)
        kept = house.put(logs=3)
        house.start()
        house.wait_empty()
        assert hec.stored.keys() == set(kept)
        books = house.books()
        assert (books["decoded"], books["filtered"], books["delivered"]) == (10, 7, 3)


def test_a_body_that_cannot_be_decoded_is_set_aside_whole_and_the_lane_goes_on(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put(spoil=True)
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert list((house.lane / "damaged").glob("*.val"))
        books = house.books()
        assert books["set_aside"] == 1
        assert books["put"] == books["settled"] + books["waiting"] + books["set_aside"]


def test_51_splunk_down_at_the_start_is_no_failure_and_a_kill_repeats_little(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        hec.outage(True)
        house.start()
        for _ in range(50):
            house.put(logs=20)
        poll(house.holds, "held and said")
        house.kill()
        house.start()
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_49_a_certificate_that_is_not_trusted_is_a_hold_and_with_its_ca_it_works(tmp_path: Path) -> None:
    with HecEmulator(tls=True) as hec:
        with sending(tmp_path / "a", [hec.url], hec.token) as house:
            house.put()
            house.start()
            poll(lambda: any("certificate" in h["hint"] for h in house.holds()), f"held: {house.holds()}")
            assert not hec.stored
        with sending(tmp_path / "b", [hec.url], hec.token, ca_file=Path(hec.ca_file)) as house:
            house.put()
            house.start()
            house.wait_empty()
            house.assert_all_once(hec.stored)
