"""Consumers under everything at once lose nothing, and know what retention took. Longer: `scripts/soak consumer`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.emulators import generator_wire as wire
from tests.end_to_end.day import plan
from tests.worker import chaos
from tests.worker.chaos_books import Spooled, reckon
from tests.worker.chaos_troubles import TROUBLES


@pytest.mark.parametrize(("start", "seed"), [("begin", 1), ("end", 2)])
def test_in_chaos_nothing_is_lost_and_what_retention_took_is_counted(tmp_path: Path, start: str, seed: int) -> None:
    print(chaos.live(tmp_path, seed, start))


def test_each_trouble_comes_once_a_round_and_a_seed_always_plans_the_same() -> None:
    planned = plan(tuple(TROUBLES), 2, 100, random.Random(3))
    assert planned == plan(tuple(TROUBLES), 2, 100, random.Random(3))
    for turn in range(2):
        names = [one.name for one in planned[turn * len(TROUBLES) : (turn + 1) * len(TROUBLES)]]
        assert sorted(names) == sorted(TROUBLES)


def group(*texts: bytes) -> bytes:
    return wire.group([wire.log(1, [(b"k", text)]) for text in texts])


def test_the_books_know_lost_from_taken_and_a_copy_from_an_invention() -> None:
    had = {(0, at): group(b"a%d" % at, b"b%d" % at) for at in range(10, 20)}
    one, two = ("one", 0), ("two", 1)

    def part(lane: tuple[str, int], begin: int, end: int) -> Spooled:
        return Spooled(lane, 0, begin, tuple(had[0, at] for at in range(begin, end)))

    found = reckon(had, {0: 14}, [part(one, 10, 12), part(one, 14, 17), part(("one", 2), 16, 18), part(two, 10, 11)])
    assert found.logs == 20
    assert found.taken == {(0, 12), (0, 13)}
    assert found.lost == {(0, 18), (0, 19)}
    assert found.copies.keys() == {(0, 10, 0), (0, 10, 1), (0, 16, 0), (0, 16, 1)}
    assert found.in_one_spool().keys() == {(0, 16, 0), (0, 16, 1)} == found.unexplained({two})
    assert not found.unexplained({("one", 2)})
    assert not found.invented
    assert reckon(had, {}, [Spooled(one, 0, 10, (group(b"x"),))]).invented == {(0, 10)}
    assert reckon(had, {}, [Spooled(one, 0, 20, (group(b"x"),))]).invented == {(0, 20)}
