"""One shard's thread: pull, verify, hand to the putter, and have the next pull in flight while that one is made durable.

- `durable` moves on the putter's answer, and checkpoints are made of nothing else.
- At most one pull of a shard is with the putter: when it was not stored, the pull behind it is thrown away.
- A reader that lets go waits for its put, saves its checkpoint and ends; until then the heartbeat lists its shard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from buffer.errors import SpoolDamaged, SpoolError
from buffer.values import Outcome
from worker import pace
from worker.acquire import acquire, shard_key
from worker.intake import Intake
from worker.logs import get_logger
from worker.member import Member
from worker.putter import Ticket
from worker.sls import Shard
from worker.sls_answer import RawPull
from worker.sls_errors import BadAnswer, BadRequest, InvalidCursor, Revoked, SlsError
from worker.verify import Unverified

log = get_logger()
#: Seconds after which a call that has not returned is a hang of ours: longer than every time-out.
CALL_SECONDS = 150.0


class _BadBody(BadAnswer):
    """The body is not what its headers say."""


class Reader:
    """Started by the heartbeat when SLS gives us the shard."""

    def __init__(self, member: Member, shard: Shard, save_last: Callable[[Reader], None]) -> None:
        self.member, self.shard, self.number = member, shard, shard.number
        self.key = shard_key(member, shard)
        self.area = f"shard {shard.number}"
        self.epoch = 0
        self.acquired: int | None = None
        """S, as it was found."""
        self.durable: int | None = None
        """The next cursor up to which everything is on disk."""
        self.saved: int | None = None
        self.sealed = False
        """Saved since it is known that nothing more will come."""
        self.closed = False
        """Read-only and read to its end."""
        self.edge: float | None = None
        """Everything that SLS received before has been pulled, Unix seconds."""
        self.alarm = 0
        self.caught_up = time.time()
        """When the checkpoint last was where `durable` is."""
        self.saving = threading.Lock()
        self.tried_to_save = 0.0
        self.deadline = float("inf")
        self.ended = threading.Event()
        self.abandoned = False
        self._leave = threading.Event()
        self._save_last = save_last
        self._intake = Intake(self.key, member.source.name)
        self._cursor = 0
        self._pending: Ticket | None = None
        self._jump = True
        """The next pull may begin above the position: nothing lies between."""

    def let_go(self) -> None:
        """Finish the put in progress, save, end."""
        self._leave.set()

    def abandon(self) -> None:
        """The shard is somebody else's already: end without saving."""
        self.abandoned = True
        self._leave.set()

    @property
    def leaving(self) -> bool:
        """Asked to end."""
        return self._leave.is_set()

    def run(self) -> None:
        """The thread."""
        try:
            self._read()
        except Revoked as error:
            log.info("shard taken away", source=self.member.source.name, shard=self.number, code=error.code)
            self.abandoned = True
        finally:
            self.deadline = float("inf")
            self.member.troubles.clear_all(f"{self.area} ")
            self.ended.set()
            self.member.wake.set()

    def _read(self) -> None:
        if not self._acquire():
            return
        try:
            while not self.leaving:
                if self._may_pull():
                    self._guarded_turn()
                else:
                    self._settle()
                    self._rest(0.25)
        finally:
            self._settle()
        if not self.abandoned:
            self._save_last(self)

    def _acquire(self) -> bool:
        while not self.leaving:
            self.deadline = time.monotonic() + CALL_SECONDS
            try:
                found = acquire(self.member, self.shard, self.key, self._leave.wait)
            except (Revoked, SpoolDamaged):
                raise
            except SlsError as error:
                self._trouble("start", error)
            except SpoolError as error:
                log.warning("positions cannot be read", source=self.member.source.name, error=str(error))
                self._rest(1.0)
            else:
                self.epoch, self.acquired, self.saved = found.epoch, found.server, found.server
                self.durable = self._cursor = found.cursor
                self.member.troubles.clear(f"{self.area} start")
                return True
        return False

    def _may_pull(self) -> bool:
        board, member = self.member.context.board, self.member
        allowed = pace.may_pull(board.memory_level, board.spool_level) and not member.putter.blocked
        return allowed and member.fence.holds()

    def _guarded_turn(self) -> None:
        """A spool that cannot be asked or told just now is waited for; a damaged one ends the process."""
        try:
            self._turn()
        except SpoolDamaged:
            raise
        except SpoolError as error:
            log.warning("the lane does not answer", source=self.member.source.name, error=str(error), hint=error.hint)
            self._rest(1.0)

    def _turn(self) -> None:
        """One pull, while the one before is being put."""
        room, expected, at = self.member.room, self.member.max_in_pull, self._cursor
        self.deadline = float("inf")
        if not room.enter(expected, lambda: self.leaving or not self._may_pull()):
            return
        held = expected
        pulled = wrong = None
        try:
            pulled = self._pull(at)
            if self._settle() != at or not self.member.fence.holds():
                return
            held = len(pulled.body)
            room.correct(expected, held)
            self.member.expect(held)
            if self._take(at, pulled):
                held = -1  # the putter leaves the room for us
        except Revoked:
            raise
        except SlsError as error:
            wrong = error
        finally:
            if held >= 0:
                room.leave(held)
        if wrong is not None:
            self._failed(at, wrong)
        elif pulled is not None:
            self._pause(pulled)

    def _pull(self, at: int) -> RawPull:
        member, started = self.member, time.monotonic()
        self.deadline = started + CALL_SECONDS
        count = pace.groups_to_ask(member.source.max_groups, member.context.board.memory_level)
        pulled = member.data.pull_raw(self.number, at, count, codec=member.codec.ask)
        member.report.observe("pull_seconds", time.monotonic() - started, source=member.source.name)
        member.troubles.clear(f"{self.area} pull")
        if pulled.groups:
            member.codec.answered(pulled.codec)
        return pulled

    def _failed(self, at: int, error: SlsError) -> None:
        """Nothing is held any more but the put in progress."""
        if self._settle() != at:
            return
        if isinstance(error, InvalidCursor):
            self._skip_what_is_gone(at, error)
        elif isinstance(error, BadRequest) and self.member.codec.proving:
            self.member.codec.answered("")
        else:
            self._trouble("body" if isinstance(error, _BadBody) else "pull", error)

    def _take(self, at: int, pulled: RawPull) -> bool:
        """To the putter; False when there is nothing to put."""
        try:
            pull = self._intake.accept(pulled, at, self.epoch, first=self._jump)
        except Unverified as wrong:
            raise _BadBody(f"shard {self.number} from {at}: {wrong}") from wrong
        self.member.troubles.clear(f"{self.area} body")
        if pull is None:
            if pulled.next != at:
                self._cursor = self.durable = pulled.next
                self._jump = True
            return False
        if pull.suspect:
            log.error("a body cannot be verified; spooled as it came", source=self.member.source.name,
                      shard=self.number, begin=at, next=pull.next, groups=pull.groups)  # fmt: skip
        size = len(pulled.body)
        self._pending = Ticket(pull, self._still_ours, lambda: self.member.room.leave(size))
        self._cursor = pull.next
        self.member.putter.submit(self._pending)
        return True

    def _still_ours(self) -> bool:
        return self.member.fence.holds() and not self.abandoned

    def _settle(self) -> int:
        """Wait for the put in progress; where to read on."""
        ticket, self._pending = self._pending, None
        if ticket is None:
            return self._cursor
        self.deadline = float("inf")  # the putter has its own
        answer = ticket.wait()
        if answer is None:
            self._cursor = ticket.pull.begin
            return self._cursor
        self._cursor = self.durable = answer.next
        if answer.outcome is Outcome.STORED:
            self._jump = False
        return self._cursor

    def _pause(self, pulled: RawPull) -> None:
        member = self.member
        listed = member.shards.get(self.number)
        if pulled.at_end:
            self.edge = time.time()
        elif pulled.arrived:
            self.edge = pulled.arrived
        self.closed = pulled.at_end and listed is not None and listed.readonly
        seconds = pace.wait_after_pull(
            at_end=pulled.at_end, readonly=self.closed, raw_size=pulled.raw_size,
            backlog_age=member.putter.backlog_age(),
        )  # fmt: skip
        if seconds:
            self._settle()
            self._rest(seconds)

    def _rest(self, seconds: float) -> None:
        self.deadline = float("inf")
        self._leave.wait(seconds)

    def _trouble(self, what: str, error: SlsError) -> None:
        self._rest(self.member.troubles.note(f"{self.area} {what}", error))

    def _skip_what_is_gone(self, at: int, error: InvalidCursor) -> None:
        """SLS does not have this cursor: on to the earliest that it has, and say what is lost."""
        member, name = self.member, self.member.source.name
        try:
            member.refresh()
            listed = member.shards.get(self.number)
            begin = member.data.get_cursor_at(self.number, "begin")
        except Revoked:
            raise
        except SlsError as wrong:
            self._trouble("pull", wrong)
            return
        if listed is None or listed.created != self.shard.created:
            log.warning("the shard was made anew", source=name, shard=self.number)
            self.abandon()
            return
        lost = begin - at
        if lost > 0:
            member.putter.add_lost(name, lost)
        else:
            self.epoch += 1
            member.putter.start_epoch(self.key, self.epoch, None)
        log.error("logs lost to retention", source=name, shard=self.number, cursor=at, begin=begin,
                  groups=lost if lost > 0 else "unknown", error=error.error)  # fmt: skip
        self._cursor = self.durable = begin
        self._jump = True
