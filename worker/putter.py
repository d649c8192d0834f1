"""The one thread that writes to the lane: all pulls that wait become one put, and each reader gets its answer.

A put answers when it is durable. When the disk is full or broken nothing was stored: the pulls wait here, the hold
`disk` says why, and those whose fence has fallen meanwhile are thrown away, because SLS has them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from buffer.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolUnusable
from buffer.outside import free_bytes
from buffer.settings import SpoolSettings
from buffer.storage import Intake
from buffer.values import Answer, Position, Pull, ShardKey
from worker.backoff import next_wait
from worker.logs import get_logger
from worker.report import Report

log = get_logger()
MAX_BYTES = 8 << 20
MAX_PULLS = 256
#: Seconds after which a put that has not returned is said, and after which it is a hang.
SLOW_PUT, PUT_SECONDS = 10.0, 120.0


class Ticket:
    """A pull on its way to the disk."""

    __slots__ = ("_done", "_tell", "alive", "answer", "pull")

    def __init__(self, pull: Pull, alive: Callable[[], bool], tell: Callable[[Answer | None], None]) -> None:
        self.pull = pull
        self._tell = tell
        self.alive = alive
        """False: throw it away."""
        self.answer: Answer | None = None
        """None: not stored."""
        self._done = threading.Event()

    def settle(self, answer: Answer | None) -> None:
        """The putter's last word, told at once: its reader may be waiting for room, or for SLS."""
        self.answer = answer
        self._tell(answer)
        self._done.set()

    @property
    def settled(self) -> bool:
        """Whether there is an answer."""
        return self._done.is_set()

    def wait(self) -> Answer | None:
        """The answer: durable, or not stored."""
        self._done.wait()
        return self.answer


