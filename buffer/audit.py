"""`spool verify`: every body against its CRC and its row, every row against its file, the books, and the positions' CRCs.

With a supervisor at work (`live`) too: whatever looks wrong is looked at again, because a batch may be acked or put at that
moment, and no statement takes longer than `_PATIENCE`: in TRUNCATE mode an open reader stops the writer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from buffer import body, outside
from buffer.disk import is_spare
from buffer.errors import SpoolDamaged, SpoolError
from buffer.lane import lowest_begins
from buffer.positions import columns, key_of, of_row

#: Seconds of one statement beside a running supervisor.
_PATIENCE = 1.0
#: Seconds after which a file without a row is no put that is being made.
_YOUNG = 60.0
#: SQLite looks this often, in steps of its machine, whether its time is up.
_STEPS = 10_000

Fault = dict[str, Any]
#: The books: what was put in LogGroups, what was decoded and buried in events, each the sum of the others.
BOOKS = (
    ("put", ("settled", "waiting_groups", "set_aside", "purged")),
    ("buried", ("letters", "delivered_later", "dead_purged", "dead_set_aside")),
    ("decoded", ("delivered", "filtered", "buried")),
)
#: What is counted, and what is there.
_COUNTED = {
    "waiting_batches": "SELECT '', count(*) FROM batch",
    "waiting_groups": "SELECT '', coalesce(sum(groups), 0) FROM batch",
    "waiting_bytes": "SELECT '', coalesce(sum((bytes + 4095) / 4096 * 4096), 0) FROM batch",
    "letters": "SELECT state, count(*) FROM dead GROUP BY state",
    "letters_held": "SELECT hold, count(*) FROM dead WHERE state = 'parked' GROUP BY hold",
    "letters_bytes": "SELECT '', coalesce(sum(bytes), 0) FROM dead",
    "letters_file_bytes": "SELECT '', coalesce(sum((size + 4095) / 4096 * 4096), 0) FROM Cache"
    " WHERE key >= 'dead-' AND key < 'dead.'",
}


def verify(spool: Path, *, live: bool = False, unchecked: Callable[[str], None] = outside.ignore) -> Iterator[Fault]:
    """One dict a body, `fault` None where it is sound, and one for each fault of an index: its `file` is that index.

    `unchecked` is told what could not be looked at beside a running supervisor.
    """
    for lane in outside.lane_directories(spool):
        try:
            yield from _lane(lane, live, unchecked)
        except SpoolDamaged as error:  # the index cannot be read on
            yield _fault(lane, lane / "cache.db", str(error))


def _lane(lane: Path, live: bool, unchecked: Callable[[str], None]) -> Iterator[Fault]:
    there = [entry.name for entry in os.scandir(lane / "v")] if (lane / "v").is_dir() else []
    if not (lane / "cache.db").exists():
        if there:
            yield _fault(lane, lane / "cache.db", "the index is missing")
        return
    if (lane / "rebuilding").exists():
        yield _fault(lane, lane / "cache.db", "the index is half rebuilt")
        return
    for text in _index(lane, live, unchecked):
        yield _fault(lane, lane / "cache.db", text)
    named: set[str] = set()
    yield from _batches(lane, named)
    yield from _letters(lane, named)
    yield from _states(lane, named)
    yield from _nameless(lane, there, named, live)


def _fault(lane: Path, file: Path | str, fault: str | None, pulls: list[Any] | None = None) -> Fault:
    return {"lane": lane.name, "file": str(file), "fault": fault, "pulls": pulls or []}


def _index(lane: Path, live: bool, unchecked: Callable[[str], None]) -> Iterator[str]:
    """Faults of an index as a whole."""
    with outside.connection(lane) as db:
        if db is None or not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'memo'").fetchone():
            return
        if live:
            _bound(db)
        for what, check in (("pages", _pages), ("positions", _positions), ("counters", _counters)):
            try:
                yield from check(db)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
                unchecked(f"the {what} of lane {lane.name}: too much beside a running supervisor")


def _bound(db: sqlite3.Connection) -> None:
    """No statement goes on for longer than `_PATIENCE` seconds from here; each check begins anew."""
    end = [time.monotonic() + _PATIENCE]
    db.set_trace_callback(lambda _: end.__setitem__(0, time.monotonic() + _PATIENCE))
    db.set_progress_handler(lambda: time.monotonic() > end[0], _STEPS)


def _pages(db: sqlite3.Connection) -> list[str]:
    return [f"quick_check: {text}" for (text,) in db.execute("PRAGMA quick_check(20)").fetchall() if text != "ok"]


def _positions(db: sqlite3.Connection) -> Iterator[str]:
    for row in db.execute(f"SELECT {columns(db)} FROM position").fetchall():
        try:
            key_of(row[0])
            of_row(*row)
        except SpoolDamaged as error:
            yield str(error)


def _counters(db: sqlite3.Connection) -> Iterator[str]:
    """One view of the counters and of what they count."""
    db.execute("BEGIN")
    try:
        counted: dict[tuple[str, str], int] = {
            (name, label): value
            for name, label, value in db.execute("SELECT name, label, value FROM counter").fetchall()
        }
        there = {(name, label): n for name, text in _COUNTED.items() for label, n in db.execute(text).fetchall()}
        rows = db.execute("SELECT count(*) FROM Cache WHERE key >= 'batch-' AND key < 'batch.'").fetchone()[0]
    finally:
        with contextlib.suppress(sqlite3.Error):
            db.execute("COMMIT")
    if rows != there["waiting_batches", ""]:
        yield f"diskcache has rows of {rows} batches, and {there['waiting_batches', '']} are there"
    names = there.keys() | {key for key in counted if key[0] in _COUNTED}
    for name, label in sorted(names):
        says, is_there = counted.get((name, label), 0), there.get((name, label), 0)
        if says != is_there and (name, label) != ("letters_held", ""):
            yield f"the counter {name} {label}".rstrip() + f" says {says}, and {is_there} are there"
    books: dict[str, int] = {}
    for (name, _), value in counted.items():
        books[name] = books.get(name, 0) + value
    for whole, parts in BOOKS:
        total = sum(books.get(part, 0) for part in parts)
        if books.get(whole, 0) != total:
            yield f"the books do not add up: {whole} {books.get(whole, 0)}, {' + '.join(parts)} {total}"


def _batches(lane: Path, named: set[str]) -> Iterator[Fault]:
    after = 0
    while page := _page(lane, after):
        for number, file, pulls, said in page:
            fault = said
            after = number
            named.add(Path(file).name)
            loaded = _load(lane / file, body.BATCH, number)
            if not isinstance(loaded, body.Body):
                fault = loaded
            elif loaded.meta != pulls:
                fault = fault or "the file holds something else than its row says"
            if not fault or _is_row(lane, "batch", number):
                yield _fault(lane, lane / file, fault, pulls)


def _page(lane: Path, after: int) -> list[tuple[int, str, list[dict[str, Any]], str | None]]:
    """Rows of batches: number, file, pulls, and what other rows say against it."""
    found = []
    with outside.connection(lane) as db:
        statement = "SELECT id, file, bytes, pulls FROM batch WHERE id > ? ORDER BY id LIMIT ?"
        for number, file, size, text in db.execute(statement, (after, outside.ROWS)).fetchall() if db else ():
            try:
                pulls = orjson.loads(text)
                fault = _row_fault(db, number, file, size, pulls) if db else None
            except (ValueError, TypeError, KeyError):
                pulls, fault = [], "its row cannot be read"
            found.append((number, file, pulls, fault))
    return found


def _row_fault(db: sqlite3.Connection, number: int, file: str, size: int, pulls: list[dict[str, Any]]) -> str | None:
    """What diskcache's row says of the batch, and those of the lowest cursors that wait of each shard."""
    if db.execute("SELECT filename, size FROM Cache WHERE key = ?", (f"batch-{number}",)).fetchall() != [(file, size)]:
        return "diskcache's row says something else than the batch's"
    for place, begin in lowest_begins(pulls).items():
        if not db.execute(_HELD, (*place, begin, number)).fetchone():
            return f"the index does not know that shard {place[2]} waits from {begin}"
    return None


