"""The sender's side of a lane: `read` removes nothing; `ack` removes batches, adds what is buried and moves the books in one
top-level transaction, and only then unlinks. A damaged body is set aside, counted and reported; the lane goes on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from buffer import body
from buffer.aside import write_note
from buffer.database import classify, sync_directory
from buffer.disk import write_all
from buffer.errors import SpoolDamaged
from buffer.lane import add, remove_batch
from buffer.lean import structlog
from buffer.letters import Letters
from buffer.values import Batch, DeadLetter, Tally

log = structlog.get_logger()


class LaneReader(Letters):
    """The sender's side."""

    lock_name = "reader.lock"

    def read(self, after: int, limit: int, max_bytes: int) -> list[Batch]:
        """Batches after that id, oldest first, at least one; nothing is removed."""
        rows = self.rows(
            "SELECT id, file, bytes, groups, time, pulls FROM batch WHERE id > ? ORDER BY id LIMIT ?",
            after,
            min(limit, 1000),
        )
        found: list[Batch] = []
        size = 0
        for number, file, length, groups, when, pulls in rows:
            if found and size + length > max_bytes:
                break
            batch = self._load(number, file, when, groups, pulls)
            if batch is not None:
                found.append(batch)
                size += length
        return found

    def _load(self, number: int, file: str, when: float, groups: int, pulls: str) -> Batch | None:
        try:
            loaded = self._unpack(file, f"batch {number}")
            if loaded.kind != body.BATCH or loaded.sequence != number:
                raise SpoolDamaged(f"the file of batch {number} holds something else")
        except SpoolDamaged as error:
            self._set_file_aside(number, file, groups, pulls, str(error))
            return None
        restored = tuple(map(body.restore_pull, loaded.meta, loaded.payloads))
        return Batch(number, restored, when, loaded.size)

    def _set_file_aside(self, number: int, file: str, groups: int, pulls: str, why: str) -> None:
        """Keep it in damaged/ with what the index knows of it; count it, say it."""
        known = orjson.loads(pulls)
        name = Path(file).name
        folder = self.directory / "damaged"
        try:
            write_note(self.directory, name, why, batch=number, pulls=known)
            if (self.directory / file).exists():
                os.link(self.directory / file, folder / name)
            sync_directory(folder)
        except FileExistsError:
            pass
        except OSError as error:
            raise classify(error, "a damaged body") from error
        with self.transaction("a damaged body") as sql:
            remove_batch(sql, number, known)
            add(sql, "set_aside", groups)
            add(sql, "damaged", 1)
        self.disk.remove(file)
        for pull in known:
            log.error(
                "damaged body set aside", lane=self.directory.name, file=name, why=why, source=pull["source"],
                shard=pull["key"][4], begin=pull["begin"], next=pull["next"], groups=pull["groups"],
                hint="fetch it again with sls-siem replay",
            )  # fmt: skip

    def ack(
        self, batches: Sequence[Batch], buried: Sequence[DeadLetter] = (), tally: Tally | None = None,
        set_aside: Sequence[tuple[Batch, int, str]] = (),
    ) -> None:  # fmt: skip
        """Done with these; what Splunk refused of them is buried. One transaction, then unlink."""
        self._write_aside(set_aside)
        letters = self.bury(buried)
        with self.naming("an ack") as sql:
            files = [self._settle(sql, batch) for batch in batches]
            moved = sum(batch.pulls[place].groups for batch, place, _ in set_aside)
            add(sql, "settled", sum(batch.groups for batch in batches) - moved)
            add(sql, "set_aside", moved)
            add(sql, "damaged", len(set_aside))
            files += self.name_buried(sql, buried, letters)
            self._move_books(sql, tally or Tally(), buried)
        for file in files:
            self.disk.remove(file)

    def _settle(self, sql: Callable[..., sqlite3.Cursor], batch: Batch) -> str:
        rows = sql("SELECT file FROM batch WHERE id = ?", (batch.id,)).fetchall()
        if not rows:
            raise SpoolDamaged(f"batch {batch.id} is acked twice")
        remove_batch(sql, batch.id, [body.describe_pull(pull) for pull in batch.pulls])
        file: str = rows[0][0]
        return file

    def _move_books(self, sql: Callable[..., sqlite3.Cursor], tally: Tally, buried: Sequence[DeadLetter]) -> None:
        for name in ("decoded", "delivered", "filtered"):
            for route, events in getattr(tally, name).items():
                add(sql, name, events, route)
        add(sql, "buried", len(buried))

    def _write_aside(self, set_aside: Sequence[tuple[Batch, int, str]]) -> None:
        for batch, place, why in set_aside:
            pull = batch.pulls[place]
            described = body.describe_pull(pull) | {"why": why}
            pieces = body.pack(body.BATCH, batch.id, time.time(), [described], [pull.body])
            path = self.directory / "damaged" / f"{batch.id}-{place}-{round(batch.time * 1000)}.val"
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    write_all(file, pieces)
                    os.fsync(file)
                finally:
                    os.close(file)
                write_note(self.directory, path.name, why, batch=batch.id, pulls=[described])
            except OSError as error:
                raise classify(error, "a body set aside") from error

    def _prove(self) -> None:
        """Draining goes on where the disk fails the proof too: at worst an ack is forgotten, and its batch sent again."""
        try:
            super()._prove()
        except (sqlite3.Error, OSError) as error:
            self._doubtful = False
            log.error(
                "the disk fails the index of this lane; draining goes on", lane=self.directory.name, error=str(error),
                hint="replace the disk: dmesg says more",
            )  # fmt: skip

    def bell(self) -> int:
        """The FIFO to select on; `quiet` drains it."""
        return self._bell.fd

    def quiet(self) -> None:
        """Forget the rings so far."""
        self._bell.drain()

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact over restarts."""
        with self.transaction("a fact") as sql:
            sql("INSERT OR REPLACE INTO memo(name, value) VALUES (?, ?)", (name, value))

    def recall(self, name: str) -> str | None:
        """A fact that was remembered."""
        rows = self.rows("SELECT value FROM memo WHERE name = ?", name)
        return rows[0][0] if rows else None
