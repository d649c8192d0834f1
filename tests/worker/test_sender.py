"""A sender as the process that it is: killed, started while Splunk is down, its lane damaged; what a route makes of events.

What each answer means for them: test_table.py and test_answers.py, test_acks.py, test_network.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buffer.errors import SpoolFull
from buffer.reader import LaneReader
from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import Sending, quick, sending
from worker.settings import RouteSettings


def test_a_stop_with_nothing_to_do_ends_with_0_and_what_was_delivered_is_in_the_books(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        house.put(logs=50)
        house.start()
        house.wait_empty()
        assert house.stop() == 0
        house.assert_all_once(hec.stored)
        house.assert_books(decoded=50, delivered=50)


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


def test_6a_65_row_60_what_was_not_acknowledged_is_sent_again_after_a_kill(tmp_path: Path) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec,
        sending(tmp_path, [hec.url], hec.token, ack="required") as house,
    ):
        hec.knobs.ack_delay = -1.0
        for _ in range(5):
            house.put(logs=5)
        house.start()
        poll(lambda: len(hec.stored) == 25, "accepted, not acknowledged")
        house.kill()
        assert house.waiting() == 5
        hec.knobs.ack_delay = 0.0
        house.start()
        house.wait_empty()
        assert set(hec.stored.values()) == {2}, "with the same ids"
        house.assert_none_lost(hec.stored)


def test_6a_51_splunk_down_at_the_start_is_no_failure_and_a_kill_repeats_little(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        hec.outage(True)
        house.start()
        for _ in range(50):
            house.put(logs=20)
        poll(house.holds, "held and said")
        house.kill()
        poll(lambda: not hec.server.connections, "what it had sent is answered")
        house.start()
        hec.outage(False)
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_what_splunk_has_taken_is_sent_once_though_the_disk_has_no_room_to_write_that_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_room, tries = threading.Event(), []
    ack = LaneReader.ack

    def without_room(self: LaneReader, *given: Any) -> None:
        tries.append(1)
        if not has_room.is_set():
            raise SpoolFull("no room for an ack", "free disk space")
        ack(self, *given)

    monkeypatch.setattr(LaneReader, "ack", without_room)
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.put(logs=5)
        house.start()
        poll(lambda: len(tries) > 2, "it is tried again")
        assert [hold["kind"] for hold in house.holds()] == ["disk"]
        later = house.put(logs=5)
        poll(lambda: len(tries) > 4, "and again")
        assert not hec.stored.keys() & set(later), "what could not be written down either is not sent"
        has_room.set()
        house.wait_empty()
        poll(lambda: not house.holds(), "the hold is gone")
        house.assert_all_once(hec.stored)


def test_room_that_comes_back_at_a_stop_is_used_to_write_down_what_splunk_has_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stops, tries, ack = threading.Event(), [], LaneReader.ack

    def without_room(self: LaneReader, *given: Any) -> None:
        tries.append(stops.is_set())
        if sum(tries) < 3:
            raise SpoolFull("no room for an ack", "free disk space")
        ack(self, *given)

    monkeypatch.setattr(LaneReader, "ack", without_room)
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.put(logs=5)
        house.start()
        poll(lambda: tries, "it is tried")
        stops.set()
        assert house.stop() == 0
        assert sum(tries) == 3, "not only once"
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_a_dropped_route_is_counted_as_filtered() -> None:
    routes = (RouteSettings(topic="noise", drop=True, name="noise"),)
    with HecEmulator() as hec, quick([hec.url], hec.token, routes=routes) as house:
        house.put(topic="noise", logs=7)
        kept = house.put(logs=3)
        house.start()
        house.wait_empty()
        assert hec.stored.keys() == set(kept)
        house.assert_books(decoded=10, filtered=7, delivered=3)


def test_a_body_that_cannot_be_decoded_is_set_aside_whole_and_the_lane_goes_on() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.put(spoil=True)
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        assert list((house.lane / "damaged").glob("*.val"))
        house.assert_books(set_aside=1)


def test_a_route_whose_token_is_refused_is_parked_and_the_others_flow() -> None:
    other = "00000000-0000-4000-8000-000000000002"
    routes = (RouteSettings(topic="a", token=other, name="a"),)
    with HecEmulator() as hec, quick([hec.url], hec.token, routes=routes) as house:
        parked, flows = house.put(topic="a"), house.put(topic="b")
        house.start()
        house.wait_empty()
        assert hec.stored.keys() == set(flows)
        assert {d.sls_id for d in house.dead()} == set(parked)
        hec.tokens[other] = Token(other)
        poll(lambda: not house.dead(), "delivered when the token works", 60)
        house.assert_all_once(hec.stored)


def test_a_routes_token_that_one_of_two_indexers_knows_is_used_there() -> None:
    """As while a bundle is being pushed: nothing is parked."""
    other = "00000000-0000-4000-8000-000000000002"
    routes = (RouteSettings(topic="a", token=other, name="a"),)
    with (
        HecEmulator() as late,
        HecEmulator(tokens=[Token(TOKEN), Token(other)]) as early,
        quick([late.url, early.url], TOKEN, routes=routes) as house,
    ):
        house.start()
        for _ in range(6):
            house.put(topic="a")
            house.wait_empty()
        assert not house.dead()
        house.assert_all_once(early.stored)


def test_a_hold_that_ends_while_events_are_still_being_parked_releases_those_too() -> None:
    """They are parked with their batch, which waits for another event of it that is not acknowledged yet."""
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        quick([hec.url], hec.token, routes=routes) as house,
    ):
        house.start()
        house.put("bad", logs=1)
        house.wait_empty("one is parked")
        hec.rules.append({"hang": 2, "count": 1, "contains": "slow", "after": True})
        mixed = house.put_mixed([("bad", [{"n": "1"}]), ("t", [{"n": "slow"}])])
        poll(lambda: len(hec.requests) >= 2, "it probes")
        hec.tokens = {TOKEN: Token(TOKEN)}
        house.wait_empty()
        poll(lambda: not house.dead(), "all are delivered")
        assert set(mixed) <= hec.stored.keys()
        house.assert_none_lost(hec.stored)


@pytest.mark.root
def test_row_61_a_refused_event_that_cannot_be_written_down_is_not_done_with(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk is full when Splunk refuses an event: the batch stays, and the letter is written when there is room."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        with HecEmulator() as hec, sending(small, [hec.url], hec.token) as house:
            hec.outage(True)
            (bad,) = house.put(logs=1, size=200_000)
            house.start()
            poll(house.holds, "busy")
            with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            hec.rules.append({"status": 400, "code": 13, "number": 0, "contains": bad})
            hec.outage(False)
            poll(lambda: "the spool does not take" in "".join(capfd.readouterr()), "it is said")
            assert house.waiting() == 1
            assert not house.dead()
            (small / "filler").unlink()
            house.wait_empty()
            assert [d.sls_id for d in house.dead()] == [bad]
            house.kill()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
