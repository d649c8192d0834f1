"""A lane: one consumer slot's queue, with one writer and one reader in two processes.

- `put` returns when the pulls would survive a power cut, and not before: the file and its name are fsynced, then one
  transaction holds the index row, the positions and the counters.
- `read` removes nothing. `ack` removes batches, adds what is buried and moves the books in one top-level transaction,
  and only then unlinks.
- A damaged body is set aside, counted and reported; the lane goes on.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Self

import diskcache
import orjson

from buffer.bell import Bell
from buffer.budget import allocated
from buffer.database import classify, open_cache, transact
from buffer.disk import DurableDisk, has_bodies
from buffer.errors import SpoolDamaged, SpoolLocked, SpoolUnusable
from buffer.lean import structlog
from buffer.proof import Proof, is_of_the_disk
from buffer.settings import SpoolSettings

log = structlog.get_logger()
#: Beside an index that is being made again.
REBUILDING = "rebuilding"
#: In a lane that another spool has taken over.
ADOPTED = "adopted"


def nothing() -> None:
    """For those who need no heartbeat."""


class Lane:
    """What writer and reader share: the directory, the index, one lock each."""

    lock_name = ""

    def __init__(self, directory: Path, settings: SpoolSettings, cache: diskcache.Cache, lock: int) -> None:
        self.directory = directory
        self._settings = settings
        self._cache = cache
        self._lock = lock
        self._bell = Bell(directory / "bell")
        self._proof = Proof(directory)
        self._doubtful = False
        self._closed = False

    @classmethod
    def open(cls, directory: Path, settings: SpoolSettings, *, beat: Callable[[], None] = nothing) -> Self:
        """Take the lock without waiting, then open. Raises SpoolLocked, SpoolDamaged, SpoolFull or SpoolUnusable."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = take_lock(directory / cls.lock_name)
            try:
                beat()
                refuse_half_made(directory)
                refuse_adopted(directory)
                refuse_lost(directory)
                lane = cls(directory, settings, open_cache(directory), lock)
            except BaseException:
                os.close(lock)
                raise
            try:
                lane._opened(beat)
            except BaseException:
                lane.close()
                raise
        except OSError as error:
            raise classify(error, f"lane {directory.name}") from error
        return lane

    @classmethod
    def attach(cls, directory: Path, settings: SpoolSettings) -> Self:
        """Beside the one who has the lock: only for single transactions of an operator's."""
        refuse_half_made(directory)
        refuse_adopted(directory)
        refuse_lost(directory)
        try:
            return cls(directory, settings, open_cache(directory), os.open(directory, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise classify(error, f"lane {directory.name}") from error

    def _opened(self, beat: Callable[[], None]) -> None:
        """What a side does once it is open."""

    def ring(self) -> None:
        """Wake the reader."""
        self._bell.ring()

    @property
    def cache(self) -> diskcache.Cache:
        """Of diskcache's, for the row of a file."""
        return self._cache

    @property
    def disk(self) -> DurableDisk:
        disk: DurableDisk = self._cache.disk
        return disk

    @contextmanager
    def transaction(self, what: str) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """One top-level transaction; SQLite's errors leave as ours. After one that the disk failed, a proof comes first."""
        try:
            if self._doubtful:
                self._prove()
            with transact(self._cache) as sql:
                yield sql
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self._doubtful = self._doubtful or is_of_the_disk(error)
            raise classify(error, what) from error

    def _prove(self) -> None:
        self._proof.run(self._cache)
        self._doubtful = False

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._cache._sql(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise classify(error, f"the index of lane {self.directory.name}") from error
        return rows

    def close(self) -> None:
        """Give back files and lock; twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._proof.close()
        self._cache.close()
        self.disk.close()
        self._bell.close()
        os.close(self._lock)


def refuse_adopted(directory: Path) -> None:
    """Raises SpoolUnusable for a lane whose batches another host has: the supervisor empties it first."""
    if (directory / ADOPTED).exists():
        raise SpoolUnusable(f"lane {directory.name} was adopted by another spool", "start the supervisor")


def refuse_half_made(directory: Path) -> None:
    """Raises SpoolDamaged where a rebuild was cut short: the supervisor begins it again."""
    if (directory / REBUILDING).exists():
        raise SpoolDamaged(f"the index of lane {directory.name} is half rebuilt", "start the supervisor")


def refuse_lost(directory: Path) -> None:
    """Raises SpoolDamaged where bodies are and no index: an empty one in its place would pass for it, and nobody would rebuild."""
    if not (directory / "cache.db").exists() and has_bodies(directory):
        raise SpoolDamaged("the index is missing", "start the supervisor")


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
        raise SpoolLocked(
            f"{path.parent} is in use by another process", "stop it first: systemctl stop sls-siem"
        ) from error
    return file


def add(sql: Callable[..., sqlite3.Cursor], name: str, value: int, label: str = "") -> None:
    """Move a counter of the books."""
    add_all(sql, {(name, label): value})


def add_all(sql: Callable[..., sqlite3.Cursor], counts: Mapping[tuple[str, str], int]) -> None:
    """Move counters, each by name and label, in one statement: a put moves seven."""
    moved = [(*names, value) for names, value in counts.items() if value]
    if moved:
        sql(
            f"INSERT INTO counter(name, label, value) VALUES {', '.join(['(?, ?, ?)'] * len(moved))}"
            " ON CONFLICT(name, label) DO UPDATE SET value = value + excluded.value",
            tuple(chain.from_iterable(moved)),
        )


def name_file(cache: diskcache.Cache, key: str, stored: tuple[int, int, str, None]) -> None:
    """diskcache's row of a body, in the open transaction: what no row names is swept."""
    size, mode, file, _ = stored
    cache._row_insert(key, True, time.time(), (None, None, size, mode, file, None))


def is_named(sql: Callable[..., sqlite3.Cursor], file: str) -> bool:
    """Whether a file of letters or of states has its row."""
    keys = (f"dead-{file}", f"states-{file}")
    return sql("SELECT 1 FROM Cache WHERE key IN (?, ?) AND raw = 1", keys).fetchone() is not None


def forget_file(sql: Callable[..., sqlite3.Cursor], key: str) -> int:
    """That row goes; the bytes of disk that its file takes."""
    rows = sql("SELECT size FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchall()
    sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))
    return allocated(int(rows[0][0])) if rows else 0


def insert_batch(
    sql: Callable[..., sqlite3.Cursor], cache: diskcache.Cache, sequence: int, now: float, file: str, size: int,
    mode: int, described: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """The rows of a batch: diskcache's, ours, and the lowest cursor it holds of each shard. `waiting_counts` go with it."""
    cache._row_insert(f"batch-{sequence}", True, now, (None, None, size, mode, file, None))
    sql(
        "INSERT INTO batch(id, file, bytes, groups, time, pulls) VALUES (?, ?, ?, ?, ?, ?)",
        (sequence, file, size, sum(d["groups"] for d in described), now, orjson.dumps(described).decode()),
    )
    for shard, begin in lowest_begins(described).items():
        sql("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?)", (*shard, begin, sequence))


def waiting_counts(batches: int, groups: int, size: int) -> dict[tuple[str, str], int]:
    """What waits is that much more, for `add_all`; `size` in allocated bytes."""
    return {("waiting_batches", ""): batches, ("waiting_groups", ""): groups, ("waiting_bytes", ""): size}


def lowest_begins(described: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], int]:
    """Shard → the lowest cursor of it in a batch."""
    lowest: dict[tuple[str, str, int], int] = {}
    for one in described:
        project, logstore, _group, _query, shard, _created = one["key"]
        name = (project, logstore, shard)
        lowest[name] = min(one["begin"], lowest.get(name, one["begin"]))
    return lowest


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
    add_all(sql, waiting_counts(-1, -row[1], -allocated(row[0])))
