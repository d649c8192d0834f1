"""`scripts/bench whole`: end to end through both emulators, raw MB per CPU-second over all our processes.

CPU counts from the moment all children run until the HEC emulator, the witness, has every log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench_tools import MB, Figure, Given, cpu_seconds, table
from tests.end_to_end.house import House
from tests.waiting import poll

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


HEAD = ("raw MB", "logs", "wall s", "raw MB/s", "CPU s", "consumers", "senders", "supervisor", "raw MB per CPU-second")


def run(given: Given) -> list[Figure]:
    """Default settings, 8 shards, 2 consumers, 2 senders."""
    cases = [Case("compiled", given.megabytes), Case("python", max(64, given.megabytes // 2), encoder="python")]
    found = {case.name: measure(case, given.work / case.name) for case in cases}
    table("End to end", ("encoder", *HEAD), [(name, *spent.cells()) for name, spent in found.items()])
    unit = "raw MB per CPU-second"
    return [
        Figure("end to end, compiled encoder", found["compiled"].rate, unit, 150, 250),
        Figure("end to end, pure Python", found["python"].rate, unit, 50, 70),
    ]


def measure(case: Case, work: Path) -> Spent:
    """Run the house over new logs."""
    house = House(work, **{"shards": 8, "consumers": 2, "senders": 2, **case.house})
    house.more_environment["SLS_SIEM_ENCODER"] = case.encoder
    with house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        before = {pid: cpu_seconds([pid]) for pid in house.tree()}
        began = time.monotonic()
        for done in range(0, case.megabytes * 1_000_000, STEP):
            house.sls.post(
                "append", bytes=min(STEP, case.megabytes * 1_000_000 - done), **(case.append if not done else {})
            )
        raw = sum(s["raw_bytes"] for s in house.sls.get("shards"))
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
