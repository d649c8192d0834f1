"""The children of one supervisor: their slots, their processes, and the board between. What a slot decides is done here.

The loop says when, and what an end means for all.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from buffer.spool import Spool
from supervisor import memory
from supervisor.child import Action, Child, State
from supervisor.disk_waits import DiskWaits
from supervisor.processes import Processes, Target
from supervisor.settings import Settings
from worker import logs
from worker.board import Board
from worker.child import ChildContext

log = logs.get_logger()
#: Seconds without a beat after which it is looked up who waits for a disk.
SILENT = 5.0
#: Seconds until SIGKILL is sent, and said, again: who sleeps in the kernel ends when the kernel lets him.
KILL_AGAIN = 5.0
#: Seconds between two looks after which we were stopped, or the machine slept, and the children with us.
ABSENT = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is gone."""

    child: Child
    code: int
    asked: bool
    """It was told to stop."""


class Children:
    """Consumers first, then senders, each in its slot for as long as we live."""

    def __init__(
        self, settings: Settings, spool: Spool, budget: int, *, once: bool = False, targets: dict[str, Target] | None = None
    ) -> None:  # fmt: skip
        self.settings, self.budget = settings, budget
        """What the next that is started is told. Bytes."""
        self._spool, self._once = spool, once
        consumers, senders = settings.supervisor.workers, settings.supervisor.senders
        kinds = [("consumer", slot) for slot in range(consumers)] + [("sender", slot) for slot in range(senders)]
        self.all = [Child(kind, slot, index) for index, (kind, slot) in enumerate(kinds)]
        self.board = Board(len(self.all))
        self._boot = f"{os.getpid()}-{time.time_ns()}"
        self._processes = Processes(targets)
        self._disk_waits = DiskWaits()
        self._killed = False
        self._looked = math.inf
        self.at_disk: dict[str, float] = {}
        """Those with threads that wait for a disk, and for how many seconds, when it was last looked up."""

    def __iter__(self) -> Iterator[Child]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def prepare(self) -> None:
        """Before the first birth."""
        self._processes.prepare()

    @property
    def living(self) -> dict[int, Child]:
        """By pid."""
        return {child.pid: child for child in self.all if child.pid}

    @property
    def sentinels(self) -> list[int]:
        """One for each living process; readable when it has ended."""
        return self._processes.sentinels

    def are_running(self) -> bool:
        """Every one of them."""
        return all(child.state is State.RUNNING for child in self.all)

    # what is done to them

    def tend(self, now: float, *, may_start: bool) -> None:
        """Do what each slot wants done, but start nobody when that may not be."""
        if now - self._looked > ABSENT and self.living:
            log.warning("the supervisor stood still", seconds=round(now - self._looked, 1),
                        hint="a stopped or overcommitted machine; the children have time to show that they live")  # fmt: skip
            for child in self.all:
                child.excused = now
        self._looked = now
        for child in self.all:
            action = child.check(now, self.board.last_beat(child.index))
            if action is Action.START and may_start:
                self._start(child, now)
            elif action is Action.ABORT:
                log.error("child hangs: its stacks follow", child=child.name, state=child.state.value)
                child.aborted_at = now
                self._processes.signal(child.index, signal.SIGABRT)
            elif action is Action.KILL:
                log.error("child killed", child=child.name, state=child.state.value)
                child.stop_deadline = child.aborted_at = now + KILL_AGAIN
                self._processes.signal(child.index, signal.SIGKILL)

    def stop(self, child: Child, deadline: float, *, come_back: bool) -> None:
        """TERM, once; killed at the deadline (monotonic)."""
        child.stop(deadline, come_back=come_back)
        self._processes.signal(child.index, signal.SIGTERM)

    def stop_all(self, deadline: float, *, come_back: bool) -> None:
        """Together; with `come_back` those that were to come back do. Nobody is told twice, or gets more time by it."""
        for child in self.all:
            if child.pid and child.state is not State.STOPPING:
                self.stop(child, deadline, come_back=come_back and child.wanted)
            elif child.pid:
                child.stop_deadline = min(child.stop_deadline, deadline)
            if not come_back:
                child.wanted = False
                child.state = child.state if child.pid else State.STOPPED

    def tell(self, number: int) -> None:
        """A signal to those that run."""
        for child in self.all:
            if child.state is State.RUNNING:
                self._processes.signal(child.index, number)

    def kill_all(self) -> None:
        """-9, and no end is a failure any more."""
        self._killed = True
        self._processes.kill_all()

    def reap(self, now: float) -> list[Ended]:
        """Those that have ended since."""
        return [self._ended(self.all[index], code, now) for index, code in self._processes.reap()]

    def _ended(self, child: Child, code: int, now: float) -> Ended:
        asked = child.state is State.STOPPING
        clean = code == 0 or (asked and self._killed)
        child.ended(now, random.random(), clean=clean)
        if self._once and code == 0 and not asked:
            child.wanted, child.state = False, State.STOPPED
        if not clean:
            wait_seconds = round(max(0.0, child.start_at - now), 1)
            log.error(
                "child died", child=child.name, exit_code=code, failures=child.failures, again_in_seconds=wait_seconds
            )
        return Ended(child, code, asked)

    # a birth

    def _start(self, child: Child, now: float) -> None:
        self.board.clear_beat(child.index)
        with contextlib.suppress(OSError):
            (self._spool.run_directory / f"{child.name}.json").unlink()
        try:
            child.born(self._processes.start(child.index, self._context(child)), now)
        except OSError as error:
            child.ended(now, random.random(), clean=False)
            log.error("child cannot be started", child=child.name, error=str(error), failures=child.failures,
                      hint="the machine is out of processes, descriptors or memory; it is tried again")  # fmt: skip

    def _context(self, child: Child) -> ChildContext:
        return ChildContext(
            kind=child.kind, slot=child.slot, index=child.index, consumers=self.settings.supervisor.workers,
            senders=self.settings.supervisor.senders, spool_id=self._spool.id, run_directory=self._spool.run_directory,
            boot=self._boot, supervisor_pid=os.getpid(),
            max_in_flight_bytes=memory.in_flight_bytes(self.budget, len(self.all)),
            board=self.board, settings=self.settings.for_children(), once=self._once,
        )  # fmt: skip

    # the disk

    def see_who_waits_for_the_disk(self, now: float) -> None:
        """Whoever is silent while one waits for the disk may wait for what that one holds."""
        living = self.living
        silent = [c for c in living.values() if now - (self.board.last_beat(c.index) or c.started) > SILENT]
        waits = self._disk_waits.look(now, list(living)) if silent else {}
        if waits and not self.at_disk:
            log.warning("the disk does not answer", children=[living[pid].name for pid in waits],
                        silent=[child.name for child in silent], hint="dmesg, mounts, the disk's queue")  # fmt: skip
        for child in silent if waits else ():
            child.excused = now
        self.at_disk = {living[pid].name: seconds for pid, seconds in waits.items()}
