"""A lane: one consumer slot's queue, with one writer and one reader in two processes.

- `put` returns when the pulls would survive a power cut, and not before: the file and its name are fsynced, then one
  transaction holds the index row, the positions and the counters.
- `read` removes nothing. `ack` removes batches, adds what is buried and moves the books in one top-level transaction,
  and only then unlinks.
- A damaged body is set aside, counted and reported; the lane goes on.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import diskcache
import orjson
import structlog

from buffer import body
from buffer.bell import Bell
from buffer.database import classify, open_cache, sync_directory
from buffer.disk import DurableDisk, write_all
from buffer.errors import SpoolBroken, SpoolDamaged, SpoolError, SpoolFull, SpoolLocked, SpoolUnusable
from buffer.judge import judge_all
from buffer.settings import SpoolSettings
from buffer.values import Answer, Batch, DeadLetter, Position, Pull, ShardKey, Tally

log = structlog.get_logger()


def nothing() -> None:
    """For those who need no heartbeat."""


def key_text(key: ShardKey) -> str:
    """A position's key as it stands in the index."""
    return orjson.dumps([key.project, key.logstore, key.group, key.query, key.shard, key.created]).decode()


class Lane:
    """What writer and reader share: the directory, the index, one lock each."""

    lock_name = ""

    def __init__(self, directory: Path, settings: SpoolSettings, cache: diskcache.Cache, lock: int) -> None:
        self.directory = directory
        self._settings = settings
        self._cache = cache
        self._lock = lock
        self._bell = Bell(directory / "bell")
        self._closed = False

    @classmethod
    def open(cls, directory: Path, settings: SpoolSettings, *, beat: Callable[[], None] = nothing) -> Self:
        """Take the lock without waiting, then open. Raises SpoolLocked, SpoolDamaged, SpoolFull or SpoolUnusable."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(directory / cls.lock_name)
        try:
            beat()
            lane = cls(directory, settings, open_cache(directory), lock)
            lane._opened(beat)
        except BaseException:
            os.close(lock)
            raise
        return lane

    @classmethod
    def attach(cls, directory: Path, settings: SpoolSettings) -> Self:
        """Beside the one who has the lock: only for single transactions of an operator's."""
        return cls(directory, settings, open_cache(directory), os.open(directory, os.O_RDONLY | os.O_CLOEXEC))

    def _opened(self, beat: Callable[[], None]) -> None:
        """What a side does once it is open."""

    def ring(self) -> None:
        """Wake the reader."""
        self._bell.ring()

    @property
    def disk(self) -> DurableDisk:
        disk: DurableDisk = self._cache.disk
        return disk

    @contextmanager
    def transaction(self, what: str) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """One top-level transaction of diskcache's; its errors and SQLite's leave as ours."""
        try:
            with self._cache._transact() as (sql, _cleanup):
                yield sql
        except (sqlite3.Error, diskcache.Timeout, OSError) as error:
            raise classify(error, what) from error

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._cache._sql(statement, values).fetchall()
        except sqlite3.Error as error:
            raise classify(error, f"the index of lane {self.directory.name}") from error
        return rows

    def close(self) -> None:
        """Give back files and lock; twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._cache.close()
        self.disk.close()
        self._bell.close()
        os.close(self._lock)


def take_lock(path: Path) -> int:
    """An exclusive flock, without waiting; the kernel gives it back when we die."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolUnusable(f"cannot open {path}: {error.strerror}", "check owner and permissions") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise SpoolLocked(f"{path.parent} is in use by another process", "stop the other one first") from error
    return file


def add(sql: Callable[..., sqlite3.Cursor], name: str, value: int, label: str = "") -> None:
    """Move a counter of the books."""
    if value:
        sql(
            "INSERT INTO counter(name, label, value) VALUES (?, ?, ?)"
            " ON CONFLICT(name, label) DO UPDATE SET value = value + excluded.value",
            (name, label, value),
        )


