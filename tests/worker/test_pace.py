"""How fast a shard is read, and when its checkpoint is saved."""

from __future__ import annotations

import pytest

from worker.once import reached
from worker.pace import checkpoint_due, groups_to_ask, may_pull, wait_after_pull
from worker.shown import alarm


@pytest.mark.parametrize(
    ("at_end", "readonly", "raw_size", "age", "seconds"),
    [
        (False, False, 5_000_000, 0, 0.0),
        (False, False, 5_000_000, 60, 0.0),
        (False, False, 1_000, 60, 0.0),
        (False, False, 1_000, 5, 0.0),
        (True, False, 0, 0, 1.0),
        (True, False, 0, 60, 10.0),
        (True, False, 5_000_000, 60, 1.0),
        (True, True, 0, 0, 10.0),
    ],
)
def test_back_to_back_while_behind_slow_when_idle_slower_with_an_old_backlog(
    at_end: bool, readonly: bool, raw_size: int, age: float, seconds: float
) -> None:
    assert wait_after_pull(at_end=at_end, readonly=readonly, raw_size=raw_size, backlog_age=age) == seconds


def test_short_memory_means_smaller_pulls_and_then_none() -> None:
    assert [groups_to_ask(1000, level) for level in range(3)] == [1000, 125, 125]
    assert groups_to_ask(3, 1) == 1
    assert [may_pull(level, 0) for level in range(4)] == [True, True, False, False]
    assert not may_pull(0, 1)


@pytest.mark.parametrize(
    ("durable", "saved", "since", "closed", "sealed", "due"),
    [
        (None, None, 99, False, False, False),
        (10, None, 99, False, False, True),
        (10, 5, 1.9, False, False, False),
        (10, 5, 2, False, False, True),
        (10, 10, 99, False, False, False),
        (10, 10, 99, True, False, True),
        (10, 10, 99, True, True, False),
    ],
)
def test_a_checkpoint_is_saved_when_it_moved_and_once_more_at_a_closed_end(
    durable: int | None, saved: int | None, since: float, closed: bool, sealed: bool, due: bool
) -> None:
    found = checkpoint_due(durable=durable, saved=saved, since_saved=since, readonly_at_end=closed, sealed=sealed)
    assert found is due


def test_once_is_done_when_every_shard_that_still_exists_is_saved_to_its_target() -> None:
    assert reached({0: 5, 1: 7}, {0: 5, 1: 9}, {0: 1, 1: 1})
    assert not reached({0: 5, 1: 7}, {0: 5, 1: 6}, {0: 1, 1: 1})
    assert not reached({0: 5, 1: 7}, {0: 5, 1: None}, {0: 1, 1: 1})
    assert not reached({0: 5, 1: 7}, {0: 5}, {0: 1, 1: 1})
    assert reached({0: 5, 1: 7}, {0: 5}, {0: 1})


def test_retention_that_runs_out_is_an_alarm_at_a_quarter_and_at_a_day() -> None:
    day = 86400.0
    assert [alarm(left * day, 30 * day) for left in (29, 8, 7, 0.9)] == [0, 0, 1, 2]
    assert alarm(0.9 * day, day) == 0
    assert alarm(0.2 * day, day) == 1
    assert alarm(None, None) == 0
