"""`scripts/bench catchup`: one shard with a backlog, read by a consumer of ours and by the SDK's ConsumerWorker; same emulator,
same run, the same bodies. Ours verifies, spools durably and checkpoints; the ConsumerWorker's processor does nothing, or, marked
durable, puts what it is given on the disk before its checkpoint.

The wall is from the first answered pull to the last, by the emulator's record. CPU is the consumer's own process, from idle to the
last checkpoint. Bodies are compressed once before anybody is timed, so that the emulator costs everybody the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench_tools import MB, Figure, Given, Took, cpu_seconds, median, table
from tests.emulators.generator import Generator
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_client import SlsClient
from tests.emulators.sls_store import Shard, encode_cursor
from tests.end_to_end.house import ROOT
from tests.waiting import poll
from tests.worker.consuming import House, source_of
from worker.process import MALLOC

#: Raw bytes of one pull: as much as SLS hands out at once.
PULL = 9_500_000
#: Seconds after which a reader that is slow has shown how slow.
ENOUGH = 40.0
#: The SDK's settings that can make it faster, each a candidate for its best.
TUNED: tuple[dict[str, Any], ...] = tuple(
    {"data_fetch_interval": interval, "worker_pool_size": 8, "heartbeat_interval": 5, "accept_compress_type": codec}
    for interval in (0.1, 0.02, 0.001)
    for codec in ("lz4", "zstd")
)


@dataclass(frozen=True, slots=True)
class Run(Took):
    """How one reader did."""

    name: str

    def cells(self) -> list[str]:
        """For the table."""
        return [self.name, f"{self.raw / MB:.0f}", f"{self.wall:.2f}", f"{self.speed:.1f}", f"{self.cpu:.2f}",
                f"{self.rate:.0f}"]  # fmt: skip


def run(given: Given) -> list[Figure]:
    """Ours several times, the ConsumerWorker at its defaults, and at each of its candidates."""
    os.environ.update(MALLOC)  # ours has it from its supervisor; the peer is a child of this process
    with SlsEmulator(shards=1) as sls:
        bodies = Bodies(sls, given.megabytes)
        mine = [ours(sls, bodies, given.work / f"ours-{number}", f"ours-{number}") for number in range(given.rounds)]
        plain = peer(sls, bodies, "defaults", {})
        tuned = [peer(sls, bodies, words(one), one) for one in TUNED]
        durable = [peer(sls, bodies, f"{words(one)}, durable", one, given.work / f"{n}") for n, one in enumerate(TUNED)]
    best, kept = (max(some, key=lambda one: one.speed) for some in (tuned, durable))
    table(
        "One shard catching up",
        ("reader", "raw MB", "wall s", "raw MB/s", "CPU s", "raw MB per CPU-second"),
        [one.cells() for one in (*mine, plain, *tuned, *durable)],
    )
    speed = median([one.speed for one in mine])
    return [
        Figure("consumer alone, verified and durable", median([one.rate for one in mine]), "raw MB per CPU-second", 500, 700),
        Figure("one shard catching up", speed, "raw MB/s"),
        Figure("one shard catching up, against ConsumerWorker at its defaults", speed / plain.speed, "×", 10),
        Figure(f"the same, at its best settings, durable ({kept.name})", speed / kept.speed, "×", 1.5),
        Figure(f"the same, at its best settings, doing nothing ({best.name})", speed / best.speed, "×", 1.5),
    ]  # fmt: skip


def words(settings: dict[str, Any]) -> str:
    """What differs."""
    return f"{settings['accept_compress_type']}, each {settings['data_fetch_interval']} s"


class Bodies:
    """The same few pulls, stored by reference as often as wanted."""

    def __init__(self, sls: SlsEmulator, megabytes: int) -> None:
        self._sls = sls
        made = Generator(1)
        self._pulls = [made.data(max_bytes=PULL) for _ in range(4)]
        self.times = max(1, round(megabytes * MB / (PULL * len(self._pulls))))
        store = sls.store()
        for number, groups in enumerate(self._pulls):
            sls.repeat(groups, 1, 0, store=store)
            self._warm(number)

    def _warm(self, number: int) -> None:
        shard = self._sls.store().shards[0]
        cursor = encode_cursor(shard.first + sum(map(len, self._pulls[:number])))
        with SlsClient(self._sls) as client:
            for codec in ("lz4", "zstd"):
                client.pull(0, cursor, codec=codec)

    def logstore(self, name: str) -> Shard:
        """An empty one."""
        return self._sls.add_logstore(name, 1).shards[0]

    def fill(self, name: str) -> int:
        """The backlog, all at once; its raw bytes."""
        store = self._sls.store(name)
        # The very objects that were compressed before: the emulator knows their bodies by identity.
        framed = self._sls.store().shards[0].framed
        with self._sls.service.lock:
            for _ in range(self.times):
                place = 0
                for groups in self._pulls:
                    part = framed[place : place + len(groups)]
                    store.shards[0].append_framed(part, self._sls.clock.now())
                    place += len(groups)
        return int(store.shards[0].ends[-1])


def ours(sls: SlsEmulator, bodies: Bodies, work: Path, name: str) -> Run:
    """A consumer that is idle, and then far behind."""
    shard = bodies.logstore(name)
    with House(work, source_of(sls, name=name, logstore=name, consumer_group="g", heartbeat_interval=5.0,
                               consumer_timeout=30.0)) as house:  # fmt: skip
        house.start()
        poll(lambda: sls.drained("g", store=sls.store(name)), "idle", 60)
        pid, (before, since) = house.processes[0].pid, (cpu_seconds([house.processes[0].pid]), len(shard.pulls))
        raw = bodies.fill(name)
        poll(lambda: sls.drained("g", store=sls.store(name)), "the last checkpoint", 300)
        spent = cpu_seconds([pid]) - before
        found = measure(name, shard, since, spent, raw)
        house.stop()
    return found


def peer(sls: SlsEmulator, bodies: Bodies, name: str, settings: dict[str, Any], file: Path | None = None) -> Run:
    """The SDK's, until it is through or has shown how slow it is."""
    store = f"peer-{name}".replace(", ", "-").replace(".", "-").replace(" ", "-")
    shard = bodies.logstore(store)
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.bench_catchup_peer", sls.proxy, store, json.dumps(settings),
         *([str(file)] if file else [])],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        poll(lambda: shard.pulls, "it pulls", 60)
        before, since = cpu_seconds([process.pid]), len(shard.pulls)
        raw = bodies.fill(store)
        until = time.monotonic() + ENOUGH
        poll(lambda: shard.high_water >= shard.end or time.monotonic() > until, "it reads", ENOUGH + 60, 0.002)
        return measure(f"ConsumerWorker, {name}", shard, since, cpu_seconds([process.pid]) - before, raw)
    finally:
        process.kill()
        process.wait()
        if file:
            file.unlink(missing_ok=True)


def measure(name: str, shard: Shard, since: int, spent: float, raw: int) -> Run:
    """From the end of the first pull with something in it to the end of the last: by what was handed out between them."""
    pulls = [one for one in list(shard.pulls)[since:] if one.count]
    read = sum(one.raw_bytes for one in pulls)
    between = read - pulls[0].raw_bytes
    wall = pulls[-1].time - pulls[0].time
    return Run(between, wall, spent * between / min(read, raw), name)
