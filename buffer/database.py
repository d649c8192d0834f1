"""Opening a lane's index: a diskcache.Cache whose settings are asserted, not hoped for.

SQLite before 3.51.3 (but 3.50.7 and 3.44.6 and later of their series) can corrupt a WAL database that two processes use
("WAL-reset"), so there the rollback journal serves: TRUNCATE, with synchronous=EXTRA.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache

from buffer.disk import FOLDER, DurableDisk
from buffer.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolTooNew, SpoolUnusable

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS batch(
    id INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL, bytes INTEGER NOT NULL, groups INTEGER NOT NULL,
    time REAL NOT NULL, pulls TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS held(
    project TEXT, logstore TEXT, shard INTEGER, begin INTEGER, batch INTEGER,
    PRIMARY KEY(project, logstore, shard, begin, batch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position(
    key TEXT PRIMARY KEY, epoch INTEGER NOT NULL, put INTEGER, checkpoint INTEGER, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter(
    name TEXT, label TEXT, value INTEGER NOT NULL, PRIMARY KEY(name, label)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead(
    id INTEGER PRIMARY KEY AUTOINCREMENT, sls_id TEXT NOT NULL UNIQUE, file TEXT NOT NULL, place INTEGER NOT NULL,
    state TEXT NOT NULL, hold TEXT NOT NULL, time REAL NOT NULL, tries INTEGER NOT NULL, status INTEGER NOT NULL,
    code INTEGER NOT NULL, text TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS dead_due ON dead(id) WHERE state = 'due';
CREATE INDEX IF NOT EXISTS dead_parked ON dead(hold, id) WHERE state = 'parked';
CREATE INDEX IF NOT EXISTS dead_file ON dead(file);
CREATE TRIGGER IF NOT EXISTS dead_added AFTER INSERT ON dead BEGIN
    INSERT INTO counter VALUES ('letters', NEW.state, 1), ('letters_held', NEW.hold, NEW.state = 'parked'),
        ('letters_why', NEW.status || '/' || NEW.code, NEW.state = 'dead'), ('letters_bytes', '', NEW.bytes)
        ON CONFLICT(name, label) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER IF NOT EXISTS dead_gone AFTER DELETE ON dead BEGIN
    INSERT INTO counter VALUES ('letters', OLD.state, -1), ('letters_held', OLD.hold, -(OLD.state = 'parked')),
        ('letters_why', OLD.status || '/' || OLD.code, -(OLD.state = 'dead')), ('letters_bytes', '', -OLD.bytes)
        ON CONFLICT(name, label) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER IF NOT EXISTS dead_changed AFTER UPDATE OF state, hold, status, code ON dead BEGIN
    INSERT INTO counter VALUES ('letters', OLD.state, -1), ('letters_held', OLD.hold, -(OLD.state = 'parked')),
        ('letters_why', OLD.status || '/' || OLD.code, -(OLD.state = 'dead')),
        ('letters', NEW.state, 1), ('letters_held', NEW.hold, NEW.state = 'parked'),
        ('letters_why', NEW.status || '/' || NEW.code, NEW.state = 'dead')
        ON CONFLICT(name, label) DO UPDATE SET value = value + excluded.value;
END;
CREATE TABLE IF NOT EXISTS memo(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
#: Seconds of trying to open an index that others recover from a crash at the same moment.
_PATIENCE = 30.0
#: diskcache's own settings: nothing is evicted, nothing inline, nothing memory-mapped.
_OPTIONS: dict[str, Any] = {
    "eviction_policy": "none", "cull_limit": 0, "size_limit": 1 << 62, "statistics": 0, "disk_min_file_size": 0,
    "sqlite_auto_vacuum": 0, "sqlite_mmap_size": 0, "sqlite_secure_delete": 0, "sqlite_cache_size": 512,
    "sqlite_wal_autocheckpoint": 1000, "sqlite_journal_size_limit": 16 << 20,
}  # fmt: skip


def journal_mode(version: tuple[int, ...] = sqlite3.sqlite_version_info, forced: str | None = None) -> str:
    """`wal` where SQLite is free of the WAL-reset bug, else `truncate`."""
    chosen = forced or os.environ.get("SLS_SIEM_JOURNAL_MODE", "")
    if chosen in {"wal", "truncate"}:
        return chosen
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return "wal" if fixed else "truncate"


class _Cache(diskcache.Cache):  # type: ignore[misc]
    """diskcache makes its tables in a dozen transactions and writes its thirty settings anew at every opening, each in one
    of its own. Here the tables are made in one, and only settings that differ are written: so a lane opens on a full disk,
    without waiting for its other side, and a new one costs a few flushes instead of a hundred.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """A connection that lives on would hold its lock against the next try of this very process, until the collector comes."""
        connection = getattr(getattr(self, "_local", None), "con", None)
        if connection is not None:
            connection.close()
        disk = getattr(self, "_disk", None)
        if disk is not None:
            disk.close()

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        run: Callable[..., Any] = super()._sql_retry

        def unless_so(statement: str, values: tuple[Any, ...] = ()) -> Any:
            if statement.startswith("CREATE TABLE IF NOT EXISTS Settings") and not self._is_made():
                run("BEGIN IMMEDIATE")  # ends in `close`, with which diskcache's constructor ends
            if statement == "INSERT OR REPLACE INTO Settings VALUES (?, ?)":
                wanted = values
            elif statement == "UPDATE Settings SET value = ? WHERE key = ?":
                wanted = (values[1], values[0])
            else:
                return run(statement, values)
            same = run("SELECT 1 FROM Settings WHERE key = ? AND value IS ?", wanted)
            return same if same.fetchone() else run(statement, values)

        return unless_so

    def _is_made(self) -> bool:
        return self._sql("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone() is not None

    def close(self) -> None:
        connection = getattr(self._local, "con", None)
        if connection is not None and connection.in_transaction:
            connection.execute("COMMIT")
        super().close()


def open_cache(directory: Path) -> diskcache.Cache:
    """The lane's index, made when it is not there. Raises SpoolDamaged, SpoolFull, SpoolTooNew or SpoolUnusable.

    After a crash several processes find the same hot journal at once, and one of them is told "locked" without any waiting:
    so the whole is tried again for `_PATIENCE` seconds.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return _open(directory, journal_mode())
        except (sqlite3.Error, OSError, diskcache.Timeout) as error:
            if not _is_busy(error) or time.monotonic() > end:
                raise classify(error, f"the index of lane {directory.name}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise SpoolDamaged(f"diskcache cannot read its settings in lane {directory.name}: {error}") from error
        time.sleep(0.05)


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _open(directory: Path, mode: str) -> diskcache.Cache:
    _make_folders(directory)
    _create(directory / "cache.db", mode)
    options = {**_OPTIONS, "sqlite_journal_mode": mode, "sqlite_synchronous": 2 if mode == "wal" else 3}
    cache = _Cache(str(directory), timeout=60, disk=DurableDisk, **options)
    try:
        _assert_settings(cache, options)
        _assert_pragmas(cache, mode)
    except BaseException:
        cache.close()
        cache.disk.close()
        raise
    return cache


@contextlib.contextmanager
def transact(cache: diskcache.Cache) -> Iterator[Callable[..., sqlite3.Cursor]]:
    """One top-level transaction. Unlike diskcache's own it keeps SQLite's error code at BEGIN, does not hide an error
    behind that of a ROLLBACK which SQLite has done already, and leaves none open after a COMMIT that failed.
    """
    sql: Callable[..., sqlite3.Cursor] = cache._sql
    sql("BEGIN IMMEDIATE")
    try:
        yield sql
        sql("COMMIT")
    except BaseException:
        if cache._con.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                sql("ROLLBACK")
        raise


def _make_folders(directory: Path) -> None:
    (directory / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "damaged").mkdir(mode=0o700, exist_ok=True)
    for folder in (directory, directory.parent):
        sync_directory(folder)


def _create(path: Path, mode: str) -> None:
    """Page size and auto_vacuum hold only when they are set before the first table."""
    fresh = not path.exists()
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        if fresh:
            connection.execute("PRAGMA auto_vacuum = 0")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"PRAGMA synchronous = {2 if mode == 'wal' else 3}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SpoolTooNew(
                f"{path} has schema {version}, this program knows {SCHEMA_VERSION}", "install the newer version"
            )
        if version < SCHEMA_VERSION:
            older = "ALTER TABLE position ADD COLUMN crc INTEGER;" if version == 1 else ""
            connection.executescript(f"BEGIN; {SCHEMA} {older} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    finally:
        connection.close()
    if fresh:
        sync_directory(path.parent)


def _assert_settings(cache: diskcache.Cache, wanted: dict[str, Any]) -> None:
    """diskcache has just written them; what it reads back is what it takes at each connection."""
    said = dict(cache._sql("SELECT key, value FROM Settings NOT INDEXED").fetchall())
    for name, value in wanted.items():
        if said.get(name) != value:
            raise SpoolDamaged(f"diskcache's settings in the index say {name} = {said.get(name)!r}, not {value!r}")


def _assert_pragmas(cache: diskcache.Cache, mode: str) -> None:
    wanted = {"journal_mode": mode, "synchronous": 2 if mode == "wal" else 3, "auto_vacuum": 0, "mmap_size": 0}
    for name, value in wanted.items():
        found = cache._sql(f"PRAGMA {name}").fetchone()
        if not found or str(found[0]).lower() != str(value):
            raise SpoolUnusable(f"SQLite would not take {name} = {value}, it says {found}", "use a local file system")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def classify(error: BaseException, what: str) -> SpoolError:
    """What the caller can do about it."""
    if isinstance(error, SpoolError):
        return error
    if isinstance(error, UnicodeDecodeError) or "Could not decode" in str(error):
        return SpoolDamaged(f"{what} holds text that is none", "it is rebuilt from the bodies at the next start")
    extended = getattr(error, "sqlite_errorcode", 0)
    # A bad sector: where it is the whole disk that fails, making the index again fails too, because that writes.
    if extended in {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}:  # the latter: EIO, ENXIO
        return SpoolDamaged(f"{what} cannot be read: {error}", "it is rebuilt from the bodies at the next start")
    code = extended & 0xFF
    number = getattr(error, "errno", 0)
    if code == sqlite3.SQLITE_FULL or number in {errno.ENOSPC, errno.EDQUOT}:
        return SpoolFull(f"no room for {what}", "free disk space; it is tried again by itself")
    # SQLITE_ERROR is "no such column" and the like: our statements are right, so the schema on disk is not.
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
        return SpoolDamaged(f"{what} is damaged: {error}", "it is rebuilt from the bodies at the next start")
    return SpoolUnusable(f"{what}: {error}", "look at the disk: dmesg, quotas, permissions, mount options")
