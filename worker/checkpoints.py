"""Saves what is durable as the checkpoints of SLS, never more, at most every two seconds a shard, never by force."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from buffer.errors import SpoolDamaged, SpoolError
from buffer.spool import lowest_waiting
from buffer.values import ShardKey
from worker.logs import get_logger
from worker.member import Member
from worker.pace import checkpoint_due
from worker.sls_errors import Revoked, SlsError

if TYPE_CHECKING:
    from worker.reader import Reader

log = get_logger()


def delivered_target(durable: int, lowest: int | None, acquired: int | None) -> int:
    """For `checkpoint = "delivered"`: up to the first pull that still waits, but never behind what was found."""
    target = durable if lowest is None else min(durable, lowest)
    return target if acquired is None else max(acquired, target)


class Saver:
    """One per source: a thread of its own, so that a slow answer delays neither pulls nor heartbeats."""

    def __init__(self, member: Member, finished: threading.Event) -> None:
        self._member = member
        self._finished = finished

    def run(self) -> None:
        """Until the source's last reader has ended."""
        while not self._finished.wait(0.25):
            rows: dict[ShardKey, tuple[int, int]] = {}
            for reader in self._member.live_readers():
                if row := self.save(reader, hurry=False):
                    rows[reader.key] = row
            self.note(rows)

    def last(self, reader: Reader) -> None:
        """At hand-over, from the reader's own thread; three tries."""
        for wait in (0.2, 1.0, 0.0):
            row = self.save(reader, hurry=True)
            if row:
                self.note({reader.key: row})
            if row or reader.saved == reader.durable or reader.abandoned:
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

    def save(self, reader: Reader, *, hurry: bool) -> tuple[int, int] | None:
        """(epoch, C) when SLS has acknowledged it."""
        with reader.saving:
            now = time.monotonic()
            try:
                target = self._target(reader)
            except SpoolDamaged:
                raise
            except SpoolError as error:
                log.warning("what waits is not known", source=self._member.source.name, error=str(error))
                return None
            due = checkpoint_due(
                durable=target, saved=reader.saved, since_saved=1e9 if hurry else now - reader.tried_to_save,
                readonly_at_end=reader.closed, sealed=reader.sealed,
            )  # fmt: skip
            if not due or target is None or reader.abandoned or not self._member.fence.holds():
                return None
            reader.tried_to_save = now
            sealing = reader.closed and target == reader.durable
            return self._send(reader, target, sealing)

    def _send(self, reader: Reader, target: int, sealing: bool) -> tuple[int, int] | None:
        member, area = self._member, f"shard {reader.number} checkpoint"
        try:
            member.saving.save_checkpoint(member.source.consumer_group, member.consumer, reader.number, target)
        except Revoked as error:
            log.info("shard taken away", source=member.source.name, shard=reader.number, code=error.code)
            reader.abandon()
            return None
        except SlsError as error:
            reader.tried_to_save = time.monotonic() + member.troubles.note(area, error) - 2.0
            return None
        member.troubles.clear(area)
        reader.saved, reader.sealed = target, sealing
        return reader.epoch, target

    def _target(self, reader: Reader) -> int | None:
        durable = reader.durable
        if durable is None or self._member.context.settings.checkpoint == "spooled":
            return durable
        settings, source = self._member.context.settings, self._member.source
        # After `durable` was read: what is put between the two makes the target only lower.
        lowest = lowest_waiting(settings.spool.directory, source.project, source.logstore, reader.number)
        return delivered_target(durable, lowest, reader.acquired)
