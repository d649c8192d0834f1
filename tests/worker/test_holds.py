"""What waits for a remedy: said once, kept over a restart, never in the way of what may go, ended by its cause's end alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import quick, sending
from worker.settings import RouteSettings

OTHER = "00000000-0000-4000-8000-000000000002"
SECRET = (RouteSettings(topic="bad", name="bad", index="secret"),)


def test_a_large_event_that_waits_for_the_one_endpoint_it_fits_stops_nobody() -> None:
    with (
        HecEmulator(knobs=Knobs(max_content_length=10_000)) as small,
        HecEmulator() as roomy,
        quick([small.url, roomy.url], TOKEN) as house,
    ):
        house.start()
        for _ in range(6):
            house.put(logs=1, size=50_000)
            house.wait_empty()
        roomy.outage(True, status=503, code=9, headers={"Retry-After": "300"})
        (large,) = house.put(logs=1, size=50_000)
        poll(lambda: roomy.answers["503/9"], "it is in trouble")
        for _ in range(10):
            some = house.put(logs=3)
            poll(lambda s=some: set(s) <= small.stored.keys(), f"others go on: {house.holds()}")  # type: ignore[misc]
        poll(lambda: house.waiting() == 1, "all others are done with")
        assert large not in small.stored + roomy.stored
        assert not house.dead()


def test_an_event_that_fits_only_a_url_that_is_away_is_waited_for_at_rest() -> None:
    """The other one is away too, and may be tried any time: there is nothing to try it with."""
    with (
        HecEmulator(knobs=Knobs(max_content_length=10_000)) as small,
        HecEmulator() as big,
        quick([small.url, big.url], small.token) as house,
    ):
        house.start()

        def is_known() -> bool:
            house.put(logs=1, size=30_000)
            return any(request.status == 413 for request in small.requests)

        poll(is_known, "its size is known", every=0.1)
        house.wait_empty()
        small.outage(True)
        poll(lambda: house.put(logs=1) and house.holds(), "one is away", every=0.1)
        house.wait_empty()
        big.outage(True)
        house.put(logs=1, size=30_000)
        poll(lambda: len(house.holds()) == 2, "the other is away")
        assert house.turns_a_second(6) < 100
        big.outage(False)
        house.wait_empty()
        house.assert_all_once(small.stored + big.stored)


def test_the_default_tokens_hold_is_one_hold_though_a_routes_own_token_works() -> None:
    """Only the default token tells whether it is still refused: not what came first, and not the smallest request."""
    routes = (RouteSettings(topic="own", token=OTHER, name="own"),)
    with HecEmulator(tokens=[Token(OTHER)]) as hec, quick([hec.url], TOKEN, routes=routes) as house:
        house.put(size=500)
        house.start()
        poll(lambda: [h["kind"] for h in house.holds()] == ["token"], "held")
        (before,) = house.holds()
        for _ in range(5):
            house.put("own", logs=1, size=1)
        poll(lambda: hec.answers["403/4"] >= 5, "it is tried again and again")
        assert [h["since"] for h in house.holds()] == [before["since"]]
        hec.tokens = {TOKEN: Token(TOKEN), OTHER: Token(OTHER)}
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(lambda: not house.holds(), "the hold has ended")


def test_a_held_endpoint_is_probed_with_the_smallest_request() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        hec.outage(True, status=405, body="<html>")
        house.put(logs=200, size=1000)
        house.start()
        poll(house.holds, "held")
        (small,) = house.put(logs=1)
        tries = len(hec.posts())
        poll(lambda: len(hec.posts()) >= tries + 2, "probed")
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert next(iter(hec.stored)) == small


@pytest.mark.parametrize("kind", ["route", "payload"])
def test_a_hold_ends_though_the_oldest_of_its_events_is_bad_in_itself(kind: str) -> None:
    """Probes go round."""
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=2) as house:
        answer = {"status": 400, "code": 12, "number": 0} if kind == "route" else {"status": 500, "code": 8}
        hec.rules.append({**answer, "contains": '"bad"'})
        house.put_mixed([("t", [{"k": "bad"}] * (110 if kind == "route" else 2))])
        house.start()
        poll(hec.posts, "refused")
        while kind == "payload" and not house.dead():
            others = house.put(logs=2)
            poll(lambda o=others: set(o) <= hec.stored.keys() or house.dead(), "others pass")  # type: ignore[misc]
        house.wait_empty()
        parked = [one.sls_id for one in house.dead() if one.state == "parked"]
        assert len(parked) >= 2
        hec.rules[:] = [{**answer, "contains": parked[0]}]
        poll(lambda: not set(parked[1:]) - hec.stored.keys(), f"the others are delivered: {house.holds()}")
        assert parked[0] not in hec.stored


@pytest.mark.parametrize("policy", ["hold", "dead-letter"])
def test_a_storm_goes_on_being_one_over_a_restart(policy: str) -> None:
    """Of one route: it buries a hundred, and the same again after each restart would flood the dead letters, too."""
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        quick([hec.url], hec.token, routes=SECRET, on_incorrect_index=policy, max_request_bytes=8192) as house,
    ):
        if policy == "hold":
            hec.rules.append({"status": 400, "code": 12, "number": 0, "contains": '"bad"'})
        house.put("bad", logs=300)
        house.start()
        house.wait_empty()
        dead = sum(one.state == "dead" for one in house.dead())
        assert 90 < dead < 120
        for _ in range(2):
            house.stop()
            house.start()
            more = house.put("bad", logs=300)
            poll(lambda: house.metric("hec_requests_total") >= 3, "it is probed again and again")
            house.wait_empty()
        assert {one.state for one in house.dead() if one.sls_id in more} == {"parked"}
        assert sum(one.state == "dead" for one in house.dead()) == dead
        hec.rules.clear()
        hec.tokens = {TOKEN: Token(TOKEN)}
        poll(lambda: {one.state for one in house.dead()} == {"dead"}, f"the parked are delivered: {house.holds()}")
        assert hec.stored.total() == 900 - dead


def test_a_fallback_index_that_is_refused_too_is_a_hold_and_no_dead_letter() -> None:
    token = Token(TOKEN, indexes=("main",))
    options = {"on_incorrect_index": "fallback", "fallback_index": "last"}
    with HecEmulator(tokens=[token]) as hec, quick([hec.url], hec.token, routes=SECRET, **options) as house:
        bad, good = house.put("bad", logs=200), house.put(logs=5)
        house.start()
        house.wait_empty()
        assert set(good) == hec.stored.keys()
        assert {(one.sls_id, one.state) for one in house.dead()} == {(one, "parked") for one in bad}
        poll(lambda: [(h["kind"], h["name"]) for h in house.holds()] == [("index", "last")], "said")
        assert len([r for r in hec.posts() if r.bytes > 1000]) < 8, "one refusal of each is enough to know"
        hec.tokens = {TOKEN: Token(TOKEN, indexes=("main", "last"))}
        poll(lambda: not house.dead(), f"delivered: {house.holds()}")
        house.assert_all_once(hec.stored)


def test_413_to_every_request_is_no_matter_of_size() -> None:
    """A limit on bodies that was set to nothing: the events are not at fault, and afterwards the size grows again."""
    with HecEmulator() as hec, quick([hec.url], hec.token, max_request_bytes=16_384) as house:
        hec.outage(True, status=413, body="<html>")
        house.put(logs=200)
        house.start()
        poll(lambda: any("limit on bodies" in h["hint"] for h in house.holds()), "held")
        assert not house.dead()
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert not house.dead()


def test_a_learned_size_is_tried_again_after_many_requests_and_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.endpoint.TRY_LARGER", 20)
    knobs = Knobs(max_content_length=10_000)
    with HecEmulator(knobs=knobs) as hec, quick([hec.url], hec.token, max_request_bytes=40_000) as house:
        house.start()
        house.put(logs=400, size=500)
        house.wait_empty()
        refused = hec.answers["413/-1"]
        poll(lambda: house.remembers(f"max_bytes {hec.url}"), "the cap is written down")
        knobs.max_content_length = 1 << 20
        while house.remembers(f"max_bytes {hec.url}") != "0":
            house.put(logs=400, size=500)
            house.wait_empty()
        assert max(r.bytes for r in hec.posts()) > 30_000
        assert hec.answers["413/-1"] <= refused + 5
        house.assert_all_once(hec.stored)
        house.stop()
        house.settings = replace(house.settings, hec=replace(house.settings.hec, max_request_bytes=200_000))
        house.put(logs=400, size=500)
        house.start()
        house.wait_empty()
        assert max(r.bytes for r in hec.posts()) > 100_000, "what was the most that day is no cap under other settings"


def test_the_cap_is_learned_of_the_endpoint_that_has_it() -> None:
    """Splunk Cloud says 400/6 at event 0: the event alone may then go to another, which takes it."""
    with (
        HecEmulator(knobs=Knobs(profile="cloud", cloud_cap=600_000)) as cloud,
        HecEmulator() as other,
        quick([cloud.url, other.url], TOKEN, in_flight=2) as house,
    ):
        house.start()
        for _ in range(4):
            house.put(logs=1500, size=1000)
            house.wait_empty()
        house.assert_all_once(cloud.stored + other.stored)
        assert cloud.answers["400/6"]
        assert house.sender
        capped, roomy = house.sender.delivery.endpoints
        assert capped.max_bytes < roomy.max_bytes == house.settings.hec.max_request_bytes


def test_a_defect_in_a_thread_of_the_pool_ends_the_sender_and_not_the_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swallowed, it would leave its events in flight for ever, and after a few of them nothing would go out any more."""
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token, in_thread=True) as house:
        house.put()
        with monkeypatch.context() as broken:
            broken.setattr("worker.hec.HecClient.post", lambda *_, **__: 1 / 0)
            house.start()
            poll(lambda: house.defect, "it ends")
        with pytest.raises(ZeroDivisionError):
            house.stop()
        house.defect = None
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
