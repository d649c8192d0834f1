"""The loop: signals, reap, start what is due, see who is alive, memory, publish, sleep. Handlers only queue."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType

from buffer.spool import Spool
from supervisor import memory
from supervisor.child import Child, State, has_lived, is_crash_loop
from supervisor.children import Children, Ended
from supervisor.logfile import Tee
from supervisor.once import SAY_AFTER, SAY_EVERY, Step, next_step, waits_for
from supervisor.processes import Target
from supervisor.publish import Publisher
from supervisor.recovery import Recovery
from supervisor.settings import Settings, least_memory, needs_restart
from supervisor.systemd import Notifier
from worker import logs
from worker.process import name_process

log = logs.get_logger()
TICK = 0.5
#: Seconds that systemd shall wait beyond stop_timeout, whatever TimeoutStopSec says: the last kills, and what closing takes.
KILL_PATIENCE = 15
#: Seconds in which a second signal is the first once more: timeout(1) and others signal a process, and at once its group.
TOGETHER = 0.5
EXIT_KILLED, EXIT_CRASH_LOOP, EXIT_SETTINGS, EXIT_REBUILD = 1, 70, 78, 65
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """The loop, and what it decides for all children together."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], spool: Spool, publisher: Publisher, notifier: Notifier, *,
        once: bool = False, targets: dict[str, Target] | None = None, tee: Tee | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self._reload, self._spool, self._publisher, self._notifier = reload, spool, publisher, notifier
        self._once, self._tee = once, tee
        self._memory = memory.Guard(memory.budget(settings.memory.budget))
        self.children = Children(settings, spool, self._memory.budget, once=once, targets=targets)
        if self._memory.budget < (least := least_memory(len(self.children))):
            log.error("the memory that machine or cgroup allow is too little", budget_bytes=self._memory.budget,
                      least_bytes=least, hint="fewer children (workers, senders), or more memory")  # fmt: skip
        self._recovery = Recovery(spool, notifier, self._is_asked_to_stop, self._publish)
        self._signals: list[int] = []
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._stopping, self._asked_at = False, float("-inf")
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
        faulthandler.enable()  # systemd's watchdog sends SIGABRT: then the log says where the loop hangs
        name_process("sls-siem: supervisor")
        self.children.prepare()
        try:
            self._recover()
            while not (self._stopping and not self.children.living):
                self._turn()
        finally:
            self.children.kill_all()
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
        for one in self.children.reap(now):
            self._heed(one)
        self.children.tend(now, may_start=not self._recovery.wanted and not self._publisher.stalled())
        self._roll()
        if self._recovery.wanted and not self._stopping and not self.children.living:
            self._recover()
        if self._once and not self._stopping:
            self._see_if_done(now)
        if now >= self._every_second:
            self._every_second = now + 1.0
            self._each_second(now)
        self._sleep()

    def _sleep(self) -> None:
        wait([self._wakeup, *self.children.sentinels], timeout=TICK)
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
            elif time.monotonic() - self._asked_at < TOGETHER:
                continue
            elif self._stopping:
                log.error("second signal: killing the children")
                self._exit_code = EXIT_KILLED
                self.children.kill_all()
            else:
                self._asked_at = time.monotonic()
                self._begin_stop()

    def _begin_stop(self) -> None:
        log.info("stopping", children=len(self.children.living))
        patience = int(self.settings.supervisor.stop_timeout) + KILL_PATIENCE
        self._notifier.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={patience}000000")
        self._stopping = True
        self.children.stop_all(self._deadline(), come_back=False)

    def _deadline(self) -> float:
        return time.monotonic() + self.settings.supervisor.stop_timeout

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
        self._use(fresh)
        self._rolling = list(self.children)
        log.info("settings reloaded; children are replaced one at a time")

    def _use(self, fresh: Settings) -> None:
        self.settings = self._publisher.settings = self.children.settings = fresh
        self._spool.settings = fresh.spool
        self._memory.budget = self.children.budget = memory.budget(fresh.memory.budget)
        logs.configure("supervisor", fresh.log.level)
        if self._tee:
            self._tee.reopen()

    def _roll(self) -> None:
        """Replace one, stopping first; go on only when everyone runs."""
        if self._rolling and not self._stopping and self.children.are_running():
            self.children.stop(self._rolling.pop(0), self._deadline(), come_back=True)

    # what a child's end means for all

    def _heed(self, ended: Ended) -> None:
        if ended.code == EXIT_SETTINGS:
            self._give_up(EXIT_SETTINGS)
        elif ended.code == EXIT_REBUILD and not self._stopping:
            self._recovery.wanted = True  # only we rebuild, with everyone stopped
            self.children.stop_all(self._deadline(), come_back=True)

    def _give_up(self, code: int) -> None:
        self._exit_code = code
        if not self._stopping:
            self._begin_stop()

    def _recover(self) -> None:
        self._recovery.run()
        self._last_stable = time.monotonic()

    def _see_if_done(self, now: float) -> None:
        """`--once`."""
        step = next_step(self.children.all)
        if step is Step.END:
            self._stopping = True
        elif step is Step.TELL_SENDERS:
            self.children.tell(signal.SIGUSR1)
        if now >= self._say_at and not self._stopping:
            self._say_at = now + SAY_EVERY
            held = waits_for(self.children.all, self._publisher.document)
            log.warning("--once goes on until all is delivered", waits_for=held)

    # once a second

    def _each_second(self, now: float) -> None:
        logs.tell_repeats()
        self.children.see_who_waits_for_the_disk(now)
        self._mind_memory(now)
        self._publish()
        if not self._ready and all(child.has_run for child in self.children) and self._notifier.send("READY=1"):
            self._say_ready()
        self._notifier.send("WATCHDOG=1", f"STATUS={self._publisher.one_line}")
        if any(has_lived(child, now) for child in self.children):
            self._last_stable = now
        if not self._stopping and is_crash_loop(self.children.all, self._last_stable, now):
            log.error(
                "crash loop: no child has lived for five minutes", hint="read the log above; is the machine sound?"
            )
            self._give_up(EXIT_CRASH_LOOP)

    def _say_ready(self) -> None:
        self._ready = True
        log.info(
            "running", children=len(self.children), status=self._publisher.listening, spool=str(self._spool.directory)
        )

    def _publish(self, *, down: bool = False) -> None:
        self._publisher.at_disk = self.children.at_disk
        self._publisher.publish(
            self.children.all, self.children.board, self._memory.budget, stopping=self._stopping or down, down=down
        )  # fmt: skip

    def _mind_memory(self, now: float) -> None:
        children, board = self.children.living, self.children.board
        seen = self._memory.look(now, os.getpid(), list(children))
        self._publisher.sizes = seen.sizes
        if seen.level != board.memory_level:
            log.warning("memory step", step=seen.level, before=board.memory_level, used_bytes=seen.used,
                        budget_bytes=self._memory.budget)  # fmt: skip
            board.memory_level = seen.level
        if seen.recycle and (child := children[seen.recycle]).state is State.RUNNING:
            log.warning("child recycled: it uses too much memory", child=child.name, used_bytes=seen.sizes[child.pid],
                        tree_bytes=seen.used, budget_bytes=self._memory.budget)  # fmt: skip
            self.children.stop(child, self._deadline(), come_back=True)
