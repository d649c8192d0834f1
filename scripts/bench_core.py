"""A part of `scripts/bench whole`: our processes on one core, which is thereby full, and the emulators on the others.

The backlog is there at once and the HEC only counts, so that nobody waits for anybody but for our core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.bench_tools import MB, Figure, Given, Took, cpu_seconds, table
from tests.end_to_end.house import House
from tests.waiting import poll

#: Raw bytes that the SLS emulator makes; the rest of a backlog is the same again.
REUSE = 64_000_000


def run(given: Given) -> list[Figure]:
    """Both encoders; nothing where there is but one core."""
    if len(os.sched_getaffinity(0)) < 2:
        return []
    # Four times as much as in the other parts, by reference: the first second, when the core is not full, shall count for little.
    sizes = {"compiled": 4 * given.megabytes, "python": max(64, given.megabytes)}
    found = {name: measure(size, given.work / f"core-{name}", name) for name, size in sizes.items()}
    head = ("encoder", "raw MB", "wall s", "of the core", "raw MB/s", "raw MB per CPU-second")
    table("All our processes on one core, both emulators on the others", head, [
        (name, f"{one.raw / MB:.0f}", f"{one.wall:.1f}", f"{100 * one.cpu / one.wall:.0f} %", f"**{one.speed:.0f}**",
         f"{one.rate:.0f}")
        for name, one in found.items()
    ])  # fmt: skip
    return [Figure(f"through one core at saturation, {name}", one.speed, "raw MB/s") for name, one in found.items()]


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """What is started herein runs on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(megabytes: int, work: Path, encoder: str) -> Took:
    """Default settings, 8 shards, 2 consumers, 2 senders."""
    ours, *others = sorted(os.sched_getaffinity(0))
    house = House(work, hec_module="scripts.bench_sink", more_environment={"SLS_SIEM_ENCODER": encoder})
    with on(set(others)), house:
        with on({ours}):
            house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 8, "all shards are held", 90)
        found = through(house, megabytes)
        house.stop()
    return found


def through(house: House, megabytes: int) -> Took:
    """A backlog that is there at once, from the first pull to the last event."""
    house.sls.post("append", bytes=0, reuse=REUSE)
    before, had = cpu_seconds(house.tree()), stored(house)
    logs = house.sls.post("append", bytes=megabytes * 1_000_000, reuse=REUSE)["logs"]
    poll(lambda: stored(house)["groups_read"] > had["groups"], "the first pull", 30, 0.005)
    began = time.monotonic()
    poll(lambda: house.hec.get("stats")["distinct"] >= logs, f"{logs} logs; {house.tail()}", 560, 0.05)
    wall, spent = time.monotonic() - began, cpu_seconds(house.tree()) - before
    return Took(stored(house)["raw_bytes"] - had["raw_bytes"], wall, spent)


def stored(house: House) -> dict[str, float]:
    """What the SLS emulator has, and how much of it was read."""
    (store,) = house.sls.get("stats")["logstores"]
    return {name: store[name] for name in ("groups", "groups_read", "raw_bytes")}
