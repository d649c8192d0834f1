"""Indexer acknowledgement: cases 52 to 67 of facts/hec.md 6A and rows 03, 14, 53 to 60 of its table.

The emulator is the witness: what each indexer took, whose ackId it said true of, what a crash made it lose.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import Sending, quick
from worker.settings import RouteSettings

ACKING = Token(TOKEN, ack=True)
OTHER = "00000000-0000-4000-8000-000000000002"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked more often than Splunk should be."""
    monkeypatch.setattr("worker.acks.FIRST_POLL", 0.2)


def splunk(**knobs: Any) -> HecEmulator:
    indexers = knobs.pop("indexers", 1)
    return HecEmulator(tokens=[ACKING], indexers=indexers, knobs=Knobs(**knobs))


def polls(hec: HecEmulator) -> int:
    return sum(r.path.endswith("/ack") for r in list(hec.requests))


def test_6a_52_nothing_is_done_before_the_acknowledgement_is_seen() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required") as house:
        house.put(logs=30)
        house.start()
        poll(lambda: polls(hec) >= 2, "asked twice")
        assert house.waiting() == 1
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: hec.acked == set(hec.stored), "it is noted once the answer is away")


def test_row_53_6a_53_false_within_the_time_is_asked_again_and_not_sent_again() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", ack_timeout=60) as house:
        house.put()
        house.start()
        poll(lambda: polls(hec) >= 3, "asked again and again")
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len(hec.posts()) == 1


def test_row_54_6a_54_late_is_sent_again_on_a_new_channel_and_never_delivered() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", ack_timeout=1.0) as house:
        house.put(logs=5)
        house.start()
        poll(lambda: len(hec.posts()) >= 2, "sent again")
        assert house.waiting() == 1, "still on disk"
        first, second = [r.channel for r in hec.posts()][:2]
        assert first != second
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        house.assert_none_lost(hec.stored)
        house.stop()
        assert house.metric("hec_possible_duplicates_total") == 5 * (len(hec.posts()) - 1)


def test_row_54_a_late_true_cancels_what_was_not_sent_again_yet() -> None:
    """The endpoint is busy when the time is over: the old id is still asked for, and its true is enough."""
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", ack_timeout=6.0) as house:
        ids = house.put(logs=5)
        house.start()
        poll(lambda: hec.stored, "taken")
        hec.outage(True)
        poll(lambda: hec.answers["503/9"], "it is to be sent again")
        hec.acknowledge()
        house.wait_empty()
        assert hec.stored == dict.fromkeys(ids, 1)


def test_row_54_what_a_late_true_has_settled_no_other_answer_settles_again() -> None:
    """The second try of the first event is out, as the probe of a busy endpoint, when the true for the first try comes, and
    is then refused: an event that Splunk has is no dead letter, its batch waits for the other event, and that one is the
    next probe."""
    options: dict[str, Any] = {"ack": "required", "ack_timeout": 6.0, "max_request_bytes": 16 << 10}
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, **options) as house:
        first, second = house.put(logs=2, size=10_000)
        house.start()
        poll(lambda: len(hec.stored) == 2, "both are taken, in a request each")
        gate = threading.Event()
        hec.script.extend([{"status": 503, "code": 9}, {"gate": gate, "status": 400, "code": 6, "number": 0}])
        poll(lambda: not hec.script, "the first is sent again")
        (channel,) = (one for indexer in hec.indexers for one in indexer.channels.values() if one.pending)
        channel.pending[0].ready = 0.0
        poll(lambda: hec.acked == {first}, "a late true")
        asked = polls(hec)
        poll(lambda: polls(hec) > asked, "it was read: the next poll is out")
        hec.knobs.ack_delay = 0.0
        gate.set()
        house.wait_empty()
        assert not house.dead()
        assert hec.stored == {first: 1, second: 2}
        poll(lambda: hec.acked == {first, second}, "it is noted once the answer is away")
        house.assert_books(decoded=2, delivered=2, buried=0)


