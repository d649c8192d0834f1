"""One source's membership: join, create the group if it is missing, heartbeat, start readers and let them go.

The heartbeat lists every shard whose reader lives, also one that is letting go: SLS gives it to the next consumer only
when it is no longer listed. Nothing that SLS says ends this thread; it waits and shows why.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from buffer.errors import SpoolDamaged, SpoolError
from worker import slots
from worker.backoff import next_wait
from worker.checkpoints import Saver
from worker.fence import boottime
from worker.group import Entrance
from worker.held import HeldShard
from worker.logs import get_logger
from worker.member import Member
from worker.positions import shard_key
from worker.process import Stopping
from worker.reader import Reader
from worker.sls_errors import ForgottenConsumer, GroupExists, GroupNotFound, Revoked, SlsError

log = get_logger()
Spawn = Callable[[str, Callable[[], None]], threading.Thread]
RETENTION_EVERY, CREATE_EVERY = 600.0, 60.0
#: Seconds to wait for the sources in front of this one in the file.
TURN = 2.0


@dataclass(frozen=True, slots=True)
class Refused:
    """A shard that SLS gave us and refused us."""

    held: HeldShard
    since: float
    due: float
    """When to try again, monotonic."""


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
        self._entrance = Entrance(member)
        self._reading: tuple[int, ...] = ()
        self._in_group = False
        self._listed = self._asked_retention = self._created = float("-inf")
        self._refused: dict[int, Refused] = {}

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
            except SpoolDamaged:
                raise
            except SpoolError as error:
                log.warning("positions cannot be read", source=self.member.source.name, error=str(error))
                self._stopping.wait(1.0)
            else:
                self.member.troubles.clear(area)
                return True
        return False

    def _join(self) -> None:
        """List, then decide under the lock."""
        member, context = self.member, self.member.context
        member.refresh()
        self._listed = time.monotonic()
        self._wait_for_turn()
        decided = slots.decide(
            context.run_directory, context.boot, member.source.name, len(member.shards), context.consumers
        )
        if context.once:
            self.targets = {number: member.control.get_cursor_at(number, "end") for number in member.shards}
        self._reading = decided.reading
        self.joined = context.slot in decided.slots

    def _wait_for_turn(self) -> None:
        """Sources are given their slots in the order of the file, where they answer in time."""
        context, until = self.member.context, time.monotonic() + TURN
        names = [source.name for source in context.settings.sources]
        before = names[: names.index(self.member.source.name)]
        while time.monotonic() < until and not self._stopping.is_set():
            if slots.are_decided(context.run_directory, context.boot, context.consumers, before):
                return
            self._stopping.wait(0.1)

    def _enter(self) -> bool:
        """Into the consumer group, one slot of this host after the other, the spare one last."""
        context, name = self.member.context, self.member.source.name
        if context.slot not in self._reading:
            until = time.monotonic() + self.member.source.consumer_timeout
            while time.monotonic() < until:
                if slots.have_beaten(context.run_directory, context.boot, name, self._reading):
                    break
                if self._stopping.wait(0.1):
                    return False
        lock = self.member.group_lock()
        while not lock.try_take():
            if self._stopping.wait(0.1):
                return False
        try:
            return self._try_until_done("group", self._entrance.step)
        finally:
            lock.release()

    def _beat_on(self) -> None:
        while True:
            self.member.wake.clear()
            if self._stopping.is_set():
                self.let_all_go()
            leaving = self._give_up_the_stuck()
            if self._stopping.is_set() and not self.member.live():
                return
            wait = self._beat()
            wait = self._interval() if wait is None else wait
            self.member.wake.wait(min(wait, 1.0) if leaving else wait)

    def _give_up_the_stuck(self) -> bool:
        """A shard that shall go does not wait for an answer that does not come. Whether others still leave."""
        live = self.member.live()
        for one in [one for one in live if one.is_stuck(time.monotonic())]:
            log.warning(
                "SLS does not answer; the shard goes all the same", source=self.member.source.name, shard=one.number
            )
            one.abandon()
            one.ended.set()
        return any(one.leaving for one in live)

    def _interval(self) -> float:
        return min(self.member.source.heartbeat_interval, self.member.fence.timeout / 4)

    def _beat(self) -> float | None:
        """Seconds to the next where it went wrong, or where it comes early."""
        member = self.member
        holding = {one.number: one for one in member.live()}
        listed = sorted(number for number, one in holding.items() if not one.abandoned)
        sent, began = boottime(), time.monotonic()
        try:
            given = set(member.control.heartbeat(member.source.consumer_group, member.consumer, listed))
        except SlsError as error:
            # Not seen of SLS: the refusal of a checkpoint. To list the same shards again would be refused again, for ever.
            if isinstance(error, ForgottenConsumer | Revoked) and listed:
                self._forgotten(holding)
                return 0.1
            if isinstance(error, GroupNotFound):
                self._create_again(error)
            wait = member.troubles.note("heartbeat", error)
            return wait if error.lasting else min(wait, member.source.heartbeat_interval)
        member.fence.acknowledge(sent)
        member.troubles.clear("heartbeat")
        if not self._in_group:
            self._in_group = True
            slots.note_beat(member.context.run_directory, member.context.boot, member.source.name, member.context.slot)
        self._follow(given, holding)
        self._look_around(began)
        return self._until_refused_is_due(given - holding.keys())

    def _forgotten(self, holding: dict[int, HeldShard]) -> None:
        """Come back with an empty list, at once: our shards may be somebody else's already."""
        member = self.member
        log.warning("SLS has forgotten this consumer", source=member.source.name, consumer=member.consumer)
        member.fence.fall()
        for one in holding.values():
            one.abandon()

    def _follow(self, given: set[int], holding: dict[int, HeldShard]) -> None:
        for number, one in holding.items():
            if number not in given and not one.leaving:
                log.info("shard asked back", source=self.member.source.name, shard=number)
                one.let_go()
        if self._stopping.is_set():
            return
        missing = given - holding.keys()
        if missing - self.member.shards.keys():
            self._refresh()
        for number in sorted(missing & self.member.shards.keys()):
            if self._may_start(number):
                self._start(number)

    def _may_start(self, number: int) -> bool:
        """Not at once again a shard that SLS gives us and then refuses us: its own parts may take a minute to agree."""
        now, last = time.monotonic(), self.member.held.get(number)
        if last is None or not last.revoked:
            self._refused.pop(number, None)
            return True
        known = self._refused.get(number)
        if known is None or known.held is not last:
            since = known.since if known is not None and last.edge is None else now
            known = self._refused[number] = Refused(last, since, now + next_wait(now - since, random.random()))
        return now >= known.due

    def _until_refused_is_due(self, missing: set[int]) -> float | None:
        due = [self._refused[number].due for number in missing if number in self._refused]
        return min(self._interval(), max(0.05, min(due) - time.monotonic())) if due else None

    def _start(self, number: int) -> None:
        member = self.member
        shard = member.shards[number]
        held = HeldShard(shard_key(member, shard), shard, member.source.name)
        member.waiting.watch((member.source.project, member.source.logstore, number))
        with member.lock:
            member.held[number] = held
        self._spawn(f"{member.source.name}/{number}", Reader(member, held, self._saver.last).run)

    def let_all_go(self) -> None:
        """At stop: finish, save, end; the heartbeat goes on until they have."""
        for one in self.member.live():
            one.let_go()

    def _look_around(self, since: float) -> None:
        """Shards (which became read-only?) and retention, now and then; one call between two heartbeats, as it may hang."""
        now = time.monotonic()
        if self._listed >= since:
            return
        if now - self._listed >= min(60.0, self.member.source.consumer_timeout):
            self._refresh()
        elif now - self._asked_retention >= RETENTION_EVERY:
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
        member.lived = True
        log.error("the consumer group has vanished; making it again", source=member.source.name, error=error.error)
        try:
            member.control.create_group(member.source.consumer_group, member.source.consumer_timeout)
        except GroupExists:
            with contextlib.suppress(SlsError):
                member.heed(member.control.groups())
        except SlsError as wrong:
            member.troubles.note("group", wrong)
        else:
            member.troubles.clear("group")
