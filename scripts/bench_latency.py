"""`scripts/bench latency`: seconds from a LogGroup's arrival in SLS to its acceptance by Splunk, by the two emulators' clocks.

Idle: one log now and then over 8 shards. Half load: half of what the same house carried a moment before, with both emulators
on the machine; the HEC only counts, and notes when a LogGroup's first event came.
"""

from __future__ import annotations

import random
import time

from scripts.bench_core import REUSE, through
from scripts.bench_tools import MB, Figure, Given, table
from tests.end_to_end.house import House
from tests.waiting import poll

#: Seconds of each.
IDLE, LOADED = 60.0, 30.0
#: Raw bytes of a log of the generator's mix.
LOG = 544


def run(given: Given) -> list[Figure]:
    """Default settings, 2 + 2 children."""
    most, loaded = measure_half(given)
    rows, figures = [], []
    half = f"half load, {most / 2:.0f} of {most:.0f} MB/s"
    for name, seconds in (("idle", measure_idle(given)), (half, loaded)):
        middle, late, worst = at(seconds, 0.5), at(seconds, 0.99), seconds[-1]
        rows.append((name, len(seconds), f"{middle:.2f}", f"{late:.2f}", f"{worst:.2f}"))
        must, aim = (1.5, 1.0) if name == "idle" else (None, None)
        figures.append(Figure(f"arrival in SLS → accepted by HEC, {name}, p50", middle, "s"))
        figures.append(Figure(f"arrival in SLS → accepted by HEC, {name}, p99", late, "s", must, aim, least=False))
    table("From arrival in SLS to acceptance by HEC", ("load", "LogGroups", "p50 s", "p99 s", "most s"), rows)
    return figures


def at(ordered: list[float], share: float) -> float:
    """A quantile."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def start(house: House) -> None:
    """Until all shards are held."""
    house.start()
    poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
    poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 8, "all shards are held", 90)


def measure_idle(given: Given) -> list[float]:
    """Sorted seconds."""
    with House(given.work / "idle", shards=8, consumers=2, senders=2) as house:
        start(house)
        house.sls.post("append", logs=8)  # the generator's first call takes seconds of the emulator
        time.sleep(3)
        since = time.time()
        chance = random.Random(1)
        while time.time() < since + IDLE:
            house.sls.post("append", logs=1, shard=chance.randrange(8))
            time.sleep(chance.uniform(0.1, 0.4))
        found = waited(house, since)
        house.stop()
    return found


def measure_half(given: Given) -> tuple[float, list[float]]:
    """Raw MB/s of a backlog, and sorted seconds of what then came at half of that rate."""
    sink = {"hec_module": "scripts.bench_sink", "hec_options": ("--times",)}
    with House(given.work / "half", shards=8, consumers=2, senders=2, **sink) as house:  # type: ignore[arg-type]
        start(house)
        most = through(house, given.megabytes).speed
        house.sls.post("feed", logs=most / 2 * MB / LOG, reuse=REUSE)
        time.sleep(5)
        since = time.time()
        time.sleep(LOADED)
        house.sls.post("feed", logs=0)
        found = waited(house, since)
        house.stop()
    return most, found


def waited(house: House, since: float) -> list[float]:
    """Sorted seconds of what has come to SLS since then."""
    arrived = {name: when for name, when in house.sls.get("arrivals").items() if when >= since}
    poll(lambda: arrived.keys() <= house.hec.get("times").keys(), f"all delivered; {house.tail()}", 300, 1)
    times = house.hec.get("times")
    return sorted(times[name] - when for name, when in arrived.items())
