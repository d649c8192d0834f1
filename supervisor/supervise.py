"""The loop: signals, reap, start what is due, see who is alive, memory, publish, sleep.

Children are started by spawn from the main thread, with TERM, INT and HUP blocked over their birth. Handlers only queue.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from buffer.errors import SpoolError, SpoolLocked
from buffer.spool import Spool
from supervisor import memory
from supervisor.child import STABLE_AFTER, Action, Child, State, is_crash_loop
from supervisor.listener import Listener, PortTaken
from supervisor.publish import Publisher
from supervisor.settings import Settings
from supervisor.systemd import Notifier
from worker import logs
from worker.board import Board
from worker.child import ChildContext
from worker.process import HANDLED, MALLOC, harden, name_process

log = logs.get_logger()
TICK = 0.5
EXIT_KILLED, EXIT_CRASH_LOOP, EXIT_IO, EXIT_HELD, EXIT_SETTINGS, EXIT_REBUILD = 1, 70, 74, 75, 78, 65
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def consumer_main(context: ChildContext) -> None:
    """Where a consumer's process begins."""
    from worker.consumer import main

    sys.exit(main(context))


def sender_main(context: ChildContext) -> None:
    """Where a sender's process begins."""
    from worker.sender import main

    sys.exit(main(context))


TARGETS: dict[str, Callable[[ChildContext], None]] = {"consumer": consumer_main, "sender": sender_main}


def run(settings: Settings, reload: Callable[[], Settings], once: bool = False) -> int:
    """`supervise`: the exit code. Errors at the start are two lines."""
    logs.configure("supervisor", settings.log.level)
    harden()
    notifier = Notifier()
    try:
        spool = Spool.open(settings.spool)
    except SpoolError as error:
        return complain(error, error.hint, EXIT_HELD if isinstance(error, SpoolLocked) else EXIT_IO)
    try:
        publisher = Publisher(settings, spool)
        try:
            listener = Listener(settings.status.listen, publisher.shown) if settings.status.listen else None
        except PortTaken as error:
            return complain(error, "another supervisor? `ss -ltnp` tells; set status.listen", EXIT_HELD)
        try:
            if listener:
                publisher.listening = listener.address
            return Supervisor(settings, reload, spool, publisher, notifier, once=once).run()
        except SpoolError as error:
            return complain(error, error.hint, EXIT_IO)
        finally:
            if listener:
                listener.close()
    finally:
        spool.close()


def complain(error: object, hint: str, code: int) -> int:
    """Two lines."""
    sys.stderr.write(f"error: {error}\nhint: {hint or 'see docs/operations.md'}\n")
    return code


