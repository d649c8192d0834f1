"""A day in a minute: whatever goes wrong, nothing is lost and nothing is left behind. Longer: `scripts/soak house`."""

from __future__ import annotations

import random
from pathlib import Path

from tests.end_to_end import day
from tests.end_to_end.day_troubles import DISTURBANCES


def test_a_day_of_everything_that_goes_wrong_loses_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    print(day.live(tmp_path, 1))


def test_each_round_has_every_disturbance_once_and_a_seed_always_plans_the_same() -> None:
    names = tuple(DISTURBANCES)
    planned = day.plan(names, 3, 100, random.Random(7))
    assert planned == day.plan(names, 3, 100, random.Random(7))
    for turn in range(3):
        assert sorted(one.name for one in planned[turn * len(names) : (turn + 1) * len(names)]) == sorted(names)
    assert [one.at for one in planned] == [100 * (place + 1) for place in range(len(planned))]
    assert all(100 <= one.until - one.at <= 300 for one in planned)
