"""`scripts/bench memory`: PSS of the whole tree, 8 consumers and 8 senders: idle, loaded, after a backlog."""

from __future__ import annotations

import time

from scripts.bench_tools import MB, Figure, Given, pss, table
from tests.end_to_end.house import House
from tests.waiting import poll

#: Seconds of load; the figure of design.md is over ten minutes: `--megabytes 8000` makes it so.
RATE = 13.0


def run(given: Given) -> list[Figure]:
    """A budget of 2 GiB, as small as eight and eight may have."""
    seconds = max(60.0, given.megabytes / RATE)
    with House(given.work / "house", shards=32, consumers=8, senders=8) as house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 32, "all shards are held", 90)
        time.sleep(5)
        idle = pss(house.tree())
        house.sls.post("feed", logs=int(RATE * MB / 544))
        loaded = watch(house, seconds)
        house.sls.post("feed", logs=0)
        delivered(house)
        house.hec.post("outage", on=True)
        for _ in range(0, given.megabytes, 64):
            house.sls.post("append", bytes=64 * 10**6)
        poll(lambda: spooled(house), f"the backlog is spooled; {house.tail()}", 500, 1)
        backlog = pss(house.tree())
        house.hec.post("outage", on=False)
        draining = [pss(house.tree())]
        while not all_there(house):
            draining += watch(house, 1)
        time.sleep(10)
        after = pss(house.tree())
        house.stop()
    thirds = [max(loaded[len(loaded) * i // 3 : len(loaded) * (i + 1) // 3]) for i in range(3)]
    table("Memory, PSS of the tree, 8 + 8 children, MB", ("when", "MB"), [
        ("idle", f"{idle / MB:.0f}"),
        *((f"loaded with {RATE:g} MB/s, most in minute {seconds / 60 * i / 3:.1f} to {seconds / 60 * (i + 1) / 3:.1f}",
           f"{one / MB:.0f}") for i, one in enumerate(thirds)),
        (f"{given.megabytes} MB of backlog, Splunk down", f"{backlog / MB:.0f}"),
        ("while it drains, most", f"{max(draining) / MB:.0f}"),
        ("10 s after", f"{after / MB:.0f}"),
    ])  # fmt: skip
    return [
        Figure("memory, idle, 32 shards, 8 + 8 children, PSS", idle / MB, "MB", 600, 450, least=False),
        Figure(f"memory, loaded {seconds / 60:.0f} min, most, PSS", max(loaded) / MB, "MB", 2000, 1200, least=False),
        Figure("memory, its last third against its first", thirds[2] / thirds[0], "×"),
        Figure("memory, a backlog drains, most, PSS", max(draining) / MB, "MB", 2000, 1200, least=False),
    ]


def watch(house: House, seconds: float) -> list[int]:
    """PSS, each second."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1)
        found.append(pss(house.tree()))
    return found


def logs_made(house: House) -> int:
    """By the SLS emulator."""
    return sum(made["logs"] for made in house.sls.get("stats")["generated"].values())


def all_there(house: House) -> bool:
    """By the HEC emulator."""
    return bool(house.hec.get("stats")["distinct"] >= logs_made(house))


def delivered(house: House) -> None:
    """Wait for all."""
    poll(lambda: all_there(house), f"all delivered; {house.tail()}", 500, 1)


def spooled(house: House) -> bool:
    """Whether all that SLS has was pulled."""
    (store,) = house.sls.get("stats")["logstores"]
    return bool(store["groups_read"] >= store["groups"])
