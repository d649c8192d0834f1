"""What is asserted before a spool or a lane is used: format, identity, file system, a sound index."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import orjson

from buffer import outside
from buffer.database import sync_directory
from buffer.disk import has_bodies, write_all
from buffer.errors import SpoolDamaged, SpoolTooNew, SpoolUnusable
from buffer.lane import refuse_half_made, refuse_lost
from buffer.positions import columns, of_row
from buffer.settings import SpoolSettings

FORMAT = "1"
#: File systems that cannot promise durability, by the name the kernel gives them.
UNFIT = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "tmpfs", "ramfs", "9p", "fuse.sshfs"}


def check_format(directory: Path) -> None:
    """Raises SpoolTooNew by name; a spool without one gets ours."""
    path = directory / "format"
    if not path.exists():
        write_durably(path, FORMAT)
    found = path.read_text(errors="replace").strip()
    if not found.isdecimal() or int(found) > int(FORMAT):
        raise SpoolTooNew(
            f"{directory} has format {found}, this program knows {FORMAT}", "install the version that wrote it"
        )


def identity(directory: Path) -> str:
    """Eight hex digits, made once."""
    path = directory / "id"
    if not path.exists():
        write_durably(path, os.urandom(4).hex())
    return path.read_text().strip()


def write_durably(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, [text.encode()])
        os.fsync(file)
    finally:
        os.close(file)
    temporary.replace(path)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)


def check_file_system(settings: SpoolSettings) -> None:
    """Raises SpoolUnusable on one that cannot promise durability, unless forced."""
    kind = file_system(settings.directory)
    if kind in UNFIT and not settings.force_file_system:
        raise SpoolUnusable(
            f"{settings.directory} is on {kind}, which cannot keep a promise of durability",
            "use a local disk with ext4, xfs or btrfs, or set spool.force_file_system = true",
        )


def file_system(path: Path) -> str:
    """The kernel's name of the file system that holds `path`."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        real = str(path.resolve())
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _device, where, found = line.split(" ")[:3]
            inside = real == where or real.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, found
    return kind


def check_index(lane: Path) -> None:
    """Raises SpoolDamaged where an index is missing, half made, not sound or not to be read. It is looked at twice: a fault of the
    disk that passes is no damage.
    """
    try:
        _check_index(lane)
    except SpoolDamaged:
        _check_index(lane)


def _check_index(lane: Path) -> None:
    refuse_half_made(lane)
    refuse_lost(lane)
    if not (lane / "cache.db").exists():
        return
    with outside.connection(lane) as db:
        found = db.execute("PRAGMA quick_check(1)").fetchone() if db else ("ok",)
        if found[0] != "ok":
            raise SpoolDamaged(f"quick_check: {found[0]}")
        made = (
            db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('memo', 'Cache')").fetchone()[0] if db else 0
        )
        if made < 2 and has_bodies(lane):
            raise SpoolDamaged("the index lacks its tables")
        if db and made == 2:  # else a crash came while it was being made, and nothing was ever stored
            try:
                _check_rows(db)
            except (ValueError, TypeError) as error:
                raise SpoolDamaged(f"the index holds a row that cannot be read: {error}") from error


def _check_rows(db: sqlite3.Connection) -> None:
    """What a flipped bit can do to rows that quick_check finds well formed."""
    db.execute("BEGIN")  # one view of both: a sender may be at work
    for row in db.execute(f"SELECT {columns(db)} FROM position").fetchall():
        of_row(*row)
    counted = dict(db.execute("SELECT name, value FROM counter WHERE name IN ('waiting_batches', 'waiting_groups')"))
    there = db.execute("SELECT count(*), coalesce(sum(groups), 0) FROM batch").fetchone()
    letters = db.execute("SELECT label, value FROM counter WHERE name = 'letters' AND value != 0").fetchall()
    letters_there = db.execute("SELECT state, count(*) FROM dead GROUP BY state").fetchall()
    held = db.execute("SELECT label, value FROM counter WHERE name = 'letters_held' AND value != 0").fetchall()
    held_there = db.execute(
        "SELECT hold, count(*) FROM dead NOT INDEXED WHERE state = 'parked' GROUP BY hold"
    ).fetchall()
    for table in ("batch", "dead"):
        if db.execute(
            f"SELECT 1 FROM {table} NOT INDEXED WHERE file NOT IN (SELECT filename FROM Cache) LIMIT 1"
        ).fetchone():
            raise SpoolDamaged(f"a row of {table} names a file that the index does not know")
    for (pulls,) in db.execute("SELECT pulls FROM batch"):
        orjson.loads(pulls)
    db.execute("SELECT sls_id, file, place, state, hold, time, tries, status, code, text, bytes FROM dead LIMIT 0")
    db.execute("SELECT project, logstore, shard, begin, batch FROM held LIMIT 0")
    db.execute("COMMIT")
    if there != (counted.get("waiting_batches", 0), counted.get("waiting_groups", 0)):
        raise SpoolDamaged(f"the index counts {counted} and holds {there}")
    # One whose state is none of ours, or whose hold is nobody's, would wait for ever.
    for counts, found in ((letters, letters_there), (held, held_there)):
        if sorted(counts) != sorted(found):
            raise SpoolDamaged(f"the index counts dead letters {counts} and holds {found}")
