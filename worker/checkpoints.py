"""Saves what is durable as the checkpoints of SLS, never more, at most every two seconds a shard, never by force."""

from __future__ import annotations

import threading
import time

from buffer.errors import SpoolDamaged, SpoolError
from buffer.values import ShardKey
from worker.held import HeldShard
from worker.logs import get_logger
from worker.member import Member
from worker.pace import checkpoint_due
from worker.sls_errors import Revoked, SlsError
from worker.waiting import delivered_target

log = get_logger()
#: Seconds for which a look at what waits in all lanes serves.
LOOK_EVERY = 2.0
#: Seconds between looks at what is to be saved.
TURN = 1.0


class Saver:
    """One per source: a thread of its own, so that a slow answer delays neither pulls nor heartbeats."""

    def __init__(self, member: Member, finished: threading.Event) -> None:
        self._member = member
        self._finished = finished

    def run(self) -> None:
        """Until the source's last reader has ended."""
        while not self._finished.wait(TURN):
            rows: dict[ShardKey, tuple[int, int]] = {}
            for held in self._member.live():
                if row := self.save(held, hurry=False):
                    rows[held.key] = row
            self.note(rows)

    def last(self, held: HeldShard) -> None:
        """At hand-over, from the reader's own thread; three tries."""
        for wait in (0.2, 1.0, 0.0):
            row = self.save(held, hurry=True)
            if row:
                self.note({held.key: row})
            if row or held.saved == held.target or held.abandoned:
                return
            time.sleep(wait)

    def note(self, rows: dict[ShardKey, tuple[int, int]]) -> None:
        """Remember what SLS has acknowledged. Its loss is harmless: a re-pull is recognised by its position."""
        if not rows:
            return
        try:
            self._member.putter.note_checkpoints(rows)
        except SpoolDamaged:
            raise
        except SpoolError as error:
            log.warning("checkpoints not noted", source=self._member.source.name, error=str(error))

    def save(self, held: HeldShard, *, hurry: bool) -> tuple[int, int] | None:
        """(epoch, C) when SLS has acknowledged it."""
        with held.saving:
            now = time.monotonic()
            try:
                target = held.target = self._target(held, hurry=hurry)
            except SpoolDamaged:
                raise
            except SpoolError as error:
                log.warning("what waits is not known", source=self._member.source.name, error=str(error))
                return None
            due = checkpoint_due(
                durable=target, saved=held.saved, since_saved=1e9 if hurry else now - held.tried_to_save,
                readonly_at_end=held.closed, sealed=held.sealed,
            )  # fmt: skip
            if not due or target is None or held.abandoned or not self._member.fence.holds():
                return None
            held.tried_to_save = now
            sealing = held.closed and target == held.durable
            return self._send(held, target, sealing)

    def _send(self, held: HeldShard, target: int, sealing: bool) -> tuple[int, int] | None:
        member, area = self._member, f"shard {held.number} checkpoint"
        try:
            member.saving.save_checkpoint(member.source.consumer_group, member.consumer, held.number, target)
        except Revoked as error:
            log.info("shard taken away", source=member.source.name, shard=held.number, code=error.code)
            held.revoke()
            return None
        except SlsError as error:
            held.tried_to_save = time.monotonic() + member.troubles.note(area, error) - LOOK_EVERY
            return None
        member.troubles.clear(area)
        member.lived = True
        held.saved, held.sealed = target, sealing
        return held.epoch, target

    def _target(self, held: HeldShard, *, hurry: bool) -> int | None:
        """How far the checkpoint may go."""
        durable = held.durable
        if durable is None or self._member.context.settings.checkpoint == "spooled":
            return durable
        # After `durable` was read, and the look begins after this: what is put in between makes the target only lower.
        now = time.monotonic()
        if hurry or held.mark is None:
            held.mark = (now, durable)
        marked, durable = held.mark
        look = self._member.waiting.look(now if hurry else now - LOOK_EVERY)
        if look.begun <= marked:
            return held.target
        held.mark = None
        source = self._member.source
        lowest = look.lowest.get((source.project, source.logstore, held.number))
        return delivered_target(durable, lowest, held.acquired)