def _letters(lane: Path, named: set[str]) -> Iterator[Fault]:
    """Dead letters: one dict a file, and one for each row that is not right."""
    opened, holder = "", None
    for number, sls_id, file, place in outside.rows(lane, "SELECT id, sls_id, file, place FROM dead WHERE 1"):
        fault = None
        if file != opened:
            is_new = Path(file).name not in named
            opened, found = file, _load(lane / file, body.DEAD)
            named.add(Path(file).name)
            holder, fault = (found, None) if isinstance(found, body.Body) else (None, found)
            if is_new and not fault:
                yield _fault(lane, lane / file, None)
        if holder and not (0 <= place < len(holder.meta) and holder.meta[place]["sls_id"] == sls_id):
            fault = f"the index says that dead letter {sls_id} is in it"
        if fault and _is_row(lane, "dead", number):
            yield _fault(lane, lane / file, fault)


def _states(lane: Path, named: set[str]) -> Iterator[Fault]:
    """The files of states, and files of letters of which none is left."""
    with outside.connection(lane) as db:
        rows = db.execute(_OTHERS).fetchall() if db else []
    for number, key, file, is_used in rows:
        if key.startswith("states-"):
            named.add(Path(file).name)
            found = _load(lane / file, body.STATES)
            fault = None if isinstance(found, body.Body) else found
        elif is_used and key == f"dead-{file}":
            continue
        else:
            fault = "a row names this file, and nothing that is in it"
        if not fault or _is_row(lane, "Cache", number):
            yield _fault(lane, lane / file, fault)


#: Rows of diskcache's that are no batch's; letters are few files.
_OTHERS = """SELECT rowid, key, filename, EXISTS (SELECT 1 FROM dead WHERE file = filename) FROM Cache
    WHERE key < 'batch-' OR key >= 'batch.'"""
_HELD = "SELECT 1 FROM held WHERE project = ? AND logstore = ? AND shard = ? AND begin = ? AND batch = ?"


def _nameless(lane: Path, there: list[str], named: set[str], live: bool) -> Iterator[Fault]:
    """Files that no row names: what a crash left, and the next start takes in or removes."""
    for name in there:
        path = lane / "v" / name
        if name in named or not path.exists() or is_spare(path):
            continue
        with contextlib.suppress(FileNotFoundError):
            if not live or path.stat().st_mtime < time.time() - _YOUNG:
                yield _fault(lane, path, "no row names this file; the next start takes it in, or removes it")


def _load(path: Path, kind: int, sequence: int | None = None) -> body.Body | str:
    """The body, or what is wrong with it."""
    try:
        loaded = body.unpack(path.read_bytes())
    except SpoolError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if loaded.kind != kind or sequence not in {None, loaded.sequence}:
        return "the file holds something else than its row says"
    return loaded


def _is_row(lane: Path, table: str, number: int) -> bool:
    """Still: or it was acked or removed while we looked."""
    with outside.connection(lane) as db:
        return bool(db and db.execute(f"SELECT 1 FROM {table} WHERE rowid = ?", (number,)).fetchone())
