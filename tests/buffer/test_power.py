"""Power cuts at random points of the disk's write stream, and the worst that POSIX allows."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buffer.power import control, machine, posix, promise

POINTS = int(os.environ.get("SLS_SIEM_CRASH_POINTS", "60"))
STATES = int(os.environ.get("SLS_SIEM_CRASH_STATES", "60"))
PUTS = os.environ.get("SLS_SIEM_CRASH_PUTS", "60")
#: Where in the workload's writes the one is that fails.
SHARES = [float(text) for text in os.environ.get("SLS_SIEM_CRASH_SHARES", "0.3").split()]
#: The workload makes more writes than this for each put.
WRITES_A_PUT = 8
SEED = int(os.environ.get("SLS_SIEM_CRASH_SEED", "1"))


def need_loop_and_fuse() -> None:
    for device in ("/dev/fuse", "/dev/loop-control"):
        if os.geteuid() or not os.access(device, os.R_OK | os.W_OK):
            pytest.skip(f"needs root and {device}")


@pytest.fixture
def own_mounts() -> Iterator[None]:
    need_loop_and_fuse()
    with machine.own_mounts():
        yield


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize("mode", ["wal", "truncate"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_no_power_cut_loses_corrupts_or_repeats_anything(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    program = [sys.executable, "-m", "tests.buffer.power.workload", mode, str(SEED), PUTS]
    records = machine.record(kind, tmp_path, program)
    faults = {}
    points = machine.choose(records, POINTS, SEED)
    for point, marks, image in machine.crash_images(records, points, tmp_path, kind, SEED):
        with machine.loop_mount(image, kind, tmp_path / "crashed") as mounted:
            if found := promise.faults(mounted, marks):
                faults[point] = found
    assert not faults, f"{len(faults)} of {POINTS} power cuts"


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize("mode", ["wal", "truncate"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("share", SHARES)
def test_a_write_that_fails_and_then_a_power_cut(
    kind: str, mode: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses one write with EIO; what was acknowledged after that is there too when the power goes."""
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    program = [sys.executable, "-m", "tests.buffer.power.workload", mode, str(SEED), PUTS, "--tolerant"]
    records = machine.record(kind, tmp_path, program, failing=1 + int(share * int(PUTS) * WRITES_A_PUT))
    faults = {}
    points = machine.choose(records, POINTS // 4, SEED, after="E")
    for point, marks, image in machine.crash_images(records, points, tmp_path, kind, SEED):
        with machine.loop_mount(image, kind, tmp_path / "crashed", check=True) as mounted:
            if found := promise.faults(mounted, marks):
                faults[point] = found
    assert not faults, f"{len(faults)} of {len(points)} power cuts"


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
def test_the_harness_finds_what_diskcache_as_shipped_loses(tmp_path: Path) -> None:
    records = machine.record("ext4", tmp_path, [sys.executable, "-m", "tests.buffer.power.control", "40"])
    lost = 0
    points = machine.choose(records, 8, SEED)
    for _, marks, image in machine.crash_images(records, points, tmp_path, "ext4", SEED):
        with machine.loop_mount(image, "ext4", tmp_path / "crashed") as mounted:
            lost += len(control.lost(str(mounted), marks))
    assert lost > 0


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_the_worst_that_posix_allows_loses_nothing(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    (tmp_path / "disk").mkdir()
    (tmp_path / "marks").touch()
    program = [sys.executable, "-m", "tests.buffer.power.workload", mode, str(SEED), "25"]
    calls = posix.trace([*program, str(tmp_path / "disk"), str(tmp_path / "marks")], tmp_path / "trace")
    disk, chance = posix.Disk(tmp_path / "disk", tmp_path / "marks"), random.Random(SEED)
    first = next(i for i, call in enumerate(calls) if call.path.endswith("cache.db"))
    points = {chance.randrange(first, len(calls)) for _ in range(STATES)}
    faults = {}
    for number, call in enumerate(calls):
        disk.feed(call)
        if number in points:
            state = tmp_path / f"state-{number}"
            disk.crash(state, ("none", "some", "all")[number % 3], chance)
            if found := promise.faults(state, disk.marks):
                faults[number] = found
            shutil.rmtree(state)  # each has a ballast in it
    assert not faults, f"{len(faults)} of {len(points)} states"
    assert len(disk.marks) > 50, "the marks were seen"
