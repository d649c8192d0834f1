"""SIGKILL before every call that writes, errors out of every call that can fail, and a storm of kills.

The witness is a process that never saw the scene: it knows the disk and what had been promised. What SIGKILL leaves does not
depend on the file system, so these run in memory; power cuts are tests/buffer/test_power.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.buffer.breaking import Stage, can_trace
from tests.buffer.stage import RAW

KILLS = int(os.environ.get("SLS_SIEM_CRASH_KILLS", "200"))
#: Of the calls at which an error is injected once, every n-th is tried.
STRIDE = int(os.environ.get("SLS_SIEM_CRASH_STRIDE", "12"))
MODES = ["wal", "truncate"]
CALLS = ["fsync", "fdatasync", "pwrite64", "write", "fallocate", "ftruncate", "unlink", "openat"]

pytestmark = pytest.mark.root


@pytest.fixture(params=MODES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if not can_trace():
        pytest.skip("needs root and strace")
    with Stage(request.param) as made:
        yield made


@pytest.mark.parametrize("scene", ["put", "ack", "letters", "sweep", "rebuild", "adopt", "return"])
def test_a_kill_before_any_call_that_writes_breaks_no_promise(stage: Stage, scene: str) -> None:
    points = stage.points(scene)
    assert len(points) >= 5, points
    killed, faults = 0, {}
    for point in points:
        status, found = stage.kill(scene, point)
        killed += status == -9
        if found:
            faults[point] = found
    assert not faults, f"{len(faults)} of {len(points)} points; {stage.log()}"
    assert killed > 0.9 * len(points), "only retries make the number of calls differ from run to run"


@pytest.mark.parametrize(
    ("error", "stride"), [("EIO", STRIDE), ("ENOSPC", STRIDE), ("EROFS", STRIDE), ("EDQUOT", 10 * STRIDE)]
)
def test_an_error_out_of_any_call_breaks_no_promise(stage: Stage, error: str, stride: int) -> None:
    """Only the spool's own errors come out; what was acknowledged is there; nothing is half visible."""
    counts: dict[str, int] = {}
    for point in stage.points("work"):
        counts[point.call] = max(point.number, counts.get(point.call, 0))
    faults, failures = {}, 0
    for call in CALLS:
        once = range(1, counts.get(call, 0) + 1, stride)
        for when in [*map(str, once), "1+2", "2+3", "1+"]:
            status, found = stage.fail("work", call, error, when)
            failures += 1
            if status == RAW or found:
                faults[call, when] = status, found
    assert failures > len(CALLS) * 3
    assert not faults, f"{len(faults)} of {failures}; {stage.log()}"


@pytest.mark.parametrize("mode", MODES)
def test_a_storm_of_kills_breaks_no_promise(mode: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.buffer.storm", mode, str(KILLS // len(MODES))],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    said = json.loads(run.stdout)
    assert not said["faults"], said
    assert said["kills"] == KILLS // len(MODES)
    assert said["puts"] > KILLS / 2, said
    assert said["acks"] > KILLS / 4, said
    assert said["looks"] > 0, said
