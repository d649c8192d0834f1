"""Cases 10 to 41 of facts/hec.md 6A that the table's rows (test_table.py) do not tell whole: overload, isolation, tokens.

A real sender before the emulator, which is the witness of what arrived, when, and how often.
"""

from __future__ import annotations

import email.utils
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from buffer.operate import dead_replay
from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import quick
from worker.settings import RouteSettings

OTHER = "00000000-0000-4000-8000-000000000002"


def test_6a_10_busy_then_success_sends_the_same_once_more_in_order() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=1, max_request_bytes=4096) as house:
        hec.script.extend([{"status": 503, "code": 9}] * 2)
        for _ in range(5):
            house.put(logs=10)
        house.start()
        house.wait_empty()
        assert list(hec.stored) == house.expected, "in the order in which they were put"
        house.assert_all_once(hec.stored)


@pytest.mark.parametrize("trust", ["none", "splunk"])
def test_6a_16_busy_with_a_number_sends_all_again_whatever_is_trusted(trust: str) -> None:
    """That the prefix was taken is inferred, not measured: only a refusal of an event tells it."""
    with HecEmulator() as hec, quick([hec.url], hec.token, trust_prefix=trust) as house:
        hec.script.append({"status": 503, "code": 9, "number": 10})
        house.put(logs=20)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert [r.events for r in hec.posts()] == [0, 20]
        house.stop()
        assert house.metric("hec_possible_duplicates_total") == 20


def gaps(hec: HecEmulator) -> list[float]:
    times = [r.time for r in hec.posts()]
    return [after - before for before, after in itertools.pairwise(times)]


def test_6a_11_6a_18_while_it_is_busy_it_is_tried_now_and_then_even_if_health_says_well() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.rules.append({"status": 503, "code": 9, "count": 6})
        for _ in range(10):
            house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        refused = [r for r in hec.posts() if r.status == 503]
        assert len(refused) == 6
        alone = gaps(hec)[4:6]
        assert min(alone) >= 0.2, "at most one at a time, with a pause between, once the trouble is known"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_6a_12_retry_after_is_heeded_in_both_forms(form: str) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        until = int(time.time()) + 3
        value = "2" if form == "seconds" else email.utils.formatdate(until, usegmt=True)
        hec.script.append({"status": 503, "code": 9, "headers": {"Retry-After": value}})
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        if form == "seconds":
            assert gaps(hec)[0] >= 1.9
        else:
            assert hec.posts()[1].time >= until - 0.1


@pytest.mark.parametrize("value", ["-5", "soon", "1e9", "", "Mon, 01 Jan 1990 00:00:00 GMT"])
def test_6a_12_a_retry_after_that_makes_no_sense_is_as_none(value: str) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.script.append({"status": 503, "code": 9, "headers": {"Retry-After": value}})
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_6a_17_shutting_down_then_refused_then_back_loses_nothing_and_does_not_hammer() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.outage(True, status=503, code=23)
        house.put()
        house.start()
        poll(hec.posts, "told that it shuts down")
        hec.server.stop()
        poll(lambda: house.metric("hec_requests_total", status="connect") >= 3, "refused")
        hec.outage(False)
        hec.server.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert house.metric("hec_requests_total", status="connect") < 12


def test_6a_19_well_ill_well_stops_and_goes_on_without_anybody() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.start()
        for code in (18, 19, 20):
            house.put()
            house.wait_empty()
            hec.outage(True, status=503, code=code)
            house.put()
            poll(house.holds, "held")
            hec.outage(False)
            house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: not house.holds(), "nothing is held")


@pytest.mark.parametrize(("number", "trust"), [(1, "splunk"), (1, "none"), (0, "splunk"), (0, "none")],
                         ids=["6A 20 trusted", "6A 20", "6A 21 trusted", "6A 21"])  # fmt: skip
def test_of_three_the_named_one_is_buried_and_the_others_delivered(number: int, trust: str) -> None:
    """The emulator refuses as Splunk does: it has indexed what stood in front."""
    with HecEmulator() as hec, quick([hec.url], hec.token, trust_prefix=trust, in_flight=1) as house:
        ids = house.put(logs=3)
        hec.rules.append({"status": 400, "code": 6, "number": number, "contains": ids[number], "count": 1})
        hec.rules.append({"status": 400, "code": 6, "number": 0, "contains": ids[number]})
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == [ids[number]]
        kept = ids[number + 1 :] if trust == "splunk" else [i for i in ids if i != ids[number]]
        assert set(hec.stored) == set(kept), (
            "this rule stored no prefix, so a trusted one is lost: that is what trust means"
        )


