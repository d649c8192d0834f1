"""`scripts/bench latency`: seconds from a LogGroup's arrival in SLS to its acceptance by Splunk, by the two emulators' clocks.

Idle: one log now and then over 8 shards. Half load: half of what this machine carries end to end with both emulators on it.
"""

from __future__ import annotations

import random
import time

from scripts.bench_tools import Figure, Given, table
from tests.end_to_end.house import House
from tests.waiting import poll

#: Seconds of each.
IDLE, LOADED = 60.0, 30.0
#: Logs a second: about 11 MB/s of the generator's mix.
HALF_LOAD = 20_000


def run(given: Given) -> list[Figure]:
    """Default settings, 2 + 2 children."""
    rows, figures = [], []
    for name, logs in (("idle", 0), ("half load", HALF_LOAD)):
        seconds = measure(given, name, logs)
        half, most, worst = at(seconds, 0.5), at(seconds, 0.99), seconds[-1]
        rows.append((name, len(seconds), f"{half:.2f}", f"{most:.2f}", f"{worst:.2f}"))
        must, aim = (1.5, 1.0) if not logs else (None, None)
        figures.append(Figure(f"arrival in SLS → accepted by HEC, {name}, p50", half, "s"))
        figures.append(Figure(f"arrival in SLS → accepted by HEC, {name}, p99", most, "s", must, aim, least=False))
    table("From arrival in SLS to acceptance by HEC", ("load", "LogGroups", "p50 s", "p99 s", "most s"), rows)
    return figures


def at(ordered: list[float], share: float) -> float:
    """A quantile."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(given: Given, name: str, logs: int) -> list[float]:
    """Sorted seconds, of the groups that came once all ran steadily."""
    with House(given.work / name.replace(" ", "-"), shards=8, consumers=2, senders=2) as house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 8, "all shards are held", 90)
        if logs:
            house.sls.post("feed", logs=logs)
            time.sleep(5)
        house.sls.post("append", logs=8)  # the generator's first call takes seconds of the emulator
        time.sleep(3)
        since = time.time()
        if logs:
            time.sleep(LOADED)
            house.sls.post("feed", logs=0)
        else:
            chance = random.Random(1)
            while time.time() < since + IDLE:
                house.sls.post("append", logs=1, shard=chance.randrange(8))
                time.sleep(chance.uniform(0.1, 0.4))
        arrived = {name: when for name, when in house.sls.get("arrivals").items() if when >= since}
        poll(lambda: arrived.keys() <= house.hec.get("times").keys(), f"all delivered; {house.tail()}", 300, 1)
        times = house.hec.get("times")
        house.stop()
    return sorted(times[name] - when for name, when in arrived.items())
