"""The commit loop: one put for all that waits, nothing half-stored on a full disk, nothing put that is not ours."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from buffer.errors import SpoolBroken, SpoolFull
from buffer.settings import SpoolSettings
from buffer.values import Answer, Outcome, Pull, ShardKey
from buffer.writer import LaneWriter
from tests.waiting import poll
from worker import putter as module
from worker.putter import MAX_BYTES, MAX_PULLS, Putter, Ticket, need_room, take
from worker.report import Report
from worker.room import Place, Room


def make_pull(begin: int = 0, size: int = 100, shard: int = 0) -> Pull:
    key = ShardKey("p", "l", "g", "", shard, 1)
    return Pull(
        key=key, epoch=1, source="s", codec="lz4", raw_size=size, begin=begin, next=begin + 1, groups=1, sparse=False,
        suspect=False, arrived=0.0, pulled=0.0, body=bytes(size), first=begin == 0,
    )  # fmt: skip


def ticket(pull: Pull, alive: bool = True) -> Ticket:
    return Ticket(pull, lambda: alive, lambda _: None)


class FullDisk(LaneWriter):
    """A lane whose disk is full (or broken) for its first puts."""

    refusals = 3
    puts = 0
    error: type[Exception] = SpoolFull

    def put(self, pulls: object) -> list[Answer]:
        self.puts += 1
        if self.puts <= self.refusals:
            raise self.error("no room", "free some")
        return super().put(pulls)  # type: ignore[arg-type]


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return SpoolSettings(directory=tmp_path, min_free_bytes=1 << 20, force_file_system=True)


@pytest.fixture
def lane(settings: SpoolSettings) -> Iterator[FullDisk]:
    made = FullDisk.open(settings.directory / "lanes" / "x-0", settings)
    made.refusals = 0
    yield made
    made.close()


@pytest.fixture
def putter(lane: FullDisk, settings: SpoolSettings, tmp_path: Path) -> Iterator[Putter]:
    made = Putter(lane, settings, Report(tmp_path / "r.json", "consumer-0"))
    yield made
    made.stopping = True
    made.close()


def run(putter: Putter) -> threading.Thread:
    thread = threading.Thread(target=putter.run)
    thread.start()
    return thread


def is_blocked(putter: Putter) -> bool:
    return putter.blocked


def test_all_that_waits_is_one_put_in_order(putter: Putter, lane: FullDisk) -> None:
    tickets = [ticket(make_pull(at)) for at in range(50)]
    for one in tickets:
        putter.submit(one)
    thread = run(putter)
    assert [one.wait() for one in tickets] == [Answer(Outcome.STORED, at + 1) for at in range(50)]
    putter.close()
    thread.join(10)
    assert lane.puts == 1
    assert putter.since_last() == {"puts": 1, "pulls": 50, "groups": 50, "bytes": 5000}


def test_a_put_is_bounded_in_bytes_and_pulls_but_takes_at_least_one() -> None:
    queue = deque(ticket(make_pull(at, MAX_BYTES)) for at in range(2))
    assert [len(take(queue)), len(take(queue))] == [1, 1]
    queue = deque(ticket(make_pull(at, 1)) for at in range(MAX_PULLS + 1))
    assert [len(take(queue)), len(take(queue))] == [MAX_PULLS, 1]


@pytest.mark.parametrize("error", [SpoolFull, SpoolBroken])
def test_a_disk_that_does_not_take_is_a_hold_until_it_does(
    putter: Putter, lane: FullDisk, error: type[Exception]
) -> None:
    lane.refusals, lane.error = 1_000_000, error
    one = ticket(make_pull())
    putter.submit(one)
    thread = run(putter)
    poll(lambda: putter._report._holds, "a hold")
    poll(lambda: lane.puts >= 3, "it tries again")
    assert is_blocked(putter)
    lane.refusals = 0
    assert one.wait() == Answer(Outcome.STORED, 1)
    assert not is_blocked(putter)
    assert not putter._report._holds
    putter.close()
    thread.join(10)


def test_what_is_not_ours_any_more_is_thrown_away(putter: Putter, lane: FullDisk) -> None:
    ours, theirs = ticket(make_pull(0, shard=0)), ticket(make_pull(0, shard=1), alive=False)
    putter.submit(theirs)
    putter.submit(ours)
    thread = run(putter)
    assert theirs.wait() is None
    assert ours.wait() is not None
    assert lane.position(theirs.pull.key) is None
    putter.close()
    thread.join(10)


def test_what_is_not_ours_any_more_does_not_wait_for_a_full_disk_neither_in_the_put_nor_behind_it(
    putter: Putter, lane: FullDisk
) -> None:
    lane.refusals = 1_000_000
    wanted = {0: True, 1: True, 2: True}
    tickets = [Ticket(make_pull(0, shard=n), lambda n=n: wanted[n], lambda _: None) for n in wanted]  # type: ignore[misc]
    putter.submit(tickets[0])
    thread = run(putter)
    poll(lambda: is_blocked(putter), "the first put goes wrong")
    putter.submit(tickets[1])
    putter.submit(tickets[2])
    wanted[1] = False
    assert tickets[1].wait() is None
    wanted[0] = False
    assert tickets[0].wait() is None
    lane.refusals = 0
    assert tickets[2].wait() is not None
    putter.close()
    thread.join(10)


def test_when_all_that_waited_for_the_disk_was_thrown_away_pulling_goes_on_and_shows_whether_it_takes(
    putter: Putter, lane: FullDisk
) -> None:
    lane.refusals = 1_000_000
    ours = True
    first = Ticket(make_pull(), lambda: ours, lambda _: None)
    putter.submit(first)
    thread = run(putter)
    poll(lambda: is_blocked(putter), "the put goes wrong")
    ours = False
    assert first.wait() is None
    poll(lambda: not is_blocked(putter), "readers may pull")
    assert not putter._report._holds
    second = ticket(make_pull())
    putter.submit(second)
    poll(lambda: is_blocked(putter), "the disk is still full, and that is said again")
    assert putter._report._holds
    lane.refusals = 0
    assert second.wait() == Answer(Outcome.STORED, 1)
    putter.close()
    thread.join(10)


def test_asked_to_stop_it_does_not_wait_for_a_full_disk(putter: Putter, lane: FullDisk) -> None:
    lane.refusals = 1000
    one = ticket(make_pull())
    putter.submit(one)
    thread = run(putter)
    poll(lambda: putter.blocked, "it waits")
    putter.stopping = True
    started = time.monotonic()
    assert one.wait() is None
    assert time.monotonic() - started < 20
    putter.close()
    thread.join(10)


def test_the_free_space_is_looked_at_before_each_put(
    putter: Putter, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_room(settings)
    monkeypatch.setattr(module, "free_bytes", lambda _: (settings.min_free_bytes - 1, 1_000_000))
    with pytest.raises(SpoolFull, match="must stay free"):
        need_room(settings)


def enter(room: Room, size: int) -> Place:
    place = room.enter(lambda: size, lambda: True)
    assert place is not None
    return place


def test_room_is_bounded_but_one_may_always_enter() -> None:
    room = Room(100)
    first = enter(room, 1000)
    assert not room.enter(lambda: 1, lambda: True)
    first.correct(60)
    second = enter(room, 40)
    assert not room.enter(lambda: 1, lambda: True)
    entered: list[Place | None] = []
    waiter = threading.Thread(target=lambda: entered.append(room.enter(lambda: 50, lambda: False)))
    waiter.start()
    assert not entered
    first.leave()
    waiter.join(30)
    (third,) = entered
    assert third is not None
    assert room.used == 90
    second.leave()
    third.leave()
    assert room.used == 0


def test_small_pulls_do_not_keep_a_large_one_waiting_for_ever() -> None:
    room = Room(100)
    first, second = enter(room, 40), enter(room, 40)
    large: list[Place | None] = []
    waiter = threading.Thread(target=lambda: large.append(room.enter(lambda: 80, lambda: False)))
    waiter.start()
    poll(lambda: len(room.waiting) == 1, "it waits")
    assert room.enter(lambda: 20, lambda: True) is None, "nobody takes the room that it waits for"
    small: list[Place | None] = []
    behind = threading.Thread(target=lambda: small.append(room.enter(lambda: 20, lambda: False)))
    behind.start()
    poll(lambda: len(room.waiting) == 2, "the next waits behind it")
    first.leave()
    assert not large
    assert not small
    second.leave()
    waiter.join(30)
    behind.join(30)
    assert large[0] is not None
    assert small[0] is not None
    assert room.used == 100, "who is behind enters with it where both fit"


def test_who_waits_for_room_and_gives_up_lets_the_next_in() -> None:
    room, tired = Room(100), threading.Event()
    enter(room, 60)
    large: list[Place | None] = []
    waiter = threading.Thread(target=lambda: large.append(room.enter(lambda: 80, tired.is_set)))
    waiter.start()
    poll(lambda: len(room.waiting) == 1, "it waits")
    small: list[Place | None] = []
    behind = threading.Thread(target=lambda: small.append(room.enter(lambda: 20, lambda: False)))
    behind.start()
    poll(lambda: len(room.waiting) == 2, "the next waits behind it")
    tired.set()
    waiter.join(30)
    behind.join(30)
    assert large == [None]
    assert small[0] is not None
    assert room.used == 80


def test_a_pull_that_is_larger_than_expected_waits_for_room_before_it_is_read() -> None:
    room = Room(100)
    first, second = enter(room, 50), enter(room, 10)
    assert not second.grow(51, lambda: True)
    assert room.used == 60, "what it did not get it does not hold"
    grown: list[bool] = []
    waiter = threading.Thread(target=lambda: grown.append(second.grow(51, lambda: False)))
    waiter.start()
    poll(lambda: room.growing == [second], "it waits")
    assert room.enter(lambda: 1, lambda: True) is None, "nobody takes the room that it waits for"
    assert first.grow(20, lambda: True), "smaller than expected: that is always well, and makes room"
    waiter.join(30)
    assert grown == [True]
    assert room.used == 71


def test_when_all_inside_wait_for_more_the_first_goes_on_and_then_the_next() -> None:
    room, done = Room(100), []
    places = [enter(room, 10) for _ in range(5)]

    def grow(number: int) -> None:
        assert places[number].grow(300, lambda: False)
        done.append(number)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=grow, args=(number,)))
        threads[-1].start()
        if number < 4:
            poll(lambda: len(room.growing) == number + 1, "it waits")  # noqa: B023
            assert not done, "somebody is inside who does not wait"
    for number in range(5):
        poll(lambda: len(done) == number + 1, "one goes on")  # noqa: B023
        assert done[number] == number
        assert room.used == 300 + 10 * (4 - number), "and no other before it has left"
        places[number].leave()
    for thread in threads:
        thread.join(30)
    assert room.used == 0


def test_who_waits_for_room_goes_by_what_is_expected_now() -> None:
    room, expected = Room(100), iter([1000, 50])
    assert room.enter(lambda: 50, lambda: True)
    assert room.enter(lambda: next(expected), lambda: False)
    assert room.used == 100
    assert room.used == 100