class Putter:
    """Owns the lane's intake; everything that writes to it goes through one lock."""

    def __init__(
        self, writer: Intake, settings: SpoolSettings, report: Report, max_bytes: int = MAX_BYTES
    ) -> None:  # fmt: skip
        self._writer = writer
        self._settings = settings
        self._report = report
        self._max_bytes = max_bytes
        self._lane = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._filled = threading.Condition()
        self._closing = False
        self._trouble_since = 0.0
        self._age = (0.0, 0.0)
        self._done = {"puts": 0, "pulls": 0, "groups": 0, "bytes": 0}
        self.stopping = False
        """Asked to stop: what cannot be put at once is thrown away."""
        self.deadline = float("inf")

    @property
    def blocked(self) -> bool:
        """The disk does not take; no use in pulling."""
        return self._trouble_since > 0

    def tell_slow(self, now: float) -> None:
        """Once a second, from another thread: a write that does not come back is a hold, so that somebody looks at the disk."""
        seconds = now - self.deadline + PUT_SECONDS
        if seconds < SLOW_PUT:
            if self._report.release("disk", "write"):
                log.info("the disk answers again")
            return
        error, hint = (
            f"a write to the spool has not come back for {seconds:.0f} s",
            "look at the disk: dmesg, mounts, its queue",
        )
        if self._report.hold("disk", "write", error, hint):
            log.error("the disk does not answer", error=error, hint=hint)

    def submit(self, ticket: Ticket) -> None:
        """Into the next put."""
        with self._filled:
            self._queue.append(ticket)
            self._filled.notify()

    def run(self) -> None:
        """Until closed and empty."""
        while True:
            with self._filled:
                while not self._queue and not self._closing:
                    self._filled.wait()
                if not self._queue:
                    return
                tickets = take(self._queue, self._max_bytes)
            self._put(tickets)
            del tickets  # up to 8 MiB, which would stay until the next pull

    def close(self) -> None:
        """No more tickets will come."""
        with self._filled:
            self._closing = True
            self._filled.notify()

    def _put(self, tickets: list[Ticket]) -> None:
        while tickets:
            dead = [ticket for ticket in tickets if not ticket.alive()]
            for ticket in dead:
                ticket.settle(None)
            tickets = [ticket for ticket in tickets if not ticket.settled]
            if not tickets:
                self._given_up()
                return
            try:
                answers = self._try([ticket.pull for ticket in tickets])
            except SpoolDamaged:
                for ticket in tickets:
                    ticket.settle(None)
                raise
            except SpoolError as error:
                self._hold(error, tickets)
                continue
            self._released()
            self._count(tickets)
            for ticket, answer in zip(tickets, answers, strict=True):
                ticket.settle(answer)
            return

    def _try(self, pulls: list[Pull]) -> list[Answer]:
        need_room(self._settings)
        self.deadline = time.monotonic() + PUT_SECONDS
        try:
            with self._lane:
                return self._writer.put(pulls)
        finally:
            self.deadline = float("inf")

    def _hold(self, error: SpoolError, tickets: list[Ticket]) -> None:
        now = time.monotonic()
        self._trouble_since = self._trouble_since or now
        wait = next_wait(now - self._trouble_since, random.random())
        if self._report.hold("disk", "spool", str(error), error.hint, next_probe=time.time() + wait):
            log.error("the spool does not take", error=str(error), hint=error.hint)
        until = now + wait
        while time.monotonic() < until and not self.stopping and all(ticket.alive() for ticket in tickets):
            self._drop_unwanted()
            time.sleep(0.1)
        if self.stopping:
            for ticket in tickets:
                ticket.settle(None)

    def _drop_unwanted(self) -> None:
        """Of those that wait behind a put that goes wrong: their readers must not wait for the disk."""
        with self._filled:
            unwanted = [ticket for ticket in self._queue if not ticket.alive()]
            for ticket in unwanted:
                self._queue.remove(ticket)
        for ticket in unwanted:
            ticket.settle(None)

    def _released(self) -> None:
        if self._trouble_since:
            self._trouble_since = 0.0
            if self._report.release("disk", "spool"):
                log.info("the spool takes again")

    def _given_up(self) -> None:
        """Nothing waits for the disk any more. Only a put can tell whether it takes again, and there is none without a pull."""
        if self._trouble_since and not self._queue:
            self._trouble_since = 0.0
            if self._report.release("disk", "spool"):
                log.info("nothing waits for the spool any more; the next pull shows whether it takes")

    def _count(self, tickets: list[Ticket]) -> None:
        self._done["puts"] += 1
        self._done["pulls"] += len(tickets)
        self._done["groups"] += sum(ticket.pull.groups for ticket in tickets)
        self._done["bytes"] += sum(len(ticket.pull.body) for ticket in tickets)

    def since_last(self) -> dict[str, int]:
        """What was put since this was asked last, for the summary line."""
        found, self._done = self._done, dict.fromkeys(self._done, 0)
        return found

    def start_epoch(self, key: ShardKey, epoch: int, checkpoint: int | None) -> None:
        """See Intake."""
        with self._lane:
            self._writer.start_epoch(key, epoch, checkpoint)

    def note_checkpoints(self, rows: Mapping[ShardKey, tuple[int, int]]) -> None:
        """See Intake."""
        with self._lane:
            self._writer.note_checkpoints(rows)

    def position(self, key: ShardKey) -> Position | None:
        """Of this lane."""
        with self._lane:
            return self._writer.position(key)

    def skip_lost(self, key: ShardKey, epoch: int, cursor: int, source: str, groups: int) -> None:
        """See Intake."""
        with self._lane:
            self._writer.skip_lost(key, epoch, cursor, source, groups)

    def backlog_age(self) -> float:
        """Seconds; looked up once a second."""
        now = time.monotonic()
        looked, age = self._age
        if now - looked >= 1.0:
            with self._lane:
                age = self._writer.backlog_age()
            self._age = (now, age)
        return age


def take(queue: deque[Ticket], max_bytes: int = MAX_BYTES) -> list[Ticket]:
    """From the front: at least one, at most what one put shall hold."""
    taken = [queue.popleft()]
    size = len(taken[0].pull.body)
    while queue and len(taken) < MAX_PULLS and size + len(queue[0].pull.body) <= max_bytes:
        taken.append(queue.popleft())
        size += len(taken[-1].pull.body)
    return taken


def need_room(settings: SpoolSettings) -> None:
    """SpoolFull where the file system has less left than it must keep."""
    try:
        free, _ = free_bytes(Path(settings.directory))
    except OSError as error:
        raise SpoolUnusable(f"{settings.directory}: {error.strerror}", "look at the disk: dmesg, mounts") from error
    if free < settings.min_free_bytes:
        raise SpoolFull(
            f"{free >> 20} MiB free in {settings.directory}, {settings.min_free_bytes >> 20} MiB must stay free",
            "free disk space, or lower spool.min_free_bytes; consumers go on by themselves",
        )
