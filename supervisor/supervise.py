"""The loop: signals, reap, start what is due, see who is alive, memory, publish, sleep. Handlers only queue."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType

from buffer.spool import Spool
from supervisor import memory
from supervisor.child import STABLE_AFTER, Action, Child, State, is_crash_loop
from supervisor.disk_waits import DiskWaits
from supervisor.logfile import Tee
from supervisor.once import SAY_AFTER, SAY_EVERY, Step, next_step, waits_for
from supervisor.processes import Processes, Target
from supervisor.publish import Publisher
from supervisor.recovery import Recovery
from supervisor.settings import Settings, least_memory, needs_restart
from supervisor.systemd import Notifier
from worker import logs
from worker.board import Board
from worker.child import ChildContext
from worker.process import name_process

log = logs.get_logger()
TICK = 0.5
#: Seconds that systemd shall wait beyond stop_timeout, whatever TimeoutStopSec says: the last kills, and what closing takes.
KILL_PATIENCE = 15
#: Seconds without a beat after which it is looked up who waits for a disk.
SILENT = 5.0
EXIT_KILLED, EXIT_CRASH_LOOP, EXIT_SETTINGS, EXIT_REBUILD = 1, 70, 78, 65
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """The children and the loop."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], spool: Spool, publisher: Publisher, notifier: Notifier, *,
        once: bool = False, targets: dict[str, Target] | None = None, tee: Tee | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self._reload, self._spool, self._publisher, self._notifier = reload, spool, publisher, notifier
        self._once, self._tee = once, tee
        self._processes = Processes(targets)
        consumers, senders = settings.supervisor.workers, settings.supervisor.senders
        kinds = [("consumer", slot) for slot in range(consumers)] + [("sender", slot) for slot in range(senders)]
        self.children = [Child(kind, slot, index) for index, (kind, slot) in enumerate(kinds)]
        self._board = Board(len(self.children))
        self._boot = f"{os.getpid()}-{time.time_ns()}"
        self._memory = memory.Guard(memory.budget(settings.memory.budget))
        if self._memory.budget < (least := least_memory(len(self.children))):
            log.error("the memory that machine or cgroup allow is too little", budget_bytes=self._memory.budget,
                      least_bytes=least, hint="fewer children (workers, senders), or more memory")  # fmt: skip
        self._recovery = Recovery(spool, notifier, self._is_asked_to_stop, self._publish)
        self._disk_waits = DiskWaits()
        self._signals: list[int] = []
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._stopping = False
        self._killed = False
        self._rolling: list[Child] = []
        self._exit_code = 0
        self._last_stable = time.monotonic()
        self._every_second = 0.0
        self._say_at = time.monotonic() + SAY_AFTER
        self._ready = False

    # the loop

    def run(self) -> int:
        """Until all are stopped; children die with it whatever happens."""
        for one in (self._wakeup, self._wakeup_writer):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked since the program's first line
        name_process("sls-siem: supervisor")
        self._processes.prepare()
        try:
            self._recovery.run()
            while not (self._stopping and all(c.pid == 0 for c in self.children)):
                self._turn()
        finally:
            self._processes.kill_all()
            signal.set_wakeup_fd(-1)
            self._publish(down=True)
        document = self._publisher.document
        log.info("stopped", exit_code=self._exit_code, waiting_batches=document["spool"]["batches"],
                 dead_letters=document["dead_letters"]["count"])  # fmt: skip
        return self._exit_code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)  # nothing else: handlers may not log or lock

    def _turn(self) -> None:
        self._handle_signals()
        now = time.monotonic()
        self._reap(now)
        for child in self.children:
            self._act(child, self._check(child, now), now)
        self._roll()
        if self._recovery.wanted and not self._stopping and not any(child.pid for child in self.children):
            self._recover()
        if self._once and not self._stopping:
            self._see_if_done(now)
        if now >= self._every_second:
            self._every_second = now + 1.0
            self._each_second(now)
        self._sleep()

    def _sleep(self) -> None:
        wait([self._wakeup, *self._processes.sentinels], timeout=TICK)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _is_asked_to_stop(self) -> bool:
        return any(number != signal.SIGHUP for number in self._signals)

    # signals

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._on_hup()
            elif self._stopping:
                self._kill_all()
            else:
                self._begin_stop()

    def _begin_stop(self) -> None:
        log.info("stopping", children=sum(c.pid > 0 for c in self.children))
        patience = int(self.settings.supervisor.stop_timeout) + KILL_PATIENCE
        self._notifier.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={patience}000000")
        self._stopping = True
        deadline = time.monotonic() + self.settings.supervisor.stop_timeout
        for child in self.children:
            child.wanted = False
            if child.pid and child.state is not State.STOPPING:
                self._terminate(child, deadline)
            elif child.pid:
                child.stop_deadline = min(child.stop_deadline, deadline)
            else:
                child.state = State.STOPPED

    def _kill_all(self) -> None:
        log.error("second signal: killing the children")
        self._exit_code, self._killed = EXIT_KILLED, True
        self._processes.kill_all()

    def _terminate(self, child: Child, deadline: float, *, come_back: bool = False) -> None:
        child.stop(deadline, come_back=come_back)
        self._processes.signal(child.index, signal.SIGTERM)

    def _on_hup(self) -> None:
        try:
            fresh = self._reload()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file must not end the supervisor
            log.error(
                "settings not reloaded: they are wrong",
                error=str(error)[:2000],
                hint="mend the file and send HUP again",
            )
            return
        if reason := needs_restart(self.settings, fresh):
            log.error("settings not reloaded: this needs a restart", error=reason, hint="systemctl restart sls-siem")
            return
        self.settings = fresh
        self._publisher.settings = fresh
        self._spool.settings = fresh.spool
        self._memory.budget = memory.budget(fresh.memory.budget)
        logs.configure("supervisor", fresh.log.level)
        if self._tee:
            self._tee.reopen()
        self._rolling = list(self.children)
        log.info("settings reloaded; children are replaced one at a time")

    def _roll(self) -> None:
        """Replace one, stopping first; go on only when everyone runs."""
        if not self._rolling or self._stopping or any(c.state is not State.RUNNING for c in self.children):
            return
        child = self._rolling.pop(0)
        self._terminate(child, time.monotonic() + self.settings.supervisor.stop_timeout, come_back=True)

    # children

    def _check(self, child: Child, now: float) -> Action:
        action = child.check(now, self._board.last_beat(child.index))
        return Action.NOTHING if action is Action.START and self._publisher.stalled() else action

    def _see_who_waits_for_the_disk(self, now: float) -> None:
        """Whoever is silent while one waits for the disk may wait for what that one holds."""
        living = {child.pid: child for child in self.children if child.pid}
        silent = [c for c in living.values() if now - (self._board.last_beat(c.index) or c.started) > SILENT]
        waits = self._disk_waits.look(now, list(living)) if silent else {}
        if waits and not self._publisher.at_disk:
            log.warning("the disk does not answer", children=[living[pid].name for pid in waits],
                        silent=[child.name for child in silent], hint="dmesg, mounts, the disk's queue")  # fmt: skip
        for child in silent if waits else ():
            child.at_disk = now
        self._publisher.at_disk = {living[pid].name: seconds for pid, seconds in waits.items()}

    def _act(self, child: Child, action: Action, now: float) -> None:
        if action is Action.START and not self._recovery.wanted:
            self._start(child, now)
        elif action is Action.ABORT:
            log.error("child hangs: its stacks follow", child=child.name, state=child.state.value)
            child.aborted_at = now
            self._processes.signal(child.index, signal.SIGABRT)
        elif action is Action.KILL:
            log.error("child killed", child=child.name, state=child.state.value)
            child.stop_deadline = child.aborted_at = now + 5.0
            self._processes.signal(child.index, signal.SIGKILL)

    def _start(self, child: Child, now: float) -> None:
        self._board.clear_beat(child.index)
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
            max_in_flight_bytes=memory.in_flight_bytes(self._memory.budget, len(self.children)),
            board=self._board, settings=self.settings.for_children(), once=self._once,
        )  # fmt: skip

    def _reap(self, now: float) -> None:
        for index, code in self._processes.reap():
            self._ended(self.children[index], code, now)

    def _ended(self, child: Child, code: int, now: float) -> None:
        asked = child.state is State.STOPPING
        clean = code == 0 or (asked and self._killed)
        child.ended(now, random.random(), clean=clean)
        if not clean:
            wait_seconds = round(max(0.0, child.start_at - now), 1)
            log.error(
                "child died", child=child.name, exit_code=code, failures=child.failures, again_in_seconds=wait_seconds
            )
        if code == EXIT_SETTINGS:
            self._give_up(EXIT_SETTINGS)
        elif code == EXIT_REBUILD and not self._stopping:
            self._stop_to_recover()
        elif self._once and code == 0 and not asked:
            child.wanted, child.state = False, State.STOPPED

    def _give_up(self, code: int) -> None:
        self._exit_code = code
        if not self._stopping:
            self._begin_stop()

    def _stop_to_recover(self) -> None:
        """Only we rebuild, with everyone stopped."""
        self._recovery.wanted = True
        deadline = time.monotonic() + self.settings.supervisor.stop_timeout
        for child in self.children:
            if child.pid and child.state is not State.STOPPING:
                self._terminate(child, deadline, come_back=child.wanted)

    def _recover(self) -> None:
        self._recovery.run()
        for child in self.children:
            child.start_at, child.failures = 0.0, 0

    def _see_if_done(self, now: float) -> None:
        """`--once`."""
        step = next_step(self.children)
        if step is Step.END:
            self._stopping = True
        elif step is Step.TELL_SENDERS:
            for child in self.children:
                if child.state is State.RUNNING:
                    self._processes.signal(child.index, signal.SIGUSR1)
        if now >= self._say_at and not self._stopping:
            self._say_at = now + SAY_EVERY
            log.warning(
                "--once goes on until all is delivered", waits_for=waits_for(self.children, self._publisher.document)
            )

    # once a second

    def _each_second(self, now: float) -> None:
        logs.tell_repeats()
        self._see_who_waits_for_the_disk(now)
        self._mind_memory(now)
        self._publish()
        if not self._ready and all(c.state is State.RUNNING for c in self.children):
            self._ready = True
            self._notifier.send("READY=1")
            log.info(
                "running",
                children=len(self.children),
                status=self._publisher.listening,
                spool=str(self._spool.directory),
            )
        self._notifier.send("WATCHDOG=1", f"STATUS={self._publisher.one_line}")
        if any(c.first_beat and c.state is State.RUNNING and now - c.first_beat >= STABLE_AFTER for c in self.children):
            self._last_stable = now
        if not self._stopping and is_crash_loop(self.children, self._last_stable, now):
            log.error(
                "crash loop: no child has lived for five minutes", hint="read the log above; is the machine sound?"
            )
            self._give_up(EXIT_CRASH_LOOP)

    def _publish(self, *, down: bool = False) -> None:
        self._publisher.publish(
            self.children, self._board, self._memory.budget, stopping=self._stopping or down, down=down
        )  # fmt: skip

    def _mind_memory(self, now: float) -> None:
        children = {c.pid: c for c in self.children if c.pid}
        seen = self._memory.look(now, os.getpid(), list(children))
        self._publisher.sizes = seen.sizes
        if seen.level != self._board.memory_level:
            log.warning("memory step", step=seen.level, before=self._board.memory_level, used_bytes=seen.used,
                        budget_bytes=self._memory.budget)  # fmt: skip
            self._board.memory_level = seen.level
        if seen.recycle and (child := children[seen.recycle]).state is State.RUNNING:
            log.warning("child recycled: it uses too much memory", child=child.name, used_bytes=seen.sizes[child.pid],
                        tree_bytes=seen.used, budget_bytes=self._memory.budget)  # fmt: skip
            self._terminate(child, now + self.settings.supervisor.stop_timeout, come_back=True)