def test_6a_20_a_prefix_that_splunk_took_is_not_sent_again_where_it_is_trusted() -> None:
    """The emulator's own rules: index `secret` is not allowed, and what stands in front is indexed."""
    routes = (RouteSettings(topic="bad", index="secret"),)
    for trust, repeated in (("splunk", 0), ("none", 4)):
        with (
            HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
            quick([hec.url], hec.token, routes=routes, trust_prefix=trust, in_flight=1,
                  on_incorrect_index="dead-letter") as house,
        ):  # fmt: skip
            house.put(logs=4)
            bad = house.put("bad", logs=1)
            house.put(logs=3)
            house.start()
            house.wait_empty()
            assert [d.sls_id for d in house.dead()] == bad
            assert set(hec.stored) == set(house.expected) - set(bad)
            assert sum(n - 1 for n in hec.stored.values()) == repeated
            twice = {i for i, n in hec.stored.items() if n > 1}
            poll(lambda h=hec, t=twice: t <= h.unsure, "it is noted once the answer is away")  # type: ignore[misc]


@pytest.mark.parametrize("profile", ["enterprise", "lookalike"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_6a_23_a_wrong_index_is_counted_from_one_and_held_until_it_is_allowed(place: int, profile: str) -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))], knobs=Knobs(profile=profile)) as hec,
        quick([hec.url], hec.token, routes=routes) as house,
    ):
        for topic in ["bad" if at == place else "t" for at in range(5)]:
            house.put(topic, logs=2)
        house.start()
        house.wait_empty("what may go has gone, the rest is parked")
        parked = {d.sls_id for d in house.dead()}
        assert len(parked) == 2
        assert {d.state for d in house.dead()} == {"parked"}
        assert set(hec.stored) == set(house.expected) - parked
        poll(
            lambda: [(h["kind"], h["name"]) for h in house.holds()] == [("index", "secret")], "the hold names the index"
        )
        hec.tokens = {TOKEN: Token(TOKEN, indexes=("main", "secret"))}
        poll(lambda: not house.dead(), "the hold has ended by itself and the parked are delivered")
        house.assert_none_lost(hec.stored)
        assert all(hec.stored[one] == 1 for one in parked)
        house.assert_books(buried=2, delivered=8, delivered_later=2)


def test_6a_24_a_cap_on_size_is_learned_and_nothing_is_buried() -> None:
    with (
        HecEmulator(knobs=Knobs(profile="cloud", cloud_cap=700_000)) as hec,
        quick([hec.url], hec.token, in_flight=1) as house,
    ):
        house.put(logs=1500, size=1000)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert not house.dead()
        assert house.sender
        assert house.sender.delivery.endpoints[0].max_bytes <= 1_100_000


def test_6a_24_an_event_that_is_really_bad_at_the_head_of_a_large_request_teaches_no_cap() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=1) as house:
        ids = house.put(logs=1500, size=1000)
        hec.rules.append({"status": 400, "code": 6, "number": 0, "contains": f'{ids[0]}"'})
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == [ids[0]]
        assert set(hec.stored) == set(ids[1:])
        assert house.sender
        assert house.sender.delivery.endpoints[0].max_bytes == house.settings.hec.max_request_bytes


def test_6a_27_a_hundred_refusals_of_an_index_are_one_hold_and_no_dead_letter() -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        quick([hec.url], hec.token, routes=routes) as house,
    ):
        house.put("bad", logs=1000)
        house.start()
        house.wait_empty()
        assert {d.state for d in house.dead()} == {"parked"}
        assert len(house.dead()) == 1000
        assert len([r for r in hec.posts() if r.bytes > 1000]) < 6, "one refusal is enough to know; the rest are probes"


@pytest.mark.parametrize("code", [12, 6])
def test_6a_27_a_storm_of_refusals_is_a_hold_of_the_route_and_not_a_flood_of_dead_letters(code: int) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.outage(True, status=400, code=code, number=0)
        house.put(logs=300)
        house.start()
        house.wait_empty()
        states = [d.state for d in house.dead()]
        assert 90 < states.count("dead") < 110
        assert states.count("parked") > 180
        hec.outage(False)
        poll(lambda: all(d.state == "dead" for d in house.dead()), "the parked are delivered")
        dead_replay(house.settings.spool, None)
        poll(lambda: not house.dead(), "the dead are replayed")
        house.assert_none_lost(hec.stored)


def test_6a_28_of_a_request_that_was_split_only_what_was_refused_is_kept() -> None:
    with HecEmulator(knobs=Knobs(max_content_length=5000)) as hec, quick([hec.url], hec.token, in_flight=1) as house:
        ids = house.put(logs=10, size=700)
        hec.rules.append({"status": 400, "code": 13, "number": 0, "contains": f'{ids[7]}"'})
        house.start()
        house.wait_empty()
        assert [d.sls_id for d in house.dead()] == [ids[7]]
        assert set(hec.stored) == set(ids) - {ids[7]}
        assert max(hec.stored.values()) == 1


