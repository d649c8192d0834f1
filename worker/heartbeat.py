"""One source's membership: join, create the group if it is missing, heartbeat, start readers and let them go.

The heartbeat lists every shard whose reader lives, also one that is letting go: SLS gives it to the next consumer only
when it is no longer listed. Nothing that SLS says ends this thread; it waits and shows why.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

from worker import slots
from worker.checkpoints import Saver
from worker.group import enter_group
from worker.logs import get_logger
from worker.member import Member, boottime
from worker.process import Stopping
from worker.reader import Reader
from worker.sls_errors import ForgottenConsumer, GroupExists, GroupNotFound, SlsError

log = get_logger()
Spawn = Callable[[str, Callable[[], None]], threading.Thread]
LIST_EVERY, RETENTION_EVERY, CREATE_EVERY = 60.0, 600.0, 60.0


class Heart:
    """Runs in a thread of its own per source."""

    def __init__(self, member: Member, stopping: Stopping, spawn: Spawn) -> None:
        self.member, self._stopping, self._spawn = member, stopping, spawn
        self.joined: bool | None = None
        """Whether this slot joins the source; None while it is not known."""
        self.targets: dict[int, int] = {}
        """`--once`: shard → the end that it had when we began."""
        self.finished = threading.Event()
        self._saver = Saver(member, self.finished)
        self._listed = self._asked_retention = self._created = float("-inf")

    def run(self) -> None:
        """Until stopped and every reader has ended."""
        try:
            if self._try_until_done("join", self._join) and self.joined and self._enter():
                self._spawn(f"saver {self.member.source.name}", self._saver.run)
                self._beat_on()
        finally:
            self.finished.set()

    def _try_until_done(self, area: str, step: Callable[[], None]) -> bool:
        while not self._stopping.is_set():
            try:
                step()
            except SlsError as error:
                self._stopping.wait(self.member.troubles.note(area, error))
            else:
                self.member.troubles.clear(area)
                return True
        return False

    def _join(self) -> None:
        """List, then decide under the lock."""
        member, context = self.member, self.member.context
        member.refresh()
        self._listed = time.monotonic()
        decided = slots.decide(
            context.run_directory, context.boot, member.source.name, len(member.shards), context.consumers
        )
        if context.once:
            self.targets = {number: member.control.get_cursor_at(number, "end") for number in member.shards}
        self.joined = context.slot in decided.slots

    def _enter(self) -> bool:
        """Into the consumer group, one slot of this host after the other."""
        source = self.member.source
        name = hashlib.sha256(f"{source.project}/{source.logstore}/{source.consumer_group}".encode()).hexdigest()[:16]
        lock = slots.Lock(self.member.context.run_directory / f"group-{name}.lock")
        while not lock.try_take():
            if self._stopping.wait(0.1):
                return False
        try:
            return self._try_until_done("group", lambda: enter_group(self.member))
        finally:
            lock.release()

    def _beat_on(self) -> None:
        interval = min(self.member.source.heartbeat_interval, self.member.fence.timeout / 4)
        while True:
            self.member.wake.clear()
            if self._stopping.is_set():
                self.let_all_go()
                if not self.member.live_readers():
                    return
            wait = self._beat()
            self.member.wake.wait(interval if wait is None else wait)

    def _beat(self) -> float | None:
        """Seconds to the next where it went wrong."""
        member = self.member
        readers = {one.number: one for one in member.live_readers()}
        held = sorted(number for number, one in readers.items() if not one.abandoned)
        sent = boottime()
        try:
            given = set(member.control.heartbeat(member.source.consumer_group, member.consumer, held))
        except ForgottenConsumer:
            log.warning("SLS has forgotten this consumer", source=member.source.name, consumer=member.consumer)
            member.fence.fall()
            for one in readers.values():
                one.abandon()
            return 0.1
        except SlsError as error:
            if isinstance(error, GroupNotFound):
                self._create_again(error)
            wait = member.troubles.note("heartbeat", error)
            return wait if error.lasting else min(wait, member.source.heartbeat_interval)
        member.fence.acknowledge(sent)
        member.troubles.clear("heartbeat")
        self._follow(given, readers)
        self._look_around()
        return None

    def _follow(self, given: set[int], readers: dict[int, Reader]) -> None:
        for number, reader in readers.items():
            if number not in given and not reader.leaving:
                log.info("shard asked back", source=self.member.source.name, shard=number)
                reader.let_go()
        if self._stopping.is_set():
            return
        missing = given - readers.keys()
        if missing - self.member.shards.keys():
            self._refresh()
        for number in sorted(missing & self.member.shards.keys()):
            self._start(number)

    def _start(self, number: int) -> None:
        member = self.member
        reader = Reader(member, member.shards[number], self._saver.last)
        with member.lock:
            member.readers[number] = reader
        self._spawn(f"{member.source.name}/{number}", reader.run)

    def let_all_go(self) -> None:
        """At stop: finish, save, end; the heartbeat goes on until they have."""
        for reader in self.member.live_readers():
            reader.let_go()

    def _look_around(self) -> None:
        """Shards (which became read-only?) and retention, now and then."""
        now = time.monotonic()
        if now - self._listed >= LIST_EVERY:
            self._refresh()
        if now - self._asked_retention >= RETENTION_EVERY:
            self._asked_retention = now
            try:
                self.member.retention = self.member.control.retention_seconds()
            except SlsError as error:
                log.info("retention is not known", source=self.member.source.name, error=error.error)

    def _refresh(self) -> None:
        self._listed = time.monotonic()
        try:
            self.member.refresh()
        except SlsError as error:
            self.member.troubles.note("shards", error)
        else:
            self.member.troubles.clear("shards")

    def _create_again(self, error: GroupNotFound) -> None:
        """It vanished under us: made again, at most once a minute, and without `start`."""
        now = time.monotonic()
        if now - self._created < CREATE_EVERY:
            return
        self._created = now
        member = self.member
        log.error("the consumer group has vanished; making it again", source=member.source.name, error=error.error)
        try:
            member.control.create_group(member.source.consumer_group, member.source.consumer_timeout)
        except GroupExists:
            pass
        except SlsError as wrong:
            member.troubles.note("group", wrong)
        else:
            member.troubles.clear("group")
