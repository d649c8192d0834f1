"""Forecasts from the last minute's counters."""

from __future__ import annotations

import pytest

from buffer import budget
from buffer.settings import MIB, SpoolSettings
from supervisor.rates import Rates, Sample


def noted(*samples: Sample) -> Rates:
    rates = Rates()
    for one in samples:
        rates.note(one)
    return rates


def test_full_in_looks_back_a_minute() -> None:
    growing = noted(Sample(0.0), Sample(50.0, waiting=4000), Sample(60.0, waiting=6000))
    assert growing.full_in(5000) == 50.0
    assert growing.full_in(-1) == 0.0
    assert noted(Sample(0.0, waiting=10), Sample(10.0, waiting=5)).full_in(5000) is None
    assert noted(Sample(0.0)).full_in(5000) is None, "one sample is no rate"


def test_drained_in_counts_what_waits_now_and_live_again_in_also_what_comes() -> None:
    rates = noted(Sample(0.0), Sample(10.0, put=50, settled=100))
    assert rates.drained_in(100) == pytest.approx(10.0)
    assert rates.live_again_in(100) == pytest.approx(20.0)
    assert rates.drained_in(0) == rates.live_again_in(0) == 0.0


def test_without_progress_nobody_knows_when() -> None:
    stalled = noted(Sample(0.0), Sample(10.0, put=50))
    assert (stalled.drained_in(50), stalled.live_again_in(50)) == (None, None)
    losing = noted(Sample(0.0), Sample(10.0, put=100, settled=50))
    assert losing.drained_in(50) == pytest.approx(10.0)
    assert losing.live_again_in(50) is None


def test_what_is_older_than_the_window_is_forgotten() -> None:
    rates = noted(Sample(0.0), Sample(100.0, fetched=1000), Sample(110.0, fetched=3000, put=10, delivered=70))
    assert len(rates.samples) == 2
    assert rates.now() == {
        "fetched_bytes_per_second": 200.0, "fetched_groups_per_second": 1.0, "delivered_events_per_second": 7.0,
    }  # fmt: skip


def test_the_reason_for_a_full_spool_names_what_is_full(tmp_path: object) -> None:
    settings = SpoolSettings(directory=tmp_path, max_bytes=100 * MIB, min_free_bytes=MIB)  # type: ignore[arg-type]
    much = 1 << 40
    assert budget.room(settings, 0, much) == int(0.95 * 90 * MIB)
    assert budget.room(settings, 0, 2 * MIB) == MIB
    assert budget.room(settings, much, much) == 0
    assert "spool is full (89%" in budget.reason(settings, 80 * MIB, much, much, True)[0]
    assert "disk is nearly full" in budget.reason(settings, 0, MIB, much, True)[0]
    assert "inodes" in budget.reason(settings, 0, much, 5, True)[0]
    assert "the disk is full" in budget.reason(settings, 0, MIB, much, False)[0]
