"""`scripts/bench start`: the command line's start, and CPU and memory of an idle house."""

from __future__ import annotations

import subprocess
import sys
import time

from scripts.bench_tools import MB, Figure, Given, cpu_seconds, median, pss, table, timed
from tests.end_to_end.house import ROOT, House
from tests.waiting import poll

#: Seconds of nothing over which idle CPU is counted.
QUIET = 30.0


def run(given: Given) -> list[Figure]:
    """`--help` several times; then 8 + 8 children with 64 quiet shards."""
    command = [sys.executable, "-m", "supervisor", "--help"]
    times = [timed(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True)) for _ in range(7)]
    with House(given.work / "idle", shards=64, consumers=8, senders=8, heartbeat="") as house:
        began = time.monotonic()
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        started = time.monotonic() - began
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 64, "all shards are held", 90)
        held = time.monotonic() - began
        before, began = cpu_seconds(house.tree()), time.monotonic()
        poll(lambda: time.monotonic() - began > QUIET, "half a minute of nothing", QUIET + 10, 0.5)
        spent, took = cpu_seconds(house.tree()) - before, time.monotonic() - began
        footprint = pss(house.tree())
        house.stop()
    figures = [
        Figure("`sls-siem --help`, wall, median of 7", median(times), "s", 0.3, 0.15, least=False),
        Figure("idle, 64 quiet shards, 8 + 8 children", 100 * spent / took, "% of a core", 15, 5, least=False),
        Figure("memory, idle, 8 + 8 children, PSS", footprint / MB, "MB", 600, 450, least=False),
        Figure("from start to running, 8 + 8 children", started, "s"),
        Figure("from start to 64 shards held", held, "s"),
    ]
    table("Start and idle", ("what", "is"), [(one.what, f"{one.value:.3g} {one.unit}") for one in figures])
    return figures
