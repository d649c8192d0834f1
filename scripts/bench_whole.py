"""`scripts/bench whole`: end to end through both emulators, raw MB per CPU-second over all our processes.

CPU counts from the moment all children run until the HEC emulator, the witness, has every log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from scripts import bench_core
from scripts.bench_tools import MB, Figure, Given, cpu_seconds, median, table
from tests.end_to_end.house import ROOT, House, Remote
from tests.waiting import poll
from worker.process import MALLOC

#: Raw bytes that the SLS emulator is given at a time.
STEP = 64_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the whole house."""

    name: str
    megabytes: int
    encoder: str = "compiled"
    append: dict[str, Any] = field(default_factory=dict)
    house: dict[str, Any] = field(default_factory=dict)
    logs: int = 0
    """So many logs instead of megabytes."""
    sources: int = 1
    sink: bool = False
    """Before a HEC that only counts."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run took."""

    raw: float
    logs: int
    wall: float
    consumers: float
    senders: float
    supervisor: float

    @property
    def cpu(self) -> float:
        """Seconds, all our processes."""
        return self.consumers + self.senders + self.supervisor

    @property
    def rate(self) -> float:
        """Raw MB per CPU-second."""
        return self.raw / MB / self.cpu

    def cells(self) -> list[str]:
        """For a table."""
        return [
            f"{self.raw / MB:.0f}", f"{self.logs}", f"{self.wall:.1f}", f"{self.raw / MB / self.wall:.0f}", f"{self.cpu:.2f}",
            f"{self.consumers:.2f}", f"{self.senders:.2f}", f"{self.supervisor:.2f}", f"**{self.rate:.0f}**",
        ]  # fmt: skip


SOURCE = """
[[source]]
name = "l{0}"
project = "p"
logstore = "l{0}"
endpoint = "{1}"
consumer_group = "g"
start = "begin"
access_key_id = "ak"
access_key_secret = "sk"
heartbeat_interval = "1s"
consumer_timeout = "6s"
"""
HEAD = ("raw MB", "logs", "wall s", "raw MB/s", "CPU s", "consumers", "senders", "supervisor", "raw MB per CPU-second")


