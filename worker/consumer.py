"""A consumer process: its lane, its sources, and a main loop that watches over their threads.

Whatever SLS says is a hold, never an exit. What is local and cannot change by itself ends the process with a code
that tells the supervisor what to do: 65 rebuild my lane's index, 74 the spool cannot be used, 75 the lane is taken.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable

from buffer.errors import SpoolDamaged, SpoolError, SpoolLocked
from buffer.spool import lane_directory
from buffer.storage import Intake
from buffer.writer import LaneWriter
from worker.child import ChildContext
from worker.heartbeat import Heart
from worker.logs import get_logger
from worker.member import Member
from worker.once import all_reached
from worker.process import Stopping, Trimmer, begin, trim_memory
from worker.putter import MAX_BYTES, Putter
from worker.report import Report
from worker.room import Room
from worker.settings import SourceSettings
from worker.shown import show
from worker.sls_errors import SlsError
from worker.waiting import Waiting

log = get_logger()
#: Seconds between two looks at the threads; in `--once`, where the end is waited for.
TURN, TURN_ONCE = 1.0, 0.25
SUMMARY_EVERY, OPEN_EVERY = 60.0, 10.0
DAMAGED, UNUSABLE, LOCKED, CRASHED = 65, 74, 75, 70


def consumer_name(group: str, host: str, spool_id: str, slot: int) -> str:
    """The same after a restart, unique among cloned hosts by the spool's id."""
    cleaned = re.sub(r"[^a-zA-Z0-9]+", "-", host.split(".", maxsplit=1)[0]).strip("-").lower()[:40]
    return f"{group}-{cleaned or 'host'}-{spool_id}-{slot}"


def main(context: ChildContext) -> int:
    """The process."""
    stopping = begin(context)
    context.board.beat(context.index)
    report = Report(context.run_directory / f"{context.name}.json", context.name)
    spool = context.settings.spool
    try:
        directory = lane_directory(spool.directory, context.spool_id, context.slot)
        writer = LaneWriter.open(directory, spool, beat=lambda: context.board.beat(context.index))
    except SpoolError as error:
        log.error("the lane cannot be opened", error=str(error), hint=error.hint)
        return exit_code(error)
    try:
        return Consumer(context, stopping, report, writer).run()
    finally:
        writer.close()


def exit_code(error: BaseException) -> int:
    """What the supervisor shall do."""
    if isinstance(error, SpoolDamaged):
        return DAMAGED
    if isinstance(error, SpoolLocked):
        return LOCKED
    return UNUSABLE if isinstance(error, SpoolError) else CRASHED


class Consumer:
    """The threads of this process, and what they share."""

    def __init__(self, context: ChildContext, stopping: Stopping, report: Report, writer: Intake) -> None:
        self._context, self._stopping, self._report = context, stopping, report
        # A sender reads at least one batch: it must fit into what a sender may hold, several times as large when encoded.
        self._putter = Putter(writer, context.settings.spool, report, min(MAX_BYTES, context.max_in_flight_bytes // 8))
        self._room = Room(context.max_in_flight_bytes)
        self._spooled = Waiting(context.settings.spool.directory)
        self._failures: list[BaseException] = []
        self._hearts: list[Heart] = []
        self._waiting: list[SourceSettings] = list(context.settings.sources)
        self._trimmer = Trimmer()
        self._next_summary = time.monotonic() + SUMMARY_EVERY
        self._next_open = 0.0

    def run(self) -> int:
        """The main loop: beat, report, look after the threads."""
        putter = self._spawn("putter", self._putter.run)
        threads: list[threading.Thread] = []
        next_report = 0.0
        while not self._failures:
            threads += self._open_sources()
            now = time.monotonic()
            if not self._hung(now):
                self._context.board.beat(self._context.index)
            if now >= next_report:
                next_report = now + 1.0
                self._each_second()
            if self._stopping.is_set():
                self._let_go()
                if not any(thread.is_alive() for thread in threads):
                    break
                time.sleep(0.02)
            elif self._context.once and self._done():
                self._stopping.set()
            else:
                self._stopping.wait(TURN_ONCE if self._context.once else TURN)
        return self._end(putter)

    def _let_go(self) -> None:
        """Of everything; the hearts are woken once, as each beat is a call to SLS."""
        for heart in self._hearts:
            heart.let_all_go()
            if not self._putter.stopping:
                heart.member.wake.set()
        self._putter.stopping = True

    def _open_sources(self) -> list[threading.Thread]:
        """A heart for each source whose settings make a client; the others are held and tried again."""
        made, still = [], []
        if self._stopping.is_set() or time.monotonic() < self._next_open:
            return []
        self._next_open = time.monotonic() + OPEN_EVERY
        for source in self._waiting:
            host = socket.gethostname()
            name = consumer_name(source.consumer_group, host, self._context.spool_id, self._context.slot)
            try:
                member = Member(source, self._context, self._putter, self._room, self._spooled, self._report, name)
            except SlsError as error:
                if self._report.hold("source", source.name, error.error, error.hint):
                    log.error("source held", source=source.name, error=error.error, hint=error.hint)
                still.append(source)
                continue
            self._report.release("source", source.name)
            heart = Heart(member, self._stopping, self._spawn)
            self._hearts.append(heart)
            made.append(self._spawn(f"heart {source.name}", heart.run))
        self._waiting = still
        return made

    def _spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread whose failure ends the process: half a consumer would hold shards and read nothing."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                log.error("a thread failed", name=name, exc_info=error)
                self._failures.append(error)
                self._stopping.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _hung(self, now: float) -> bool:
        """Whether a thread is past its own deadline."""
        shards = [held for heart in self._hearts for held in heart.member.live()]
        return self._putter.deadline < now or any(held.deadline < now for held in shards)

    def _each_second(self) -> None:
        now = time.monotonic()
        if self._trimmer.look(self._context.board.memory_level, busy=self._room.used > 0, now=now):
            trim_memory()
        if time.monotonic() >= self._next_summary:
            self._next_summary = time.monotonic() + SUMMARY_EVERY
            log.debug("consumer", **self._putter.since_last(), shards=sum(len(h.member.live()) for h in self._hearts))
        self._putter.tell_slow(time.monotonic())
        show(self._report, self._context.name, [heart.member for heart in self._hearts])
        self._report.write()

    def _done(self) -> bool:
        return not self._waiting and bool(self._hearts) and all(all_reached(heart) for heart in self._hearts)

    def _end(self, putter: threading.Thread) -> int:
        self._stopping.set()
        if self._failures:
            return exit_code(self._failures[0])
        self._putter.close()
        putter.join(5.0)
        self._each_second()
        for heart in self._hearts:
            heart.member.close()
        return exit_code(self._failures[0]) if self._failures else 0
