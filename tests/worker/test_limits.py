"""What bounds a sender: bytes a second, the quota of dead letters, how much is repeated after a refusal, few requests when
memory is short.
"""

from __future__ import annotations

import threading
import time

from buffer.operate import dead_replay
from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import quick
from worker.holds import Storm
from worker.settings import RouteSettings


def test_no_more_leaves_than_max_bytes_per_second() -> None:
    """The first batch is worth two seconds and more: the next may not go before they are over."""
    with HecEmulator() as hec, quick([hec.url], hec.token, max_bytes_per_second=50_000) as house:
        house.put(logs=100, size=1000)
        began = time.time()
        house.start()
        house.wait_empty()
        house.put(logs=1)
        house.wait_empty()
        house.assert_all_once(hec.stored)
        first, second = hec.posts()
        assert first.bytes > 100_000
        assert second.time - began > first.bytes / 50_000 - 0.1


def test_at_the_quota_of_dead_letters_a_lane_is_not_read_on_until_there_is_room() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, spool={"dead_letter_max_bytes": 65_536}) as house:
        hec.outage(True, status=400, code=13, number=0)
        house.put(logs=60, size=2000)
        house.start()
        house.wait_empty()
        hec.outage(False)
        later = house.put(logs=5)
        poll(lambda: [h["kind"] for h in house.holds()] == ["dead"], "said")
        assert house.waiting() == 1
        assert not set(later) & hec.stored.keys()
        dead_replay(house.settings.spool, None)
        house.wait_empty("the letters are gone, and the lane is read on")
        poll(lambda: not house.holds(), "the hold has ended")
        poll(lambda: not house.dead(), "all of the letters are gone")
        house.assert_all_once(hec.stored)


def test_at_the_quota_of_all_lanes_together_no_lane_is_read_on() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token) as house:
        house.board.letters_level = 1
        house.start()
        house.put(logs=5)
        poll(lambda: [h["kind"] for h in house.holds()] == ["dead"], "said")
        assert house.waiting() == 1
        assert not hec.posts()
        house.board.letters_level = 0
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_after_a_refusal_the_rest_goes_in_small_requests_so_that_the_next_one_repeats_little() -> None:
    routes = (RouteSettings(topic="bad", index="secret"),)
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        quick([hec.url], hec.token, routes=routes, on_incorrect_index="dead-letter", in_flight=1) as house,
    ):
        logs = [{"pad": "x" * 1000}]
        house.put_mixed([("t", logs * 200), ("bad", logs), ("t", logs * 200), ("bad", logs), ("t", logs * 200)])
        house.start()
        house.wait_empty()
        house.assert_books(delivered=600, buried=2)
        whole, *rest = [r.bytes for r in hec.posts()]
        assert whole > 600_000
        assert max(rest) <= 64 << 10
        assert hec.stored.total() - len(hec.stored) <= 200 + 64, "the first prefix, and of the second a small request"


def test_when_memory_is_short_one_request_goes_out_at_a_time() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, max_request_bytes=4096, in_flight=4) as house:
        house.board.memory_level = 1
        hec.knobs.delay = 0.05
        gate = threading.Event()
        hec.script.append({"gate": gate, "after": True})
        house.put(logs=100, size=500)
        house.start()
        poll(lambda: hec.stored, "the first is out")
        assert house.sender
        most = house.sender.delivery.in_flight
        gate.set()
        while house.waiting():
            most = max(most, house.sender.delivery.in_flight)
        assert most == 1
        house.assert_all_once(hec.stored)
        assert len(hec.posts()) > 10


def test_a_fifth_of_a_routes_last_thousand_events_refused_is_a_storm() -> None:
    for every, is_storm in ((4, True), (6, False)):
        storm, said = Storm(), False
        for _ in range(400):
            storm.accepted(every - 1)
            said = storm.refuse() or said
        assert said is is_storm, every
        assert storm.row == 1
        storm.accepted(1000)
        assert not storm.refuse(), "it is over"
