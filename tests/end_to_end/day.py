"""A day of a house in minutes: everything that goes wrong in a year, under load, one upon the other, at random.

The clock is the load: a disturbance begins when so many logs have come, and lasts for so many. What begins when is planned
before, from a seed; an unasked end of the supervisor is started again as systemd does, and remembered.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.buffer.power.machine import loop_mount, run
from tests.end_to_end.books import assert_books
from tests.end_to_end.day_clock import Clock
from tests.end_to_end.day_traces import Traces, living
from tests.end_to_end.day_troubles import DISTURBANCES
from tests.end_to_end.house import House
from tests.supervisor.running import heeds_signals
from tests.waiting import poll

#: `sls-siem` with a short patience and leaks on demand.
FRAGILE = (sys.executable, "-m", "tests.end_to_end.fragile")
#: The ballast, what must stay free, and some minutes of logs.
DISK_BYTES = 600 << 20


@dataclass(frozen=True, slots=True)
class Planned:
    """One disturbance; `at` and `until` in logs that have come."""

    at: int
    until: int
    name: str


def plan(names: Sequence[str], rounds: int, step: int, chance: random.Random) -> list[Planned]:
    """Each of them once a round, in another order each time; one begins every `step` logs and lasts for one to three steps."""
    found = []
    for turn in range(rounds):
        for place, name in enumerate(chance.sample(list(names), len(names))):
            at = (turn * len(names) + place + 1) * step
            found.append(Planned(at, at + chance.randint(step, 3 * step), name))
    return found


@dataclass
class Day:
    """The house, and what is wrong with it at the moment."""

    house: House
    chance: random.Random
    clock: Clock
    disk: Path | None = None
    """The spool's own file system, to be filled."""
    going: list[tuple[int, AbstractContextManager[None]]] = field(default_factory=list)
    """Until when, and what ends it."""
    before: int = 0
    """Logs that SLS had at the beginning."""
    ends: list[int] = field(default_factory=list)
    """Exit codes of supervisors that nobody had asked to stop."""
    begun: list[int] = field(default_factory=list)
    """Process groups of all supervisors."""
    said: Callable[[str], None] = print

    def run(self, planned: Sequence[Planned], patience: float) -> None:
        """All of it; `patience` in seconds for each step."""
        self.before = self.come()
        try:
            for one in planned:
                self._wait_for(one.at, patience)
                self.said(f"{one.at} logs: {one.name}")
                disturbance = DISTURBANCES[one.name](self)
                disturbance.__enter__()
                self.going.append((one.until, disturbance))
            self._wait_for(max(one.until for one in planned), patience)
        finally:
            self._end(lambda _: True)

    def _wait_for(self, logs: int, patience: float) -> None:
        poll(lambda: self.tend() >= logs, f"{logs} logs come; {self.house.tail()}", patience, 0.1)

    def tend(self) -> int:
        """End what is over, start a supervisor that has ended; the logs that have come since the beginning."""
        come = self.come() - self.before
        self._end(lambda until: until <= come)
        supervisor = self.house.supervisor
        if supervisor is not None and (code := supervisor.poll()) is not None:
            self.ends.append(code)
            self.start()
        return come

    def _end(self, is_over: Callable[[int], bool]) -> None:
        for one in [one for one in self.going if is_over(one[0])]:
            self.going.remove(one)
            one[1].__exit__(None, None, None)

    def come(self) -> int:
        """Logs that SLS has."""
        found: int = self.house.sls.get("stats")["generated"]["p/l"]["logs"]
        return found

    # the supervisor

    def start(self) -> None:
        """As the unit does. Before its first line a signal's default holds, which nobody can help."""
        pid = self.house.start().pid
        self.begun.append(pid)
        poll(lambda: heeds_signals(pid), f"it minds signals; {self.house.tail()}", 60)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """The supervisor alone, and start another when it has ended."""
        assert self.house.supervisor is not None
        self.house.supervisor.send_signal(signal.SIGCONT)
        self.house.supervisor.send_signal(number)
        code = self.house.supervisor.wait(60)
        assert code == (0 if number == signal.SIGTERM else -number), f"{code}; {self.house.tail()}"
        self.start()

    def child(self, kind: str = "") -> tuple[str, int]:
        """The name and pid of any, or of any of that kind."""
        living: list[tuple[str, int]] = []

        def found() -> bool:
            self.tend()
            children = self.house.status().get("children", [])
            living[:] = [
                (one["name"], one["pid"]) for one in children
                if one["pid"] and one["name"].startswith(kind) and Path(f"/proc/{one['pid']}").exists()
            ]  # fmt: skip
            return bool(living)

        poll(found, f"somebody lives; {self.house.tail()}", 60, 0.1)
        return self.chance.choice(living)


def wait_quiet(house: House, deadline: float) -> None:
    """All is delivered, nothing waits, everybody runs for a while, no connection is being made."""
    house.wait_delivered(deadline)
    calm_since = time.monotonic()

    def is_calm() -> bool:
        nonlocal calm_since
        status = house.status()
        if status.get("state") != "running" or status["spool"]["batches"]:
            calm_since = time.monotonic()
        return time.monotonic() - calm_since > 6

    poll(is_calm, f"it is quiet; {house.status()}; {house.tail()}", 120, 0.2)


@contextlib.contextmanager
def own_disk(work: Path) -> Iterator[Path | None]:
    """A file system for the spool alone; None, and it is never full, where none can be mounted."""
    if os.geteuid() or not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        print("the disk is not filled: that needs root and /dev/loop-control")
        yield None
        return
    image = work / "image"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-F", image)
    with loop_mount(image, "ext4", work / "disk") as mounted:
        yield mounted


def live(work: Path, seed: int, *, rounds: int = 1, rate: int = 1000, step: int = 2000) -> str:
    """One day, and a line about it. AssertionError: something is lost, or left behind.

    `rate`: logs that come in a second; `step`: logs between two disturbances.
    """
    chance, clock = random.Random(seed), Clock(work)
    with own_disk(work) as disk, House(
        work / "house", shards=4, consumers=2, senders=2, program=FRAGILE, variables=clock.variables,
        sls_options=("--fill", "20000"),
    ) as house:  # fmt: skip
        if disk:
            (disk / "spool").mkdir()
            house.spool.symlink_to(disk / "spool")
        house.config.write_text(house.settings().replace("2GiB", "768MiB"))
        day = Day(house, chance, clock, disk)
        day.start()
        wait_quiet(house, 120)
        before = Traces.of(house)
        house.sls.post("feed", logs=rate)
        day.run(plan(tuple(DISTURBANCES), rounds, step, chance), 300)
        house.sls.post("feed", logs=0)
        wait_quiet(house, 300)
        after, status = Traces.of(house), house.status()
        assert house.stop() == 0, house.tail()

        delivered, expected = house.delivered(), house.expected()
        assert not expected - delivered.keys(), "lost"
        assert not delivered.keys() - expected, "made up"
        assert_books(house)
        assert status["dead_letters"]["count"] == 0
        assert not day.ends, f"ended unasked with {day.ends}: {house.tail()}"
        poll(lambda: not living(day.begun), f"no orphan: {living(day.begun)}", 60)
        after.assert_no_more_than(before)
        copies = delivered.total() - len(expected)
        return f"seed {seed}: {len(expected)} events, none lost, {copies} copies; {before.compared(after)}"
