"""Freed memory goes back to the kernel when work has ended, and as often as is useful while memory is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.hec import HecEmulator
from tests.waiting import poll
from tests.worker.sending import sending
from worker.process import MALLOC, TRIM_AFTER, Trimmer


def test_once_when_work_has_ended_and_not_again() -> None:
    trimmer = Trimmer()
    assert not any(trimmer.look(0, busy=False, now=float(now)) for now in range(100)), "nothing was ever done"
    assert not any(trimmer.look(0, busy=True, now=100.0 + now) for now in range(100))
    trims = [now for now in range(200, 300) if trimmer.look(0, busy=False, now=float(now))]
    assert trims == [199 + TRIM_AFTER]


def test_not_while_work_comes_now_and_then() -> None:
    trimmer = Trimmer()
    assert not any(trimmer.look(0, busy=now % 3 == 0, now=float(now)) for now in range(100))


def test_at_every_change_of_the_level_and_every_few_seconds_while_it_is_not_0() -> None:
    trimmer = Trimmer()
    trims = [now for now in range(30) if trimmer.look(1 if 10 <= now < 22 else 0, busy=True, now=float(now))]
    assert trims == [10, 15, 20, 22]


def test_a_sender_that_has_drained_a_backlog_is_small_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    with HecEmulator() as hec, sending(tmp_path, [hec.url], hec.token) as house:
        for _ in range(4):
            house.put(logs=500, size=10_000)
        house.start()
        most = 0

        def drained() -> bool:
            nonlocal most
            most = max(most, private(house.process.pid))
            return house.waiting() == 0

        poll(drained, "drained", 90, 0.02)
        poll(lambda: private(house.process.pid) < most - (8 << 20), f"smaller than {most >> 20} MiB by 8", 60, 0.2)


def private(pid: int) -> int:
    """Bytes that nobody else has, from the kernel."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