class LaneWriter(Lane):
    """The consumer's side."""

    lock_name = "writer.lock"

    def _opened(self, beat: Callable[[], None]) -> None:
        self._positions: dict[ShardKey, Position | None] = {}
        self._broken = False
        self._doubtful = False
        self.sweep(beat)

    def sweep(self, beat: Callable[[], None] = nothing) -> int:
        """Remove files that no row names: what a crash left between writing and committing. How many."""
        named = {row[0] for row in self.rows("SELECT filename FROM Cache")}
        removed = 0
        limit = time.time() - 60
        for entry in os.scandir(self.directory / "v"):
            beat()
            # The reader writes dead letters here at any time: what is young may be about to be committed.
            if f"v/{entry.name}" not in named and (entry.stat().st_mtime < limit or not self._reader_alive()):
                self.disk.remove(f"v/{entry.name}")
                removed += 1
        return removed

    def _reader_alive(self) -> bool:
        try:
            lock = take_lock(self.directory / "reader.lock")
        except SpoolLocked:
            return True
        os.close(lock)
        return False

    def put(self, pulls: Sequence[Pull]) -> list[Answer]:
        """Store what is new of them; returns when durable. On any error none is stored."""
        if self._broken:
            raise SpoolBroken("the disk failed a flush twice", "replace the disk; what is spooled is still sent")
        if self._doubtful:
            self._prove()
        answers, changed, stored = judge_all(pulls, {p.key: self.position(p.key) for p in pulls})
        if stored:
            self._store(stored, changed)
        return answers

    def _store(self, stored: Sequence[Pull], changed: Mapping[ShardKey, Position]) -> None:
        now = time.time()
        sequence = self._next_sequence()
        described = [body.describe_pull(pull) for pull in stored]
        pieces = body.pack(body.BATCH, sequence, now, described, [pull.body for pull in stored])
        what = f"a batch in lane {self.directory.name}"
        try:
            size, mode, file, _ = self.disk.store(pieces, read=False)
        except OSError as error:
            raise classify(error, what) from error
        committing = False
        try:
            with self.transaction(what) as sql:
                self._insert(sql, sequence, now, file, size, mode, stored, described)
                for key, position in changed.items():
                    save_position(sql, key, position)
                committing = True
        except SpoolError as error:
            self._failed(error, file, committing)
            raise
        self._positions.update(changed)
        self._bell.ring()

    def _next_sequence(self) -> int:
        last = self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'batch'")
        self._sequence = max(getattr(self, "_sequence", 0), last[0][0] if last else 0) + 1
        return self._sequence

    def _insert(
        self, sql: Callable[..., sqlite3.Cursor], sequence: int, now: float, file: str, size: int, mode: int,
        stored: Sequence[Pull], described: Sequence[dict[str, Any]],
    ) -> None:  # fmt: skip
        insert_batch(sql, self._cache, sequence, now, file, size, mode, described)
        add(sql, "put", sum(pull.groups for pull in stored))
        for pull in stored:
            add(sql, "fetched_groups", pull.groups, pull.source)
            add(sql, "fetched_bytes", len(pull.body), pull.source)
            add(sql, "fetched_raw_bytes", pull.raw_size, pull.source)

    def _failed(self, error: SpoolError, file: str, committing: bool) -> None:
        """Before the COMMIT the file goes; after it the outcome is unknown and the file stays for the sweep."""
        self._positions.clear()
        if not committing:
            self.disk.remove(file)
        elif not isinstance(error, SpoolFull):
            self._doubtful = True

    def _prove(self) -> None:
        """After a failed COMMIT nothing is believed until a checkpoint of the whole journal succeeds."""
        try:
            self._cache.close()
            if self.rows("PRAGMA journal_mode")[0][0] == "wal":
                busy = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
                if busy:
                    raise SpoolUnusable("the journal is in use", "it is tried again")
            else:
                self._rewrite()
        except SpoolFull:
            raise
        except SpoolUnusable as error:
            self._broken = True
            raise SpoolBroken(str(error), "replace the disk; what is spooled is still sent") from error
        self._positions.clear()
        self._doubtful = False

    def _rewrite(self) -> None:
        """Rollback journal: the index as the page cache has it, in a new file, flushed and put in place."""
        fresh = self.directory / "cache.db.new"
        fresh.unlink(missing_ok=True)
        self.rows(f"VACUUM INTO '{fresh}'")
        file = os.open(fresh, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(file)
        except OSError as error:
            raise classify(error, "the rewritten index") from error
        finally:
            os.close(file)
        fresh.unlink()

    def position(self, key: ShardKey) -> Position | None:
        """Of this lane."""
        if key not in self._positions:
            found = self.rows("SELECT epoch, put, checkpoint FROM position WHERE key = ?", key_text(key))
            self._positions[key] = Position(*found[0]) if found else None
        return self._positions[key]

    def start_epoch(self, key: ShardKey, epoch: int, checkpoint: int | None) -> None:
        """A new epoch without P: what comes next is stored whatever was put before."""
        position = Position(epoch, None, checkpoint)
        with self.transaction("a new epoch") as sql:
            save_position(sql, key, position)
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
                    save_position(sql, key, position)
            self._positions.update(changed)

    def add_lost(self, source: str, groups: int) -> None:
        """LogGroups that retention took before they were pulled."""
        with self.transaction("a count") as sql:
            add(sql, "lost_to_retention_groups", groups, source)

    def backlog_age(self) -> float:
        """Seconds since the oldest waiting batch was put; 0 when none waits."""
        rows = self.rows("SELECT time FROM batch ORDER BY id LIMIT 1")
        return max(0.0, time.time() - rows[0][0]) if rows else 0.0


def insert_batch(
    sql: Callable[..., sqlite3.Cursor], cache: diskcache.Cache, sequence: int, now: float, file: str, size: int,
    mode: int, described: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """The rows of a batch: diskcache's, ours, and the lowest cursor it holds of each shard."""
    cache._row_insert(f"batch-{sequence}", True, now, (None, None, size, mode, file, None))
    sql(
        "INSERT INTO batch(id, file, bytes, groups, time, pulls) VALUES (?, ?, ?, ?, ?, ?)",
        (sequence, file, size, sum(d["groups"] for d in described), now, orjson.dumps(described).decode()),
    )
    add(sql, "waiting_groups", sum(d["groups"] for d in described))
    add(sql, "waiting_batches", 1)
    add(sql, "waiting_bytes", size)
    for shard, begin in lowest_begins(described).items():
        sql("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?)", (*shard, begin, sequence))


def lowest_begins(described: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], int]:
    """Shard → the lowest cursor of it in a batch."""
    lowest: dict[tuple[str, str, int], int] = {}
    for one in described:
        project, logstore, _group, _query, shard, _created = one["key"]
        name = (project, logstore, shard)
        lowest[name] = min(one["begin"], lowest.get(name, one["begin"]))
    return lowest


def save_position(sql: Callable[..., sqlite3.Cursor], key: ShardKey, position: Position) -> None:
    """Write a position's row."""
    sql(
        "INSERT OR REPLACE INTO position(key, epoch, put, checkpoint) VALUES (?, ?, ?, ?)",
        (key_text(key), position.epoch, position.put, position.checkpoint),
    )


class LaneReader(Lane):
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
            loaded = body.unpack(self.disk.load(file))
            if loaded.kind != body.BATCH or loaded.sequence != number:
                raise SpoolDamaged(f"the file of batch {number} holds something else")
        except (SpoolDamaged, FileNotFoundError) as error:
            self._set_file_aside(number, file, groups, pulls, str(error))
            return None
        except OSError as error:
            raise classify(error, f"batch {number} of lane {self.directory.name}") from error
        restored = tuple(map(body.restore_pull, loaded.meta, loaded.payloads))
        return Batch(number, restored, when, loaded.size)

    def _set_file_aside(self, number: int, file: str, groups: int, pulls: str, why: str) -> None:
        """Keep it in damaged/ with what the index knows of it; count it, say it."""
        known = orjson.loads(pulls)
        note = orjson.dumps({"batch": number, "file": file, "why": why, "time": time.time(), "pulls": known})
        name = Path(file).name
        folder = self.directory / "damaged"
        try:
            (folder / f"{name}.json").write_bytes(note)
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
        letters = self._write_letters(buried)
        self._write_aside(set_aside)
        with self.transaction("an ack") as sql:
            files = [self._settle(sql, batch) for batch in batches]
            moved = sum(batch.pulls[place].groups for batch, place, _ in set_aside)
            add(sql, "settled", sum(batch.groups for batch in batches) - moved)
            add(sql, "set_aside", moved)
            add(sql, "damaged", len(set_aside))
            self._bury(sql, buried, letters)
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

    def _write_letters(self, buried: Sequence[DeadLetter]) -> tuple[int, int, str, None] | None:
        if not buried:
            return None
        described = [body.describe_letter(letter) for letter in buried]
        pieces = body.pack(body.DEAD, 0, time.time(), described, [letter.log for letter in buried])
        try:
            stored: tuple[int, int, str, None] = self.disk.store(pieces, read=False)
        except OSError as error:
            raise classify(error, "dead letters") from error
        return stored

    def _bury(
        self,
        sql: Callable[..., sqlite3.Cursor],
        buried: Sequence[DeadLetter],
        stored: tuple[int, int, str, None] | None,
    ) -> None:
        if stored is None:
            return
        size, mode, file, _ = stored
        self._cache._row_insert(f"dead-{file}", True, time.time(), (None, None, size, mode, file, None))
        for place, letter in enumerate(buried):
            sql(
                "INSERT INTO dead(sls_id, file, place, state, hold, time, tries, status, code, text, bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(sls_id) DO UPDATE SET"
                " tries = excluded.tries, state = excluded.state, hold = excluded.hold, text = excluded.text",
                (letter.sls_id, file, place, letter.state, letter.hold, letter.time, letter.tries, letter.status,
                 letter.code, letter.text, len(letter.log)),
            )  # fmt: skip

    def _write_aside(self, set_aside: Sequence[tuple[Batch, int, str]]) -> None:
        for batch, place, why in set_aside:
            pull = batch.pulls[place]
            described = body.describe_pull(pull) | {"why": why}
            pieces = body.pack(body.BATCH, batch.id, time.time(), [described], [pull.body])
            path = self.directory / "damaged" / f"{batch.id}-{place}.val"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_all(file, pieces)
                os.fsync(file)
            except OSError as error:
                raise classify(error, "a body set aside") from error
            finally:
                os.close(file)
            sync_directory(path.parent)

    def bell(self) -> int:
        """The FIFO to select on; `quiet` drains it."""
        return self._bell.fd

    def quiet(self) -> None:
        """Forget the rings so far."""
        self._bell.drain()

    def due(self, limit: int, max_bytes: int) -> list[DeadLetter]:
        """Letters to send now, oldest first."""
        return self._letters("state = 'due' ORDER BY id LIMIT ?", limit, max_bytes=max_bytes)

    def oldest_parked(self, hold: str) -> DeadLetter | None:
        """The probe of a hold."""
        found = self._letters("state = 'parked' AND hold = ? ORDER BY id LIMIT 1", hold)
        return found[0] if found else None

    def _letters(self, where: str, *values: object, max_bytes: int = 1 << 40) -> list[DeadLetter]:
        rows = self.rows(
            "SELECT file, place, state, hold, time, tries, status, code, text, bytes FROM dead WHERE " + where, *values
        )
        loaded: dict[str, body.Body | None] = {}
        found: list[DeadLetter] = []
        size = 0
        for file, place, state, hold, when, tries, status, code, text, length in rows:
            if found and size + length > max_bytes:
                break
            if file not in loaded:
                loaded[file] = self._load_letters(file)
            holder = loaded[file]
            if holder is None:
                continue
            letter = body.restore_letter(holder.meta[place], holder.payloads[place])
            found.append(
                dataclasses.replace(
                    letter, state=state, hold=hold, time=when, tries=tries, status=status, code=code, text=text
                )
            )
            size += length
        return found

    def _load_letters(self, file: str) -> body.Body | None:
        try:
            return body.unpack(self.disk.load(file))
        except (SpoolDamaged, FileNotFoundError) as error:
            self._set_letters_aside(file, str(error))
            return None

    def _set_letters_aside(self, file: str, why: str) -> None:
        source, target = self.directory / file, self.directory / "damaged" / Path(file).name
        if source.exists() and not target.exists():
            os.link(source, target)
            sync_directory(target.parent)
        ids = [row[0] for row in self.rows("SELECT sls_id FROM dead WHERE file = ?", file)]
        with self.transaction("damaged dead letters") as sql:
            sql("DELETE FROM dead WHERE file = ?", (file,))
            sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"dead-{file}",))
            add(sql, "dead_set_aside", len(ids))
            add(sql, "damaged", 1)
        self.disk.remove(file)
        log.error("damaged dead letters set aside", lane=self.directory.name, file=target.name, why=why, ids=ids[:20])

    def parked(self) -> dict[str, int]:
        """Hold → events that wait for it."""
        return dict(self.rows("SELECT hold, count(*) FROM dead WHERE state = 'parked' GROUP BY hold"))

    def release(self, hold: str) -> int:
        """The hold has ended: parked becomes due."""
        with self.transaction("a release") as sql:
            return sql("UPDATE dead SET state = 'due', hold = '' WHERE state = 'parked' AND hold = ?", (hold,)).rowcount

    def settle_dead(self, delivered: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> None:
        """What was sent again: gone, or back with its new state, reason and number of tries. One transaction."""
        with self.transaction("dead letters") as sql:
            empty = delete_letters(sql, [letter.sls_id for letter in delivered])
            add(sql, "delivered_later", len(delivered))
            for one in refused:
                sql(
                    "UPDATE dead SET state = ?, hold = ?, time = ?, tries = ?, status = ?, code = ?, text = ?"
                    " WHERE sls_id = ?",
                    (one.state, one.hold, one.time, one.tries, one.status, one.code, one.text, one.sls_id),
                )
        for file in empty:
            self.disk.remove(file)

    def may_bury(self) -> bool:
        """False at a full quota: then the lane is not read on."""
        rows = self.rows("SELECT coalesce(sum(size), 0) FROM Cache WHERE key >= 'dead-' AND key < 'dead.'")
        return int(rows[0][0]) < self._settings.dead_letter_quota

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact over restarts."""
        with self.transaction("a fact") as sql:
            sql("INSERT OR REPLACE INTO memo(name, value) VALUES (?, ?)", (name, value))

    def recall(self, name: str) -> str | None:
        """A fact that was remembered."""
        rows = self.rows("SELECT value FROM memo WHERE name = ?", name)
        return rows[0][0] if rows else None


def delete_letters(sql: Callable[..., sqlite3.Cursor], ids: Sequence[str]) -> list[str]:
    """Their rows go; the files that hold no letter any more."""
    files: set[str] = set()
    for sls_id in ids:
        files.update(row[0] for row in sql("SELECT file FROM dead WHERE sls_id = ?", (sls_id,)))
        sql("DELETE FROM dead WHERE sls_id = ?", (sls_id,))
    empty = [f for f in files if not sql("SELECT 1 FROM dead WHERE file = ? LIMIT 1", (f,)).fetchone()]
    for file in empty:
        sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"dead-{file}",))
    return empty


def remove_batch(sql: Callable[..., sqlite3.Cursor], number: int, described: Sequence[dict[str, Any]]) -> None:
    """A batch's rows go; the counters of what waits with them."""
    row = sql("SELECT bytes, groups FROM batch WHERE id = ?", (number,)).fetchone()
    sql("DELETE FROM batch WHERE id = ?", (number,))
    sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"batch-{number}",))
    for shard, begin in lowest_begins(described).items():
        sql(
            "DELETE FROM held WHERE project = ? AND logstore = ? AND shard = ? AND begin = ? AND batch = ?",
            (*shard, begin, number),
        )
    add(sql, "waiting_groups", -row[1])
    add(sql, "waiting_batches", -1)
    add(sql, "waiting_bytes", -row[0])
