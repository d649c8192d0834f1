"""`scripts/bench memory`: PSS of the whole tree, 8 consumers and 8 senders: idle, loaded, after a backlog.

The load may go on for as long as one likes: the SLS emulator stores the same logs again by reference, the HEC only counts.
"""

from __future__ import annotations

import time

from scripts.bench_core import REUSE, stored
from scripts.bench_tools import MB, Figure, Given, pss, table
from tests.end_to_end.house import House
from tests.waiting import poll

#: Raw bytes of a log of the generator's mix.
LOG = 544


def run(given: Given) -> list[Figure]:
    """A budget of 2 GiB, as small as eight and eight may have."""
    with House(given.work / "house", shards=32, consumers=8, senders=8, hec_module="scripts.bench_sink") as house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 32, "all shards are held", 90)
        time.sleep(5)
        idle = pss(house.tree())
        rows, loaded = load(house, given)
        house.hec.post("outage", on=True)
        house.sls.post("append", bytes=given.megabytes * 10**6, reuse=REUSE)
        poll(lambda: spooled(house), f"the backlog is spooled; {house.tail()}", 500, 1)
        backlog = pss(house.tree())
        house.hec.post("outage", on=False)
        draining = [pss(house.tree())]
        while not all_there(house):
            draining += watch(house, 1)
        time.sleep(10)
        after = pss(house.tree())
        house.stop()
    table("Memory, PSS of the tree, 8 + 8 children, MB", ("when", "MB"), [
        ("idle", f"{idle / MB:.0f}"),
        *rows,
        (f"{given.megabytes} MB of backlog, Splunk down", f"{backlog / MB:.0f}"),
        ("while it drains, most", f"{max(draining) / MB:.0f}"),
        ("10 s after", f"{after / MB:.0f}"),
    ])  # fmt: skip
    third = len(loaded) // 3
    return [
        Figure("memory, idle, 32 shards, 8 + 8 children, PSS", idle / MB, "MB", 600, 450, least=False),
        Figure(f"memory, loaded {given.minutes:g} min, most, PSS", max(loaded) / MB, "MB", 2000, 1200, least=False),
        Figure("memory, the load's last third against its first", max(loaded[-third:]) / max(loaded[:third]), "×"),
        Figure("memory, a backlog drains, most, PSS", max(draining) / MB, "MB", 2000, 1200, least=False),
    ]


def load(house: House, given: Given) -> tuple[list[tuple[str, str]], list[int]]:
    """A row for each minute with the most of it, and PSS each second."""
    before, began = stored(house)["raw_bytes"], time.monotonic()
    house.sls.post("feed", logs=given.rate * MB / LOG, reuse=REUSE)
    found = watch(house, given.minutes * 60)
    house.sls.post("feed", logs=0)
    rate = (stored(house)["raw_bytes"] - before) / MB / (time.monotonic() - began)
    poll(lambda: all_there(house), f"all delivered; {house.tail()}", 500, 1)
    late = time.monotonic() - began - given.minutes * 60
    a_minute = round(len(found) / given.minutes) or 1
    rows = [
        (f"loaded with {rate:.0f} MB/s, most in minute {number}", f"{max(some) / MB:.0f}")
        for number, some in enumerate((found[at : at + a_minute] for at in range(0, len(found), a_minute)), 1)
    ]
    return [*rows, ("all of it delivered after the load's end, s", f"{late:.0f}")], found


def watch(house: House, seconds: float) -> list[int]:
    """PSS, each second."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1)
        found.append(pss(house.tree()))
    return found


def all_there(house: House) -> bool:
    """By the HEC that counts."""
    return bool(house.hec.get("stats")["distinct"] >= sum(house.sls.get("stats")["stored_again"].values()))


def spooled(house: House) -> bool:
    """Whether all that SLS has was pulled."""
    store = stored(house)
    return store["groups_read"] >= store["groups"]