def test_row_54_after_two_more_the_endpoint_is_held_and_an_acknowledgement_ends_it() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", ack_timeout=0.3) as house:
        house.put(logs=2)
        house.start()
        poll(lambda: any("sticky" in h["hint"] for h in house.holds()), "held")
        (hold,) = house.holds()
        assert sum(r.time < hold["since"] for r in hec.posts()) == 3, "sent, and twice again"
        for _ in range(10):
            house.put(logs=2)
        before = len(hec.stored)
        poll(lambda: polls(hec) > 12, "time goes by")
        assert len(hec.stored) <= before + 2, "one at a time goes there, to see"
        assert any("sticky" in h["hint"] for h in house.holds()), "an acceptance does not end it"
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        house.assert_none_lost(hec.stored)
        poll(lambda: not house.holds(), "the hold has ended")


def test_row_55_6a_55_a_true_for_an_id_that_was_never_ours_confirms_nothing() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required") as house:
        house.put()
        house.start()
        poll(lambda: hec.stored, "taken")
        hec.ack_script.extend([{"status": 200, "body": '{"acks":{"2":true,"99":true,"x":true}}'}] * 2)
        poll(lambda: polls(hec) >= 3, "asked")
        assert house.waiting() == 1


def test_row_56_6a_56_an_id_twice_is_another_server_and_all_is_sent_again_on_a_new_channel() -> None:
    """A crash in between: what was not acknowledged is gone from Splunk, and ids begin at 0 again."""
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", in_flight=1) as house:
        house.start()
        for number in range(1, 4):
            house.put(logs=3)
            poll(lambda n=number: len(hec.posts()) == n, "taken, and it has an id")  # type: ignore[misc]
        hec.crash(lose_unacked=True)
        assert not hec.stored
        hec.knobs.ack_delay = 0.0
        house.put(logs=3)
        house.wait_empty()
        house.assert_none_lost(hec.stored)
        assert len({r.channel for r in hec.posts()}) == 2