def test_6a_29_the_dead_letter_says_what_splunk_said() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        said = '{"text":"Error in handling indexed fields","code":15,"invalid-event-number":0}'
        hec.script.append({"status": 400, "body": said})
        house.put(logs=1)
        house.start()
        house.wait_empty()
        (letter,) = house.dead()
        assert (letter.status, letter.code, letter.text) == (400, 15, "Error in handling indexed fields")


@pytest.mark.parametrize("code", [1, 4])
def test_6a_30_a_token_that_is_refused_for_a_while_costs_nothing(code: int) -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        right = hec.tokens
        hec.tokens = {TOKEN: Token(TOKEN, disabled=True)} if code == 1 else {}
        for _ in range(5):
            house.put()
        house.start()
        poll(lambda: [h["kind"] for h in house.holds()] == ["token"], "held")
        hec.tokens = right
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: not house.holds(), "the hold has ended")


def test_6a_32_tokens_rotate_in_the_file_without_a_restart_and_without_a_pause(tmp_path: Path) -> None:
    """Overlap: one indexer knows the new one before the other; each is asked with what it takes, and nothing is held."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with HecEmulator() as one, HecEmulator() as two, quick([one.url, two.url], "", token_file=path) as house:
        house.start()

        def taken(hec: HecEmulator, after: int) -> list[str]:
            # Whoever is asked with the old token just as it goes refuses once; then the next post shows nothing yet.
            return [post.token for post in hec.posts()[after:] if post.status == 200]

        def both_take() -> bool:
            house.put(logs=2)
            return bool(taken(one, before_one) and taken(two, before_two))

        for step in range(4):
            if step == 1:
                one.tokens = {OTHER: Token(OTHER)}
                path.write_text(f"{OTHER}\n{TOKEN}\n")
            if step == 2:
                two.tokens = {TOKEN: Token(TOKEN), OTHER: Token(OTHER)}
            if step == 3:
                two.tokens = {OTHER: Token(OTHER)}
                path.write_text(OTHER)
            before_one, before_two = len(one.posts()), len(two.posts())
            poll(both_take, "both take", every=0.1)
            house.wait_empty()
            assert not [h for h in house.holds() if h["kind"] == "token"], step
        house.assert_none_lost(one.stored + two.stored)
        assert set(taken(one, before_one) + taken(two, before_two)) == {OTHER}


def test_6a_32_that_a_routes_own_token_is_taken_says_nothing_of_the_default_one(tmp_path: Path) -> None:
    """Both of the file are refused, and an event of the route is taken in between: then it waits, and asks no third time."""
    path = tmp_path / "token"
    path.write_text("new\nold\n")
    routes = (RouteSettings(topic="own", token=OTHER, name="own"),)
    options: dict[str, Any] = {"token_file": path, "routes": routes, "in_flight": 2}
    with HecEmulator(tokens=[Token(OTHER)]) as hec, quick([hec.url], "", **options) as house:
        taken, refused = threading.Event(), threading.Event()
        hec.rules.append({"contains": "first", "status": 403, "code": 4, "count": 1})
        hec.rules.append({"contains": "first", "status": 403, "code": 4, "count": 1, "gate": refused})
        hec.rules.append({"contains": "own", "after": True, "count": 1, "gate": taken})
        house.put_mixed([("t", [{"n": "first"}]), ("own", [{"n": "own"}])])
        house.start()
        poll(
            lambda: not any(rule["count"] for rule in hec.rules),
            "the second token is asked with, and the route's is out",
        )
        taken.set()
        poll(lambda: house.metric("hec_requests_total", status="200") == 1, "the route's was taken")
        refused.set()
        poll(house.holds, "held")
        assert house.metric("hec_requests_total", status="403") == 2


def test_6a_32_a_held_token_is_mended_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    with HecEmulator() as hec, quick([hec.url], "", token_file=path) as house:
        house.put()
        house.start()
        poll(lambda: any(h["kind"] == "token" for h in house.holds()), "held")
        path.write_text("")
        path.unlink()
        path.write_text(f"{hec.token}\n")
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: not house.holds(), "the hold has ended")


@pytest.mark.parametrize("junk", [b"", b"\xff\xfet\x00o\x00k\x00e\x00n\x00"], ids=["nothing", "no UTF-8"])
def test_a_token_file_that_holds_no_token_changes_nothing(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    with HecEmulator() as hec, quick([hec.url], "", token_file=path) as house:
        house.put()
        house.start()
        house.wait_empty()
        path.write_bytes(junk)
        house.put()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert {r.token for r in hec.posts()} == {TOKEN}


CUT = '{"text":"cut in the midst of \\ud83d","code":%s}'


@pytest.mark.parametrize(
    ("answer", "letters"),
    [({"status": 503, "body": CUT % 9, "headers": {"Retry-After": "2"}}, 0), ({"status": 400, "body": CUT % 6}, 1),
     ({"status": 200, "body": '{"text":"Success","code":0,"ackId":99999999999999999999999}'}, 0)],
    ids=["half a surrogate in a hold", "half a surrogate in a dead letter", "an ackId of more than 64 bits"],
)  # fmt: skip
def test_what_utf_8_or_a_number_of_64_bits_cannot_hold_ends_no_sender(answer: dict[str, Any], letters: int) -> None:
    options: dict[str, Any] = {"ack": "required", "ack_timeout": 2.0}
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token, **options) as house:
        hec.script.append(answer)
        house.put(logs=1)
        house.start()
        house.wait_empty()
        assert len(house.dead()) == letters
        assert sum(hec.stored.values()) == 1 - letters


def test_a_code_that_is_none_of_splunks_ends_no_sender() -> None:
    """Something on the way has its own; a number of 64 bits is all that the index holds."""
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.rules.append({"contains": "evil", "status": 403, "body": '{"text":"no","code":99999999999999999999}'})
        (bad,) = house.put_mixed([("t", [{"n": "evil"}])])
        house.start()
        poll(lambda: house.put(logs=1) and (house.dead() or house.defect), "parked, as others pass", every=0.2)
        house.wait_empty()
        assert [(letter.sls_id, letter.status, letter.code) for letter in house.dead()] == [(bad, 403, -1)]


def test_6a_33_6a_34_404_of_all_is_held_and_ends_by_itself() -> None:
    with HecEmulator() as one, HecEmulator() as two, quick([one.url, two.url], TOKEN) as house:
        one.knobs.detention = two.knobs.detention = True
        house.put()
        house.start()
        poll(lambda: {h["name"] for h in house.holds()} == {one.url, two.url}, "both are held")
        assert all("detention" in h["hint"] for h in house.holds())
        one.knobs.detention = two.knobs.detention = False
        house.wait_empty()
        house.assert_all_once(one.stored + two.stored)


def test_6a_35_404_of_one_moves_the_traffic_and_it_comes_back() -> None:
    with HecEmulator() as one, HecEmulator() as two, quick([one.url, two.url], TOKEN) as house:
        one.knobs.detention = True
        house.start()
        for _ in range(20):
            house.put(logs=5)
        house.wait_empty()
        assert not one.stored
        one.knobs.detention = False
        poll(lambda: (house.put(), one.stored)[1], "the first is tried again and takes", 60, 0.1)
        house.wait_empty()
        house.assert_all_once(one.stored + two.stored)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_6a_36_a_redirect_is_not_followed_and_its_target_sees_no_token(status: int) -> None:
    with HecEmulator() as elsewhere, HecEmulator() as hec, quick([hec.url], hec.token) as house:
        target = f"{elsewhere.url}/services/collector/event"
        hec.outage(True, status=status, body="", headers={"Location": target})
        house.put()
        house.start()
        poll(lambda: any(target in h["error"] for h in house.holds()), "held, with where it points")
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert not elsewhere.requests


def test_6a_37_the_learned_size_is_remembered_over_a_restart() -> None:
    with HecEmulator(knobs=Knobs(max_content_length=100_000)) as hec, quick([hec.url], hec.token) as house:
        house.put(logs=1000, size=500)
        house.start()
        house.wait_empty()
        poll(lambda: house.remembers(f"max_bytes {hec.url}"), "written down")
        house.stop()
        refused = hec.answers["413/-1"]
        house.put(logs=1000, size=500)
        house.start()
        house.wait_empty()
        assert hec.answers["413/-1"] == refused, "the size was remembered"
        house.assert_all_once(hec.stored)


def test_6a_37_a_large_event_goes_where_it_fits() -> None:
    with (
        HecEmulator(knobs=Knobs(max_content_length=10_000)) as small,
        HecEmulator() as roomy,
        quick([small.url, roomy.url], TOKEN) as house,
    ):
        house.start()
        for _ in range(6):
            house.put(logs=1, size=50_000)
            house.put(logs=3)
            house.wait_empty()
        assert not house.dead()
        assert small.stored
        house.assert_all_once(small.stored + roomy.stored)


@pytest.mark.parametrize("answer", [{"status": 200, "body": '{"text":"Success","code":0,"ackId":"7"}'},
                                    {"status": 200, "body": '{"text":"Success","code":0,"ackID":7}'}],
                         ids=["6A 61 text", "6A 61 ackID"])  # fmt: skip
def test_an_ack_id_may_be_text_or_written_otherwise(answer: dict[str, Any]) -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec, quick([hec.url], hec.token, ack="required") as house:
        hec.script.append(answer)
        hec.ack_script.append({"status": 200, "body": '{"acks":{"7":true}}'})
        house.put()
        house.start()
        house.wait_empty()
        assert house.books()["delivered"] == 10