class Supervisor:
    """The children and the loop."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], spool: Spool, publisher: Publisher, notifier: Notifier, *,
        once: bool = False, targets: dict[str, Callable[[ChildContext], None]] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self._reload = reload
        self._spool = spool
        self._publisher = publisher
        self._notifier = notifier
        self._once = once
        self._targets = targets or TARGETS
        consumers, senders = settings.supervisor.workers, settings.supervisor.senders
        kinds = [("consumer", slot) for slot in range(consumers)] + [("sender", slot) for slot in range(senders)]
        self.children = [Child(kind, slot, index) for index, (kind, slot) in enumerate(kinds)]
        self._board = Board(len(self.children))
        self._processes: dict[int, Any] = {}
        self._spawn = multiprocessing.get_context("spawn")
        self._boot = f"{os.getpid()}-{time.time_ns()}"
        self._budget = memory.budget(settings.memory.budget)
        self._recycler = memory.Recycler()
        self._signals: list[int] = []
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._stopping = False
        self._killed = False
        self._rolling: list[Child] = []
        self._rebuild = False
        self._exit_code = 0
        self._last_stable = time.monotonic()
        self._every_second = 0.0
        self._ready = False

    # the loop

    def run(self) -> int:
        """Until all are stopped; children die with it whatever happens."""
        for one in (self._wakeup, self._wakeup_writer):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        name_process("sls-siem: supervisor")
        os.environ.update(MALLOC)
        resource_tracker.ensure_running()
        try:
            self._recover()
            while not (self._stopping and all(c.pid == 0 for c in self.children)):
                self._turn()
        finally:
            for process in self._processes.values():
                process.kill()
            signal.set_wakeup_fd(-1)
            self._publisher.publish(self.children, self._board, self._budget, stopping=True, down=True)
        log.info("stopped", exit_code=self._exit_code)
        return self._exit_code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)  # nothing else: handlers may not log or lock

    def _turn(self) -> None:
        self._handle_signals()
        now = time.monotonic()
        self._reap(now)
        for child in self.children:
            self._act(child, child.check(now, self._board.last_beat(child.index)), now)
        self._roll()
        if self._rebuild and not self._stopping:
            self._finish_rebuild()
        if self._once:
            self._finish_once()
        if now >= self._every_second:
            self._every_second = now + 1.0
            self._each_second(now)
        self._sleep()

    def _sleep(self) -> None:
        sentinels = [process.sentinel for process in self._processes.values()]
        wait([self._wakeup, *sentinels], timeout=TICK)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _recover(self) -> None:
        self._notifier.send("EXTEND_TIMEOUT_USEC=600000000", "STATUS=looking through the spool")
        for fault in self._spool.recover(self.settings.supervisor.workers, self._tell_systemd):
            log.error("recovered", lane=fault.lane, what=fault.what)

    def _tell_systemd(self) -> None:
        self._notifier.send("WATCHDOG=1")

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
        self._notifier.send("STOPPING=1")
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
        for process in self._processes.values():
            process.kill()

    def _terminate(self, child: Child, deadline: float, *, come_back: bool = False) -> None:
        child.stop(deadline, come_back=come_back)
        self._processes[child.index].terminate()

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
        self._rolling = list(self.children)
        log.info("settings reloaded; children are replaced one at a time")

    def _roll(self) -> None:
        """Replace one, stopping first; go on only when everyone runs."""
        if not self._rolling or self._stopping or any(c.state is not State.RUNNING for c in self.children):
            return
        child = self._rolling.pop(0)
        self._terminate(child, time.monotonic() + self.settings.supervisor.stop_timeout, come_back=True)

    # children

    def _act(self, child: Child, action: Action, now: float) -> None:
        if action is Action.START and not self._rebuild:
            self._start(child, now)
        elif action is Action.ABORT:
            log.error("child hangs: its stacks follow", child=child.name, state=child.state.value)
            child.aborted_at = now
            self._signal(child, signal.SIGABRT)
        elif action is Action.KILL:
            log.error("child killed", child=child.name, state=child.state.value)
            child.stop_deadline = child.aborted_at = now + 5.0
            self._signal(child, signal.SIGKILL)

    def _signal(self, child: Child, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    def _start(self, child: Child, now: float) -> None:
        self._board.clear_beat(child.index)
        with contextlib.suppress(OSError):
            (self._spool.run_directory / f"{child.name}.json").unlink()
        process = self._spawn.Process(
            target=self._targets[child.kind], args=(self._context(child),), name=child.name, daemon=False
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        self._processes[child.index] = process
        child.born(process.pid or 0, now)

    def _context(self, child: Child) -> ChildContext:
        return ChildContext(
            kind=child.kind, slot=child.slot, index=child.index, consumers=self.settings.supervisor.workers,
            senders=self.settings.supervisor.senders, spool_id=self._spool.id, run_directory=self._spool.run_directory,
            boot=self._boot, supervisor_pid=os.getpid(),
            max_in_flight_bytes=memory.in_flight_bytes(self._budget, len(self.children)),
            board=self._board, settings=self.settings.for_children(), once=self._once,
        )  # fmt: skip

    def _reap(self, now: float) -> None:
        for child in self.children:
            process = self._processes.get(child.index)
            if process is None or process.is_alive():
                continue
            process.join()
            code = process.exitcode
            del self._processes[child.index]
            process.close()
            self._ended(child, code, now)

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
            self._begin_rebuild()
        elif self._once and code == 0 and not asked:
            child.wanted, child.state = False, State.STOPPED

    def _give_up(self, code: int) -> None:
        self._exit_code = code
        if not self._stopping:
            self._begin_stop()

    # rebuild, once

    def _begin_rebuild(self) -> None:
        """Only we rebuild, with everyone stopped."""
        self._rebuild = True
        deadline = time.monotonic() + self.settings.supervisor.stop_timeout
        for child in self.children:
            if child.pid and child.state is not State.STOPPING:
                self._terminate(child, deadline, come_back=True)

    def _finish_rebuild(self) -> None:
        if any(child.pid for child in self.children):
            return
        self._recover()
        self._rebuild = False
        for child in self.children:
            child.start_at, child.failures = 0.0, 0

    def _finish_once(self) -> None:
        """When no consumer lives, tell the senders; when nobody lives, end."""
        consumers = [c for c in self.children if c.kind == "consumer"]
        if not self._stopping and all(c.state is State.STOPPED for c in consumers):
            for child in self.children:
                if child.kind == "sender" and child.state is State.RUNNING:
                    self._signal(child, signal.SIGUSR1)
            if all(c.state is State.STOPPED for c in self.children):
                self._stopping = True

    # once a second

    def _each_second(self, now: float) -> None:
        with contextlib.suppress(OSError, SpoolError):
            self._spool.tend()
        self._mind_memory(now)
        self._publisher.publish(self.children, self._board, self._budget, stopping=self._stopping)
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
        if not self._stopping and not self._once and is_crash_loop(self.children, self._last_stable, now):
            log.error(
                "crash loop: no child has lived for five minutes", hint="read the log above; is the machine sound?"
            )
            self._give_up(EXIT_CRASH_LOOP)

    def _mind_memory(self, now: float) -> None:
        pids = [c.pid for c in self.children if c.pid]
        sizes = memory.usage([os.getpid(), *pids])
        used, before = sum(sizes.values()), self._board.memory_level
        self._publisher.sizes = sizes
        level = memory.level(before, used, self._budget)
        if level != before:
            self._board.memory_level = level
            log.warning("memory level", level=level, before=before, used_bytes=used, budget_bytes=self._budget)
        victim = self._recycler.choose(now, {pid: sizes[pid] for pid in pids if pid in sizes}, self._budget, level)
        for child in self.children:
            if victim and child.pid == victim and child.state is State.RUNNING:
                log.warning("child recycled: it uses too much memory", child=child.name, bytes=sizes[victim])
                self._terminate(child, now + self.settings.supervisor.stop_timeout, come_back=True)


def needs_restart(now: Settings, fresh: Settings) -> str:
    """What cannot change while running; empty when nothing of it does."""
    for name, old, new in (
        ("spool.directory", now.spool.directory, fresh.spool.directory),
        ("supervisor.workers", now.supervisor.workers, fresh.supervisor.workers),
        ("supervisor.senders", now.supervisor.senders, fresh.supervisor.senders),
        ("status.listen", now.status.listen, fresh.status.listen),
    ):
        if old != new:
            return f"{name} has changed"
    return ""


def read_children(pid: int) -> Iterator[int]:
    """The kernel's view of who our children are; for tests and status."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())