def run(given: Given) -> list[Figure]:
    """Default settings, 8 shards, 2 consumers, 2 senders; and what others do with the same emulators."""
    rows: list[tuple[str, Spent]] = []
    for number in range(given.rounds):
        rows.append(("compiled", measure(Case("compiled", given.megabytes), given.work / f"compiled-{number}")))
        small = Case("python", max(64, given.megabytes // 4), encoder="python")
        rows.append(("python", measure(small, given.work / f"python-{number}")))
    counting = Case("compiled, a HEC that only counts", given.megabytes, sink=True)
    rows.append((counting.name, measure(counting, given.work / "counting")))
    rows.append(("the SDK's ConsumerWorker, batched", peer("batched", given.work / "batched", 64)))
    rows.append(("the founding document's program", peer("founding", given.work / "founding", 4)))
    table("End to end", ("what", *HEAD), [(name, *spent.cells()) for name, spent in rows])
    unit = "raw MB per CPU-second"
    compiled, python = (median(spent.rate for name, spent in rows if name == kind) for kind in ("compiled", "python"))
    batched, founding = rows[-2][1].rate, rows[-1][1].rate
    return [
        Figure("end to end, compiled encoder", compiled, unit, 150, 250),
        Figure("end to end, pure Python", python, unit, 50, 70),
        Figure("end to end, compiled, before a HEC that only counts", rows[-3][1].rate, unit),
        Figure("the same: the SDK's ConsumerWorker, batched posts", batched, unit),
        Figure("the same: the founding document's program", founding, unit),
        Figure("end to end against the SDK's ConsumerWorker", compiled / batched, "×"),
        Figure("end to end against the founding document's program", compiled / founding, "×"),
        *bench_core.run(given),
    ]


def fill(house: House, case: Case) -> None:
    """Give the SLS emulator what there is to forward, a piece at a time, each source its part."""
    size = min(STEP, case.megabytes * 1_000_000) // case.sources
    steps = [{"logs": 100_000}] * (case.logs // 100_000) or [{"bytes": size}] * (case.megabytes * 1_000_000 // size)
    for place, step in enumerate(steps):
        store = place % case.sources
        first = place < case.sources
        given = (
            {"logstore": f"l{store}" if store else "l"}
            | (case.append if first else {})
            | ({"seed": store + 1} if first else {})
        )
        house.sls.post("append", **step, **given)


def peer(kind: str, work: Path, megabytes: int) -> Spent:
    """Another program between the same emulators."""
    work.mkdir()
    sls = Remote("tests.emulators.sls", "--shards", "8", "--fill", f"{megabytes}MB", log=work / "sls.log")
    hec = Remote("tests.emulators.hec", log=work / "hec.log")
    logs = sum(made["logs"] for made in sls.get("stats")["generated"].values())
    raw = sum(shard["raw_bytes"] for shard in sls.get("shards"))
    command = [sys.executable, "-m", "scripts.bench_peer", kind, f"http://127.0.0.1:{sls.port}", hec.ready["url"]]
    with (work / "log").open("wb") as out:
        process = subprocess.Popen(
            [*command, hec.ready["token"]], cwd=ROOT, stdout=out, stderr=out, env=os.environ | MALLOC
        )
    try:
        began = time.monotonic()
        poll(lambda: taken(hec, kind) >= logs, f"{logs} logs; {(work / 'log').read_text()[-2000:]}", 560, 0.1)
        wall, spent = time.monotonic() - began, cpu_seconds([process.pid])
    finally:
        process.kill()
        process.wait()
        sls.stop()
        hec.stop()
    return Spent(raw, logs, wall, spent, 0.0, 0.0)


def taken(hec: Remote, kind: str) -> int:
    """Logs that came. Of the founding document's Splunk indexes none, as they have no `event`: its requests count."""
    stats = hec.get("stats")
    return int(sum(stats["answers"].values()) if kind == "founding" else stats["stored"])


def measure(case: Case, work: Path) -> Spent:
    """Run the house over new logs."""
    house = House(work, **{"shards": 8, "consumers": 2, "senders": 2, **case.house})
    house.more_environment["SLS_SIEM_ENCODER"] = case.encoder
    if case.sink:
        house.hec_module = "scripts.bench_sink"
    with house:
        for number in range(1, case.sources):
            house.sls.post("logstore", logstore=f"l{number}", shards=1)
            house.toml += SOURCE.format(number, f"http://127.0.0.1:{house.sls.port}")
        house.configure()
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        before = {pid: cpu_seconds([pid]) for pid in house.tree()}
        began = time.monotonic()
        fill(house, case)
        stores = [{"logstore": one["logstore"]} for one in house.sls.get("stats")["logstores"]]
        raw = sum(shard["raw_bytes"] for one in stores for shard in house.sls.get("shards?" + urlencode(one)))
        logs = sum(s["logs"] for s in house.sls.get("stats")["generated"].values())
        poll(lambda: house.hec.get("stats")["distinct"] >= logs, f"{logs} logs; {house.tail()}", 560, 0.2)
        wall = time.monotonic() - began
        spent = {pid: cpu_seconds([pid]) - before.get(pid, 0.0) for pid in house.tree()}
        kinds = {child["pid"]: child["kind"] for child in house.status()["children"]}
        house.stop()
    by_kind = dict.fromkeys(("consumer", "sender", "supervisor"), 0.0)
    for pid, seconds in spent.items():
        by_kind[kinds.get(pid, "supervisor")] += seconds
    return Spent(raw, logs, wall, by_kind["consumer"], by_kind["sender"], by_kind["supervisor"])
