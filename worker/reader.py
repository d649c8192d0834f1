"""One shard's thread: pull, verify, hand to the putter, and have the next pull in flight while that one is made durable.

- `durable` moves on the putter's answer, and checkpoints are made of nothing else.
- At most one pull of a shard is with the putter: when it was not stored, the pull behind it is thrown away.
- A reader that lets go waits for its put, saves its checkpoint and ends; until then the heartbeat lists its shard.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from buffer.errors import SpoolDamaged, SpoolError
from buffer.values import Answer, Outcome
from worker import gone, pace
from worker.acquire import acquire, unpulled_since
from worker.gone import Why
from worker.held import HeldShard
from worker.intake import Intake
from worker.logs import get_logger
from worker.member import Member
from worker.putter import Ticket
from worker.room import Place
from worker.sls_answer import RawPull
from worker.sls_errors import BadAnswer, BadRequest, Declined, InvalidCursor, Revoked, SlsError
from worker.verify import Unverified

log = get_logger()
#: Seconds after which a call that has not returned is a hang of ours: longer than every time-out.
CALL_SECONDS = 150.0
#: Seconds for which an answer whose size is more than was expected waits for room, before it is left to SLS.
ADMIT_SECONDS = 10.0
#: Seconds between two questions how old the oldest log is, where nothing is pulled.
EDGE_SECONDS = 30.0


class _BadBody(BadAnswer):
    """The body is not what its headers say."""


class Reader:
    """Started by the heartbeat when SLS gives us the shard."""

    def __init__(self, member: Member, held: HeldShard, save_last: Callable[[HeldShard], None]) -> None:
        self._member, self._held, self._save_last = member, held, save_last
        self._area = f"shard {held.number}"
        self._intake = Intake(held.key, member.source.name)
        self._cursor = 0
        self._pending: Ticket | None = None
        self._jump = True
        """The next pull may begin above the position: nothing lies between."""
        self._refusals = 0
        """How often in a row SLS has refused the cursor."""
        self._ask_edge = 0.0
        """When to ask again how old the oldest log is that was not pulled, monotonic."""

    def run(self) -> None:
        """The thread."""
        try:
            self._read()
        except Revoked as error:
            log.info("shard taken away", source=self._held.source, shard=self._held.number, code=error.code)
            self._held.revoke()
        finally:
            self._held.deadline = float("inf")
            self._member.troubles.clear_all(f"{self._area} ")
            self._held.ended.set()
            self._member.wake.set()

    def _read(self) -> None:
        if not self._acquire():
            return
        try:
            while not self._held.leaving:
                if self._may_pull():
                    self._guarded_turn()
                else:
                    self._settle()
                    self._learn_edge()
                    self._rest(0.25)
        finally:
            self._settle()
        if not self._held.abandoned:
            self._save_last(self._held)

    def _acquire(self) -> bool:
        while not self._held.leaving:
            self._held.deadline = time.monotonic() + CALL_SECONDS
            try:
                with self._asking():
                    found = acquire(self._member, self._held.shard, self._held.key, self._wait)
            except (Revoked, SpoolDamaged):
                raise
            except SlsError as error:
                self._trouble("start", error)
            except SpoolError as error:
                log.warning("positions cannot be read", source=self._member.source.name, error=str(error))
                self._rest(1.0)
            else:
                if found is None:
                    return False
                self._held.epoch, self._held.acquired, self._held.saved = found.epoch, found.server, found.server
                self._held.durable = self._cursor = found.cursor
                self._member.troubles.clear(f"{self._area} start")
                return True
        return False

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        self._held.asking = True
        try:
            yield
        finally:
            self._held.asking = False

    def _wait(self, seconds: float) -> bool:
        asked_to_leave = self._held.rest(seconds)
        self._held.deadline = time.monotonic() + CALL_SECONDS
        return asked_to_leave

    def _may_pull(self) -> bool:
        board, member = self._member.context.board, self._member
        allowed = pace.may_pull(board.memory_level, board.spool_level) and not member.putter.blocked
        return allowed and member.fence.holds()

    def _learn_edge(self) -> None:
        """Nothing may be pulled, and no pull has told yet how old the oldest log is that waits in SLS: its retention goes on."""
        member, held, now = self._member, self._held, time.monotonic()
        if held.edge is not None or now < self._ask_edge or not member.fence.holds():
            return
        self._ask_edge = now + EDGE_SECONDS
        held.deadline = now + CALL_SECONDS
        try:
            with self._asking():
                held.edge = unpulled_since(member, held.number, self._cursor)
        except Revoked:
            raise
        except SlsError as error:
            log.info("the oldest log is not known", source=held.source, shard=held.number, error=error.error)

    def _guarded_turn(self) -> None:
        """A spool that cannot be asked or told just now is waited for; a damaged one ends the process."""
        try:
            self._turn()
        except SpoolDamaged:
            raise
        except SpoolError as error:
            log.warning("the lane does not answer", source=self._member.source.name, error=str(error), hint=error.hint)
            self._rest(1.0)

    def _turn(self) -> None:
        """One pull, while the one before is being put."""
        at = self._cursor
        self._held.deadline = float("inf")
        place = self._member.room.enter(lambda: self._member.max_in_pull, self._unwanted)
        if place is None:
            return
        pulled = wrong = None
        taken = False
        generation = self._member.fence.generation
        try:
            if not self._member.fence.holds():
                return
            pulled = self._pull(at, place)
            if self._settle() != at or not self._member.fence.holds(generation) or self._held.abandoned:
                return
            place.correct(len(pulled.body))
            self._member.expect(len(pulled.body))
            taken = self._take(at, pulled, generation, place)
        except Revoked:
            raise
        except Declined:
            return
        except SlsError as error:
            wrong = error
        finally:
            if not taken:
                place.leave()
        if wrong is not None:
            self._failed(at, wrong, generation)
        elif pulled is not None:
            self._pause(pulled)

    def _unwanted(self) -> bool:
        return self._held.leaving or not self._may_pull()

    def _pull(self, at: int, place: Place) -> RawPull:
        member, started = self._member, time.monotonic()
        self._held.deadline = started + CALL_SECONDS
        count = pace.groups_to_ask(member.source.max_groups, member.context.board.memory_level)

        def admit(size: int) -> bool:
            until = time.monotonic() + ADMIT_SECONDS
            if place.grow(size, lambda: self._unwanted() or time.monotonic() > until):
                return True
            member.expect(size)  # next time it waits for all of it before it asks
            return False

        with self._asking():
            pulled = member.data.pull_raw(self._held.number, at, count, codec=member.codec.ask, admit=admit)
        member.report.observe("pull_seconds", time.monotonic() - started, source=member.source.name)
        member.troubles.clear(f"{self._area} pull")
        self._refusals = 0
        if pulled.groups:
            member.codec.answered(pulled.codec)
        return pulled

    def _failed(self, at: int, error: SlsError, generation: int) -> None:
        """Nothing is held any more but the put in progress."""
        if self._settle() != at:
            return
        if isinstance(error, InvalidCursor):
            self._go_on_where_sls_can(at, error, generation)
        elif isinstance(error, BadRequest) and self._member.codec.proving:
            self._member.codec.answered("")
        else:
            self._trouble("body" if isinstance(error, _BadBody) else "pull", error)

    def _take(self, at: int, pulled: RawPull, generation: int, place: Place) -> bool:
        """To the putter; False when there is nothing to put."""
        try:
            pull = self._intake.accept(pulled, at, self._held.epoch, first=self._jump)
        except Unverified as wrong:
            raise _BadBody(f"shard {self._held.number} from {at}: {wrong}") from wrong
        self._member.troubles.clear(f"{self._area} body")
        if pull is None:
            if pulled.next != at:
                self._cursor = self._held.durable = pulled.next
                self._jump = True
            return False
        if pull.suspect:
            log.error("a body cannot be verified; spooled as it came", source=self._member.source.name,
                      shard=self._held.number, begin=at, next=pull.next, groups=pull.groups)  # fmt: skip
        self._pending = Ticket(pull, lambda: self._still_ours(generation), lambda put: self._told(put, place))
        self._cursor = pull.next
        self._member.putter.submit(self._pending)
        return True

    def _told(self, answer: Answer | None, place: Place) -> None:
        """By the putter. What is durable may be checkpointed however long the pull in flight takes."""
        place.leave()
        if answer is not None:
            self._held.durable = answer.next

    def _still_ours(self, generation: int) -> bool:
        """SLS has it: what is asked back while the disk does not take is thrown away, so that another host can read it."""
        unwanted = self._held.abandoned or (self._held.leaving and self._member.putter.blocked)
        return self._member.fence.holds(generation) and not unwanted

    def _settle(self) -> int:
        """Wait for the put in progress; where to read on."""
        ticket, self._pending = self._pending, None
        if ticket is None:
            return self._cursor
        self._held.deadline = float("inf")  # the putter has its own
        answer = ticket.wait()
        if answer is None:
            self._cursor = ticket.pull.begin
            return self._cursor
        self._cursor = self._held.durable = answer.next
        if answer.outcome is Outcome.STORED:
            self._jump = False
        return self._cursor

    def _pause(self, pulled: RawPull) -> None:
        member = self._member
        listed = member.shards.get(self._held.number)
        if pulled.groups and pulled.arrived:
            self._held.newest = pulled.arrived
        if pulled.at_end:
            self._held.edge = time.time()
        elif pulled.arrived:
            self._held.edge = pulled.arrived
        self._held.closed = pulled.at_end and listed is not None and listed.readonly
        seconds = pace.wait_after_pull(
            at_end=pulled.at_end, readonly=self._held.closed, raw_size=pulled.raw_size,
            backlog_age=member.putter.backlog_age(),
        )  # fmt: skip
        if seconds:
            self._settle()
            self._rest(seconds)

    def _rest(self, seconds: float) -> None:
        self._held.deadline = float("inf")
        self._held.rest(seconds)

    def _trouble(self, what: str, error: SlsError) -> None:
        self._rest(self._member.troubles.note(f"{self._area} {what}", error))

    def _go_on_where_sls_can(self, at: int, error: InvalidCursor, generation: int) -> None:
        """SLS refuses this cursor: find out why, and say what is lost."""
        member, held, name = self._member, self._held, self._member.source.name
        self._refusals += 1
        try:
            with self._asking():
                found = gone.look(member, held.shard, at, self._refusals)
        except Revoked:
            raise
        except SlsError as wrong:
            self._trouble("pull", wrong)
            return
        if not member.fence.holds(generation) or held.abandoned:
            return  # whoever has the shard now counts what is lost
        if found.why is Why.ANEW:
            log.warning("the shard was made anew", source=name, shard=held.number)
            held.abandon()
            return
        if found.why is Why.PASSING:
            self._trouble("pull", error)
            return
        gone.write_off(member, held, at, found, error)
        self._cursor = held.durable = found.begin
        self._jump = True
