"""The consumer's side of a lane: `put` returns when the pulls would survive a power cut, and not before.

The file and its name are fsynced, then one transaction holds the index row, the positions and the counters. After a COMMIT
that failed the lane believes nothing until it has proved itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diskcache.core import MODE_BINARY

from buffer import body, positions
from buffer.budget import allocated
from buffer.database import classify
from buffer.errors import SpoolBroken, SpoolDamaged, SpoolError, SpoolFull
from buffer.judge import after, is_behind, judge_all
from buffer.lane import Lane, add, add_all, insert_batch, waiting_counts
from buffer.lean import structlog
from buffer.sweep import last_sequence, sweep
from buffer.values import Answer, Position, Pull, ShardKey

log = structlog.get_logger()
#: Files made at once, so that a put flushes its file and its row, and a name only now and then.
_SPARE = 16


class LaneWriter(Lane):
    """The consumer's side."""

    lock_name = "writer.lock"
    sweeps_both = False

    def _opened(self, beat: Callable[[], None]) -> None:
        self._positions: dict[ShardKey, Position | None] = {}
        self._broken = False
        self.disk.keep_spare = _SPARE
        sweep(self, self.take_in, beat, both=self.sweeps_both)

    def take_in(self, name: str) -> bool:
        """Name the batch in that file, unless it is torn or holds nothing new; whether it did. OSError: it cannot be read."""
        try:
            loaded = body.unpack(self.disk.load(f"v/{name}"))
        except SpoolDamaged:
            self.disk.remove(f"v/{name}")  # the put was cut short: SLS has it
            return False
        pulls = [body.restore_pull(*one) for one in zip(loaded.meta, loaded.payloads, strict=True)]
        fresh, changed = self._fresh(pulls)
        if not fresh:
            self.disk.remove(f"v/{name}")
            return False
        what = f"a batch in lane {self.directory.name}"
        described = [body.describe_pull(pull) for pull in fresh]
        if len(fresh) == len(pulls):
            size, mode, file = loaded.size, MODE_BINARY, f"v/{name}"
        else:  # the put before it failed and is taken in too: what both hold may not be there twice
            size, mode, file = self._write(fresh, described, loaded.sequence, loaded.time, what)
        with self.transaction(what) as sql:
            self._insert(sql, loaded.sequence, loaded.time, file, size, mode, fresh, described)
            for key, position in changed.items():
                positions.save_position(sql, key, position)
            add(sql, "taken_in", sum(pull.groups for pull in fresh))
        self._positions.update(changed)
        if file != f"v/{name}":
            self.disk.remove(f"v/{name}")
        log.warning("a batch that the index did not know is taken in", lane=self.directory.name, file=file[2:])
        return True

    def _fresh(self, pulls: Sequence[Pull]) -> tuple[list[Pull], dict[ShardKey, Position]]:
        """Those that hold something new, and where they bring the positions."""
        fresh: list[Pull] = []
        changed: dict[ShardKey, Position] = {}
        for pull in pulls:
            known = changed.get(pull.key) or self.position(pull.key)
            if not is_behind(pull, known):
                changed[pull.key] = after(pull, known)
                fresh.append(pull)
        return fresh, changed

    def _write(
        self, pulls: Sequence[Pull], described: Sequence[dict[str, Any]], sequence: int, now: float, what: str
    ) -> tuple[int, int, str]:
        """Their file, durable: size, mode and name."""
        pieces = body.pack(body.BATCH, sequence, now, described, [pull.body for pull in pulls])
        try:
            size, mode, file, _ = self.disk.store(pieces, read=False)
        except OSError as error:
            raise classify(error, what) from error
        return size, mode, file

    def put(self, pulls: Sequence[Pull]) -> list[Answer]:
        """Store what is new of them; returns when durable. On any error none is stored."""
        if self._broken:
            raise SpoolBroken("the disk failed a flush twice", "replace the disk; what is spooled is still sent")
        if self._doubtful:
            self._prove_first()
        answers, changed, stored = judge_all(pulls, {p.key: self.position(p.key) for p in pulls})
        if stored:
            self._store(stored, changed)
        return answers

    def _prove_first(self) -> None:
        """Before positions are believed."""
        try:
            self._prove()
        except (sqlite3.Error, OSError) as error:
            found = classify(error, f"the index of lane {self.directory.name}")
            if self._broken:
                raise SpoolBroken(str(found), "replace the disk; what is spooled is still sent") from error
            raise found from error

    def _store(self, stored: Sequence[Pull], changed: Mapping[ShardKey, Position]) -> None:
        now, sequence, what = time.time(), self._next_sequence(), f"a batch in lane {self.directory.name}"
        described = [body.describe_pull(pull) for pull in stored]
        size, mode, file = self._write(stored, described, sequence, now, what)
        committing = False
        try:
            with self.transaction(what) as sql:
                self._insert(sql, sequence, now, file, size, mode, stored, described)
                for key, position in changed.items():
                    positions.save_position(sql, key, position)
                committing = True
        except SpoolError as error:
            self._failed(file, committing and not isinstance(error, SpoolFull))
            raise
        self._positions.update(changed)
        self._bell.ring()

    def _next_sequence(self) -> int:
        self._sequence = max(getattr(self, "_sequence", 0), last_sequence(self)) + 1
        return self._sequence

    def _insert(
        self, sql: Callable[..., sqlite3.Cursor], sequence: int, now: float, file: str, size: int, mode: int,
        stored: Sequence[Pull], described: Sequence[dict[str, Any]],
    ) -> None:  # fmt: skip
        groups = sum(pull.groups for pull in stored)
        insert_batch(sql, self._cache, sequence, now, file, size, mode, described)
        counts = Counter({**waiting_counts(1, groups, allocated(size)), ("put", ""): groups})
        for pull in stored:
            counts["fetched_groups", pull.source] += pull.groups
            counts["fetched_bytes", pull.source] += len(pull.body)
            counts["fetched_raw_bytes", pull.source] += pull.raw_size
        add_all(sql, counts)

    def _failed(self, file: str, is_unknown: bool) -> None:
        """The file goes. Only where a COMMIT failed at a flush is its outcome unknown: then it stays for the sweep.

        For want of room a COMMIT fails before its last page is written, so it can never come true; and a file that stayed at
        each attempt would take the very room that draining needs.
        """
        self._positions.clear()
        if not is_unknown:
            self.disk.remove(file)

    def _prove(self) -> None:
        """The disk fails the proof too: no more puts. The other side in the way is no such failure."""
        self._positions.clear()
        try:
            super()._prove()
        except (sqlite3.Error, OSError) as error:
            self._broken = not isinstance(classify(error, ""), SpoolFull)
            raise

    def position(self, key: ShardKey) -> Position | None:
        """Of this lane."""
        if key not in self._positions:
            found = self.rows(f"SELECT {positions.COLUMNS} FROM position WHERE key = ?", positions.key_text(key))
            self._positions[key] = positions.of_row(*found[0]) if found else None
        return self._positions[key]

    def start_epoch(self, key: ShardKey, epoch: int, checkpoint: int | None) -> None:
        """A new epoch without P: what comes next is stored whatever was put before."""
        position = Position(epoch, None, checkpoint)
        with self.transaction("a new epoch") as sql:
            positions.save_position(sql, key, position)
        self._positions[key] = position

    def note_checkpoints(self, rows: Mapping[ShardKey, tuple[int, int]]) -> None:
        """Key → (epoch, C), once SLS has acknowledged them. An older epoch's is ignored."""
        changed = {}
        for key, (epoch, cursor) in rows.items():
            known = self.position(key)
            if known is None or known.epoch < epoch:
                changed[key] = Position(epoch, None, cursor)
            elif known.epoch == epoch and known.checkpoint != cursor:
                changed[key] = Position(epoch, known.put, cursor)
        if changed:
            with self.transaction("checkpoints") as sql:
                for key, position in changed.items():
                    positions.save_position(sql, key, position)
            self._positions.update(changed)

    def skip_lost(self, key: ShardKey, epoch: int, cursor: int, source: str, groups: int) -> None:
        """LogGroups that retention took before they were pulled. Counted once: the position moves with the count."""
        known = self.position(key)
        checkpoint = known.checkpoint if known is not None and known.epoch == epoch else None
        position = Position(epoch, cursor, checkpoint)
        with self.transaction("a count") as sql:
            positions.save_position(sql, key, position)
            add(sql, "lost_to_retention_groups", groups, source)
        self._positions[key] = position

    def backlog_age(self) -> float:
        """Seconds since the oldest waiting batch was put; 0 when none waits."""
        rows = self.rows("SELECT time FROM batch ORDER BY id LIMIT 1")
        return max(0.0, time.time() - rows[0][0]) if rows else 0.0


class Sweeper(LaneWriter):
    """Who opens a lane at start, before anybody is at work: so letters without a row can be told from new ones."""

    sweeps_both = True