def test_row_57_6a_57_a_session_that_moves_takes_a_new_channel_and_sends_again() -> None:
    with splunk(sticky=True, indexers=4, ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required") as house:
        house.start()
        house.put(logs=3)
        poll(lambda: len(hec.stored) == 3, "taken")
        hec.knobs.session += 1
        hec.acknowledge()
        house.put(logs=3)
        house.wait_empty()
        house.assert_none_lost(hec.stored)
        assert len({r.channel for r in hec.posts()}) >= 2
        assert {i for i, n in hec.stored.items() if n > 1}, "what was un-acked went again"


def test_row_57_a_new_channel_takes_one_request_until_an_answer_tells_which_session_it_is() -> None:
    """Several at once would each be led to an indexer of their own, and all but one be sent again."""
    options: dict[str, Any] = {"ack": "required", "max_request_bytes": 16 << 10, "in_flight": 4}
    with splunk(sticky=True, indexers=4, delay=0.2) as hec, quick([hec.url], hec.token, **options) as house:
        house.put(logs=12, size=10_000)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len(hec.posts()) == 12
        assert len({(r.channel, r.indexer) for r in hec.posts()}) == 1


@pytest.mark.parametrize("cookie", ["idx=0.1; Path=/", "other=1; Path=/; HttpOnly", 'lb="a\\073b@c"; Path=/'])
def test_row_57_6a_58_the_same_cookie_again_or_another_one_moves_nothing(cookie: str) -> None:
    with splunk() as hec, quick([hec.url], hec.token, ack="required") as house:
        hec.rules.append({"status": 200, "code": 0, "headers": {"Set-Cookie": cookie}, "count": 0})
        house.start()
        for number in range(4):
            body = f'{{"text":"Success","code":0,"ackId":{number}}}'
            hec.script.append({"status": 200, "body": body, "headers": {"Set-Cookie": cookie}})
            hec.ack_script.extend([{"status": 200, "body": f'{{"acks":{{"{number}":true}}}}'}])
            house.put(logs=1)
            house.wait_empty()
        assert len({r.channel for r in hec.posts()}) == 1
        assert hec.posts()[-1].headers["cookie"] == cookie.partition(";")[0]


def test_row_57_a_cookie_that_is_written_anew_each_time_is_no_session() -> None:
    """As some balancers do. It costs a few duplicates, and not one for ever."""
    with (
        splunk(sticky=True, cookie_each=True, indexers=4) as hec,
        quick([hec.url], hec.token, ack="required") as house,
    ):
        house.start()
        for _ in range(8):
            house.put(logs=1)
            house.wait_empty()
        house.assert_none_lost(hec.stored)
        assert sum(n - 1 for n in hec.stored.values()) <= 8
        assert {r.indexer for r in hec.posts()[-5:]} == {hec.posts()[-1].indexer}, (
            "it leads to the same indexer all the same"
        )


@pytest.mark.parametrize(
    "answer",
    [{"status": 503, "code": 9}, {"status": 504, "body": "<html>"}, {"status": 404, "code": 404},
     {"status": 200, "body": "<html>"}, {"status": 200, "body": "true"}, {"status": 200, "body": '{"acks":[true]}'},
     {"status": 200, "body": '{"acks":{"0":1,"1":"true"}}'}, {"drop": True}],
    ids="row 58, 6A 59, {}".format,
)  # fmt: skip
def test_a_poll_that_is_answered_badly_says_nothing(answer: dict[str, Any]) -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required") as house:
        hec.ack_script.extend([answer, answer])
        house.put()
        house.start()
        poll(lambda: polls(hec) >= 3, "both were read: the next poll is out")
        assert house.waiting() == 1
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_59_6a_63_empty_answers_end_in_sending_again() -> None:
    with splunk() as hec, quick([hec.url], hec.token, ack="required", ack_timeout=1.5) as house:
        hec.ack_script.extend([{"status": 200, "body": '{"acks":{}}'}] * 2)
        house.put()
        house.start()
        house.wait_empty()
        house.assert_none_lost(hec.stored)


@pytest.mark.parametrize("ack", ["required", "auto"])
def test_row_03_6a_60_an_acceptance_without_an_id(ack: str) -> None:
    """The token lost useACK: with `required` a hold; with `auto` an acceptance is what it is for any other token."""
    with splunk() as hec, quick([hec.url], hec.token, ack=ack) as house:
        house.put()
        house.start()
        house.wait_empty()
        hec.tokens = {TOKEN: Token(TOKEN)}
        house.put()
        if ack == "auto":
            house.wait_empty()
            house.assert_all_once(hec.stored)
            return
        poll(lambda: any("useACK" in h["hint"] or "hec.ack" in h["hint"] for h in house.holds()), "held")
        assert house.waiting() == 1
        hec.tokens = {TOKEN: ACKING}
        house.wait_empty()
        house.assert_none_lost(hec.stored)


@pytest.mark.parametrize("ack", ["required", "auto"])
def test_row_14_a_token_that_acknowledges_no_more_loses_nothing(ack: str) -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack=ack) as house:
        house.put()
        house.start()
        poll(lambda: hec.stored, "taken, and not acknowledged")
        hec.tokens = {TOKEN: Token(TOKEN)}
        poll(lambda: hec.answers["400/14"], "told that there is no acknowledgement")
        if ack == "required":
            poll(house.holds, "held")
            assert house.waiting() == 1
            hec.tokens, hec.knobs.ack_delay = {TOKEN: ACKING}, 0.0
        house.wait_empty()
        house.assert_none_lost(hec.stored)


def test_6a_62_batches_are_done_in_whatever_order_they_are_acknowledged() -> None:
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, ack="required", in_flight=1) as house:
        house.start()
        house.put(logs=2)
        poll(hec.pending, "the first is taken, and waits")
        hec.knobs.ack_delay = 0.0
        house.put(logs=2)
        poll(lambda: house.books()["settled"] == 1, "the second is done first")
        assert house.waiting() == 1
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_6a_64_at_the_limit_of_what_is_not_acknowledged_no_more_is_sent() -> None:
    limit = 64 << 10
    with splunk(ack_delay=-1) as hec:
        options: dict[str, Any] = {"ack": "required", "max_unacked_bytes": limit, "max_request_bytes": 16 << 10}
        with quick([hec.url], hec.token, **options) as house:
            for _ in range(40):
                house.put(logs=20, size=500)
            house.start()

            def sent() -> int:
                return sum(r.bytes for r in hec.posts())

            poll(lambda: limit <= sent() + (16 << 10), "the limit is reached")
            asked = polls(hec)
            poll(lambda: polls(hec) > asked + 2, "it waits")
            assert sent() <= limit + 4 * (16 << 10), "no more than what was in flight when it was reached"
            hec.acknowledge()
            house.wait_empty()
            house.assert_all_once(hec.stored)


