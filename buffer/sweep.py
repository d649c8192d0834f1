"""The files of a lane that no row names: what a crash left, and what an index that lost its last rows has forgotten.

SQLite drops a damaged tail of its journal without a word, and after it the index is older than the disk. So a file that is newer
than the index is named now, as if its COMMIT had come through: for a put that was never answered this is right too. Files that
are older were acked, or their transaction failed and was made again: they go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from buffer import body
from buffer.disk import is_spare, is_unreadable
from buffer.errors import SpoolDamaged, SpoolLocked
from buffer.lane import Lane, add, is_named, take_lock
from buffer.lean import structlog
from buffer.rebuild import drop_empty, first_bytes, insert_later, set_aside

log = structlog.get_logger()
#: Seconds in which a file of letters finds its row, or never.
_YOUNG = 3600
#: Rows of the index looked at in one statement.
_PAGE = 10_000


def sweep(lane: Lane, take_in: Callable[[str], bool], beat: Callable[[], None], *, both: bool) -> int:
    """Look at them all; `take_in` names a batch and says whether it was worth it. How many files went.

    The caller has the writer's side; `both`: take the other side's lock too, where it is free, and judge letters as well.
    Raises SpoolDamaged where the index cannot be right.
    """
    if _is_in_step(lane):
        return 0
    lock = _reader_lock(lane.directory) if both else None
    try:
        return _sweep(lane, take_in, beat, alone=lock is not None)
    finally:
        if lock is not None:
            os.close(lock)


def _is_in_step(lane: Lane) -> bool:
    """Whether each file has its row and each row its file: as many, and the same sum of hashes, which a million names need not
    be kept for.

    Numbers alone would not do: an index that lost its last rows misses as many files as it does not know, when as many batches
    were put as were acked.
    """
    there = names = after = 0
    for entry in os.scandir(lane.directory / "v"):
        there += 1
        names += hash(f"v/{entry.name}")
    while rows := lane.rows("SELECT rowid, filename FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?", after, _PAGE):
        there -= len(rows)
        names -= sum(hash(name) for _, name in rows)
        after = rows[-1][0]
    return there == names == 0


def _sweep(lane: Lane, take_in: Callable[[str], bool], beat: Callable[[], None], *, alone: bool) -> int:
    named = {row[0] for row in lane.rows("SELECT filename FROM Cache")}
    named.update(row[0] for row in lane.rows("SELECT file FROM batch"))
    last, last_letters = last_sequence(lane), _last_letters(lane)
    removed, newer, letters = 0, list[tuple[int, str]](), list[tuple[int, str]]()
    for entry in os.scandir(lane.directory / "v"):
        beat()
        if f"v/{entry.name}" in named:
            continue
        kind, sequence = _judge(entry, alone)
        if kind == body.BATCH and sequence > last:
            newer.append((sequence, entry.name))
        elif kind == body.BATCH and not _is_there(lane, sequence):
            raise SpoolDamaged(f"the index of lane {lane.directory.name} names a wrong file for batch {sequence}")
        elif kind in {body.DEAD, body.STATES} and sequence > last_letters:
            letters.append((sequence, entry.name))
        elif kind == body.BATCH:
            lane.disk.remove(f"v/{entry.name}")
            removed += 1
        elif kind is not None:
            removed += _remove_unnamed(lane, entry.name)
    removed += sum(not _take_in(lane, name, take_in) for _, name in sorted(newer))
    take_in_letters = partial(_take_in_letters, lane)
    return removed + sum(not _take_in(lane, name, take_in_letters) for _, name in sorted(letters))


def _take_in(lane: Lane, name: str, take_in: Callable[[str], bool]) -> bool:
    """One that the disk cannot read is set aside: what it held was perhaps put, and the start must not end at it each time."""
    try:
        return take_in(name)
    except OSError as error:
        if not is_unreadable(error):
            raise
        path, why = lane.directory / "v" / name, str(error)
        with lane.transaction("a damaged body") as sql:
            set_aside(lane.directory, path, first_bytes(path), why, sql)
        return False


def _is_there(lane: Lane, sequence: int) -> bool:
    """Whether the file that the index names for a batch holds it, so that another one of that number is a leftover."""
    for (file,) in lane.rows("SELECT file FROM batch WHERE id = ?", sequence):
        try:
            return body.head_of(lane.directory / file) == (body.BATCH, sequence)
        except OSError:
            return not lane.rows("SELECT 1 FROM batch WHERE id = ?", sequence)  # acked at this moment?
    return True  # it was acked


def last_sequence(lane: Lane) -> int:
    """Of the newest batch that the index has ever named."""
    last = lane.rows("SELECT seq FROM sqlite_sequence WHERE name = 'batch'")
    return last[0][0] if last else 0


def _last_letters(lane: Lane) -> int:
    last = lane.rows("SELECT value FROM counter WHERE name = 'letters_sequence'")
    return last[0][0] if last else 0


def _reader_lock(lane: Path) -> int | None:
    """The other side's lock, or None where it is at work."""
    try:
        return take_lock(lane / "reader.lock")
    except SpoolLocked:
        return None


def _judge(entry: os.DirEntry[str], alone: bool) -> tuple[int | None, int]:
    """Its kind and sequence number, 0 where it is not a body; None where it may not be touched.

    Batches are this side's alone. Letters are written beside it at any time: while the other side is at work a young file may be
    about to be named, and one that is newer than the index is not this one's to name.
    """
    path = Path(entry.path)
    try:
        head = body.head_of(path)
        is_ours = (head is not None and head[0] == body.BATCH) or is_spare(path)
        if not alone and not is_ours and entry.stat().st_mtime > time.time() - _YOUNG:
            return None, 0
    except OSError:
        return None, 0  # gone meanwhile, or not to be judged now
    return head or (0, 0)


def _remove_unnamed(lane: Lane, name: str) -> bool:
    """Unlink it, unless it has its row by now; whether it went. In a transaction, so that an operator's command that is still
    writing it finds out before it names it.
    """
    with lane.transaction("a leftover") as sql:
        if is_named(sql, f"v/{name}"):
            return False
        lane.disk.remove(f"v/{name}")
    return True


def _take_in_letters(lane: Lane, name: str) -> bool:
    """Letters or states that the index does not know, in the order in which they were written."""
    try:
        loaded = body.unpack(lane.disk.load(f"v/{name}"))
    except SpoolDamaged:
        return not _remove_unnamed(lane, name)  # the burial was cut short: the batch waits
    except FileNotFoundError:
        return False
    with lane.transaction("dead letters") as sql:
        if is_named(sql, f"v/{name}"):  # by an operator's command, meanwhile
            return True
        found = insert_later(sql, lane.cache, name, loaded)
        add(sql, "decoded", found, "(found)")
        drop_empty(sql)
        sql("INSERT OR REPLACE INTO counter VALUES ('letters_sequence', '', ?)", (loaded.sequence,))
    log.warning(
        "dead letters that the index did not know are taken in", lane=lane.directory.name, file=name, letters=found
    )
    return True
