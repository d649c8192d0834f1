"""A lost or damaged index, made again from the bodies. Only the supervisor does this, with the consumers stopped.

Every key of the spool begins a new epoch without P and C: what SLS has as checkpoint counts. Batches that were delivered
and not yet unlinked may be delivered again, with the same ids. Dead letters come back in the states that their files say.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import diskcache

from buffer import body, outside, states
from buffer.aside import note_file
from buffer.budget import allocated
from buffer.checks import write_durably
from buffer.database import classify, open_cache, sync_directory, transact
from buffer.disk import SPARE, is_unreadable, read
from buffer.errors import SpoolDamaged
from buffer.lane import (
    REBUILDING,
    add,
    add_all,
    insert_batch,
    name_file,
    refuse_half_made,
    take_lock,
    waiting_counts,
)
from buffer.lean import structlog
from buffer.letters import insert_letters, letters_there
from buffer.positions import key_of, save_position
from buffer.values import Position, ShardKey

log = structlog.get_logger()
#: Files a transaction: each transaction costs a flush.
_STEP = 1000
#: What the mark of a rebuild says once the damaged index is out of the way.
_MOVED = b"moved"


def rebuild(lane: Path, why: str, beat: Callable[[], None], epochs: Mapping[ShardKey, int] | None = None) -> None:
    """Move the index to damaged/, read every body, insert what it says. `epochs`: the highest of each key elsewhere.

    Raises SpoolLocked, SpoolFull or SpoolUnusable; cut short, it is begun again by the next start.
    """
    try:
        _rebuild(lane, why, beat, epochs or {})
    except (sqlite3.Error, OSError) as error:
        raise classify(error, f"rebuilding the index of lane {lane.name}") from error


def _rebuild(lane: Path, why: str, beat: Callable[[], None], epochs: Mapping[ShardKey, int]) -> None:
    locks = [take_lock(lane / name) for name in ("writer.lock", "reader.lock")]
    try:
        _move_index(lane)
        cache = open_cache(lane)
        try:
            batches, letters, known = _insert_all(lane, cache, beat)
            with transact(cache) as sql:
                for key in sorted(known.keys() | epochs.keys()):
                    epoch = max(known.get(key, 0), epochs.get(key, 0))
                    save_position(sql, key, Position(epoch + 1, None, None))
                _begin_books(sql)
                add(sql, "rebuilt", 1)
        finally:
            cache.close()
            cache.disk.close()
        (lane / REBUILDING).unlink()
        sync_directory(lane)
    finally:
        for lock in locks:
            os.close(lock)
    log.error("index rebuilt from the bodies", lane=lane.name, why=why, batches=batches, dead_letters=letters)


def _begin_books(sql: states.Sql) -> None:
    """What was buried begins with the letters that are there: how many had gone, and where to, only the lost index knew."""
    there = letters_there(sql)
    sql("DELETE FROM counter WHERE name IN ('buried', 'decoded', 'delivered_later', 'dead_purged')")
    add(sql, "buried", there)
    add(sql, "decoded", there, "(rebuilt)")


def known_epochs(spool: Path) -> dict[ShardKey, int]:
    """The highest epoch of each key in the lanes whose index can be read."""
    found: dict[ShardKey, int] = {}
    for lane in outside.lane_directories(spool):
        try:
            refuse_half_made(lane)
            with outside.connection(lane) as db:
                made = db and db.execute("SELECT 1 FROM sqlite_master WHERE name = 'position'").fetchone()
                rows = db.execute("SELECT key, epoch FROM position").fetchall() if db and made else []
            keys = [(key_of(text), epoch) for text, epoch in rows]
        except SpoolDamaged:
            continue
        for key, epoch in keys:
            found[key] = max(epoch, found.get(key, 0))
    return found


def _insert_all(lane: Path, cache: diskcache.Cache, beat: Callable[[], None]) -> tuple[int, int, dict[ShardKey, int]]:
    """Batches in any order; then letters and their states in the order in which they were written."""
    epochs: dict[ShardKey, int] = {}
    later: list[tuple[int, str]] = []
    sequences: set[int] = set()
    batches = letters = 0
    names = [entry.name for entry in os.scandir(lane / "v")]
    for start in range(0, len(names), _STEP):
        waiting: list[tuple[int, int]] = []
        with transact(cache) as sql:
            for name, found in _sound(lane, names[start : start + _STEP], sql, beat):
                if found.kind == body.BATCH and found.sequence in sequences:
                    why = f"another file says too that it is batch {found.sequence}"
                    path = lane / "v" / name
                    set_aside(lane, path, path.read_bytes(), why, sql)
                elif found.kind == body.BATCH:
                    sequences.add(found.sequence)
                    insert_batch(
                        sql, cache, found.sequence, found.time, f"v/{name}", found.size, 2, found.meta
                    )  # fmt: skip
                    waiting.append((sum(d["groups"] for d in found.meta), allocated(found.size)))
                    for one in found.meta:
                        key = ShardKey(*one["key"])
                        epochs[key] = max(epochs.get(key, 0), one["epoch"])
                else:
                    later.append((found.sequence, name))
            groups = sum(groups for groups, _ in waiting)
            counts = waiting_counts(len(waiting), groups, sum(size for _, size in waiting))
            add_all(sql, {**counts, ("put", ""): groups})
        batches += len(waiting)
    for start in range(0, len(later), _STEP):
        later.sort()
        with transact(cache) as sql:
            for name, found in _sound(lane, [name for _, name in later[start : start + _STEP]], sql, beat):
                letters += insert_later(sql, cache, name, found)
    if later:
        with transact(cache) as sql:
            drop_empty(sql)
            sql("INSERT OR REPLACE INTO counter VALUES ('letters_sequence', '', ?)", (later[-1][0],))
    return batches, letters, epochs


def insert_later(sql: states.Sql, cache: diskcache.Cache, name: str, found: body.Body) -> int:
    """A file of letters, or of what became of them; in the order of their sequence numbers. How many letters."""
    file = f"v/{name}"
    stored = (found.size, 2, file, None)
    if found.kind == body.STATES:
        before = letters_there(sql)
        states.apply(sql, found.meta)
        add(sql, "delivered_later", before - letters_there(sql))
        name_file(cache, f"states-{file}", stored)
        add(sql, "states_bytes", allocated(found.size))
        return 0
    ids = [letter["sls_id"] for letter in found.meta]
    again, _ = states.apply(sql, [{"gone": ids}])  # buried once more: the newer file holds it
    name_file(cache, f"dead-{file}", stored)
    add(sql, "letters_file_bytes", allocated(found.size))
    add(sql, "dead_purged", again + len(ids) - insert_letters(sql, file, found.meta))
    add(sql, "buried", len(ids))
    return len(ids)


def drop_empty(sql: states.Sql) -> None:
    """Files all of whose letters are gone: a crash came before their unlink. The sweep removes the files themselves."""
    rows = sql(
        "SELECT filename, size FROM Cache WHERE key >= 'dead-' AND key < 'dead.'"
        " AND NOT EXISTS (SELECT 1 FROM dead WHERE file = filename)"
    ).fetchall()
    for file, size in rows:
        sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"dead-{file}",))
        add(sql, "letters_file_bytes", -allocated(size))


def _sound(lane: Path, names: list[str], sql: states.Sql, beat: Callable[[], None]) -> Iterator[tuple[str, body.Body]]:
    """The bodies that can be believed; the others are set aside, counted and reported. A thousand may be gigabytes."""
    for name in names:
        beat()
        path = lane / "v" / name
        try:
            data = read(path)
        except OSError as error:
            if not is_unreadable(error):
                raise classify(error, f"{path} while rebuilding") from error
            set_aside(lane, path, first_bytes(path), str(error), sql)
            continue
        if data == SPARE:
            path.unlink()
            continue
        try:
            yield name, body.unpack(data)
        except SpoolDamaged as error:
            set_aside(lane, path, data, str(error), sql)


def first_bytes(path: Path) -> bytes:
    """As far as the disk gives them: the header says what is lost."""
    found = bytearray()
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        while piece := file.read(4096):
            found += piece
    return bytes(found)


def set_aside(lane: Path, path: Path, data: bytes, why: str, sql: states.Sql) -> None:
    """Keep in damaged/ a file of which the index knows nothing; count it, say it. `data`: what there is of it."""
    described = note_file(lane, path.name, data, why)
    path.rename(lane / "damaged" / path.name)
    sync_directory(lane / "damaged")
    add(sql, "damaged", 1)
    log.error(
        "damaged body set aside", lane=lane.name, file=path.name, why=why,
        pulls=[{name: one.get(name) for name in ("source", "key", "begin", "next", "groups")} for one in described][:20],
        hint="fetch it again with sls-siem replay",
    )  # fmt: skip


def _move_index(lane: Path) -> None:
    """The damaged one, into damaged/, once. A half-made one may not be believed, because what it does not name yet would be swept;
    so there is a mark before it, and one that an earlier try has left is of no use: tried again and again it would fill the disk.
    """
    mark, stamp = lane / REBUILDING, time.time_ns()
    (lane / "damaged").mkdir(mode=0o700, exist_ok=True)
    (lane / "v").mkdir(mode=0o700, exist_ok=True)
    is_half_made = mark.exists() and mark.read_bytes() == _MOVED
    if not mark.exists():
        write_durably(mark, "")
    for name in ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal"):
        if is_half_made:
            (lane / name).unlink(missing_ok=True)
        elif (lane / name).exists():
            (lane / name).rename(lane / "damaged" / f"{name}.{stamp}")
    sync_directory(lane)
    sync_directory(lane / "damaged")
    if not is_half_made:
        write_durably(mark, _MOVED.decode())