def test_6a_64_a_full_window_and_a_busy_endpoint_are_waited_for_at_rest() -> None:
    """What was refused may go again by the clock, and not by the window."""
    options: dict[str, Any] = {"ack": "required", "max_request_bytes": 4096, "max_unacked_bytes": 5000}
    with splunk(ack_delay=-1) as hec, quick([hec.url], hec.token, **options) as house:
        house.start()
        house.put(logs=1)
        poll(lambda: hec.stored, "the session is known")
        gate = threading.Event()
        hec.rules.append({"contains": "second", "gate": gate, "status": 503, "code": 9, "count": 1})
        house.put_mixed([("t", [{"n": "first" + "x" * 5000}]), ("t", [{"n": "second" + "x" * 3000}])])
        poll(lambda: house.gauge("hec_unacked_bytes") > 5000, "the window is full while the other is out")
        gate.set()
        poll(house.holds, "busy")
        assert house.turns_a_second() < 100
        hec.knobs.ack_delay = 0.0
        for indexer in hec.indexers:
            indexer.settle()
        house.wait_empty()
        house.assert_none_lost(hec.stored)


def test_6a_66_a_stop_waits_a_little_for_acknowledgements_and_leaves_the_rest_in_the_spool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.sender.STOP_GRACE", 25.0)
    with splunk(ack_delay=2.0) as hec, quick([hec.url], hec.token, ack="required") as house:
        house.put()
        house.start()
        poll(lambda: hec.stored, "taken")
        assert house.stop() == 0
        assert house.waiting() == 0, "it came in time"
        monkeypatch.setattr("worker.sender.STOP_GRACE", 1.0)
        hec.knobs.ack_delay = -1
        house.put()
        house.start()
        poll(lambda: len(hec.stored) == 20, "taken")
        assert house.stop() == 0
        assert house.waiting() == 1


def test_6a_67_an_old_channel_is_replaced_and_still_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.acks.OLDEST_CHANNEL", 0.5)
    with splunk(ack_delay=1.5) as hec, quick([hec.url], hec.token, ack="required") as house:
        house.start()
        house.put(logs=1)
        poll(hec.posts, "taken")
        poll(lambda: time.time() - hec.posts()[-1].time > 0.6, "its channel is old")
        house.put(logs=1)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert len({r.channel for r in hec.posts()}) == 2
        assert all(uuid.UUID(r.channel) for r in hec.posts())


def test_tokens_with_and_without_acknowledgement_share_no_channel() -> None:
    routes = (RouteSettings(topic="a", token=OTHER, name="a"), RouteSettings(topic="b", token="third", name="b"))
    tokens = [ACKING, Token(OTHER, ack=True), Token("third")]
    with HecEmulator(tokens=tokens) as hec, quick([hec.url], hec.token, routes=routes) as house:
        house.start()
        for _ in range(3):
            for topic in "abc":
                house.put(topic, logs=2)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        channels = {
            token: {r.channel for r in hec.posts() if r.token == token and r.status == 200} for token in hec.tokens
        }
        assert channels["third"] == {""}
        assert len(channels[TOKEN]) == len(channels[OTHER]) == 1
        assert channels[TOKEN] != channels[OTHER]


@pytest.mark.parametrize("sticky", [True, False])
def test_several_indexers_behind_one_address(sticky: bool) -> None:
    """With sticky sessions all is acknowledged. Without, what is not confirmed is never counted as delivered: it is sent
    again, and in the end the address is held, with the reason."""
    with (
        splunk(sticky=sticky, indexers=4) as hec,
        quick([hec.url], hec.token, ack="required", ack_timeout=60.0 if sticky else 1.0) as house,
    ):
        house.start()
        for _ in range(12):
            house.put(logs=2)
        if sticky:
            house.wait_empty()
            house.assert_all_once(hec.stored)
            return
        poll(lambda: house.waiting() == 0 or any("sticky" in h["hint"] for h in house.holds()), "held, unless by luck")
        assert_delivered_is_acked(house, hec)


def assert_delivered_is_acked(house: Sending, hec: HecEmulator) -> None:
    house.stop()
    delivered = house.books().get("delivered", 0)
    poll(lambda: delivered <= len(hec.acked), "it is noted once the answer is away")
    assert delivered + 2 * house.waiting() == len(house.expected)
