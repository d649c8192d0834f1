"""Looking into a spool from outside, with and without a running supervisor.

Read-only connections that create no file, at most 1 000 rows a statement, no cursor held open over output: in TRUNCATE
mode an open reader stops the writer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from buffer import body
from buffer.database import classify
from buffer.disk import has_bodies
from buffer.errors import SpoolDamaged, SpoolError, SpoolUnusable
from buffer.judge import merge
from buffer.positions import columns, key_of, key_text, of_row
from buffer.values import DeadLetter, Position, Pull, ShardKey

ROWS = 1000


@dataclass(frozen=True, slots=True)
class LaneStats:
    """One lane's numbers, each O(1) or over a small table."""

    name: str
    batches: int = 0
    groups: int = 0
    bytes: int = 0
    oldest: float | None = None
    """Unix seconds."""
    dead: int = 0
    due: int = 0
    parked: int = 0
    dead_bytes: int = 0
    index_bytes: int = 0
    """The index and its journal."""
    damaged: int = 0
    rebuilt: int = 0
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


def lane_directories(spool: Path, *, adopted: bool = False) -> list[Path]:
    """Every lane; not what is still being copied, and not what another spool has taken over unless `adopted` asks."""
    folder = spool / "lanes"
    try:
        found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        return [p for p in found if adopted or not (p / "adopted").exists()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolUnusable(f"cannot read {folder}: {error.strerror}", "check owner and permissions") from error


@contextlib.contextmanager
def connection(lane: Path) -> Iterator[sqlite3.Connection | None]:
    """A read-only connection, or None where there is no index yet: its tables come all at once, a moment after its file."""
    path = lane / "cache.db"
    if not path.exists():
        yield None
        return
    try:
        found, tables = _connect(path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise classify(error, f"the index of lane {lane.name}") from error
    try:
        yield found if tables or has_bodies(lane) else None
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise classify(error, f"the index of lane {lane.name}") from error
    finally:
        found.close()


def _connect(path: Path) -> tuple[sqlite3.Connection, int]:
    """And how many tables there are. Read-only; but after a crash the journal must be rolled back first, and that is writing."""
    try:
        return _connect_as("ro", path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
            raise
    return _connect_as("rw", path)


def _connect_as(mode: str, path: Path) -> tuple[sqlite3.Connection, int]:
    found = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=10, isolation_level=None)
    try:
        return found, found.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except BaseException:
        found.close()
        raise


def lane_stats(lane: Path) -> LaneStats:
    """Depth, bytes and age in O(1), and the books."""
    with connection(lane) as db:
        if db is None or not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'memo'").fetchone():
            return LaneStats(lane.name)
        counters = {(n, label): v for n, label, v in db.execute("SELECT name, label, value FROM counter").fetchall()}
        oldest = db.execute("SELECT time FROM batch ORDER BY id LIMIT 1").fetchone()
    return LaneStats(
        name=lane.name,
        batches=counters.get(("waiting_batches", ""), 0),
        groups=counters.get(("waiting_groups", ""), 0),
        bytes=counters.get(("waiting_bytes", ""), 0) + counters.get(("letters_file_bytes", ""), 0),
        oldest=oldest[0] if oldest else None,
        dead=counters.get(("letters", "dead"), 0),
        due=counters.get(("letters", "due"), 0),
        parked=counters.get(("letters", "parked"), 0),
        index_bytes=sum(_size(lane / name) for name in ("cache.db", "cache.db-wal", "cache.db-journal")),
        dead_bytes=counters.get(("letters_file_bytes", ""), 0),
        damaged=counters.get(("damaged", ""), 0),
        rebuilt=counters.get(("rebuilt", ""), 0),
        counters=counters,
        reasons={label: value for (name, label), value in counters.items() if name == "letters_why" and value > 0},
    )


BOOKS = {
    "put": "put", "settled": "settled", "waiting": "waiting_groups", "set_aside": "set_aside", "purged": "purged",
    "decoded": "decoded", "delivered": "delivered", "filtered": "filtered", "buried": "buried",
    "delivered_later": "delivered_later", "dead_purged": "dead_purged",
}  # fmt: skip


def books(lanes: list[LaneStats]) -> dict[str, int]:
    """The books over all lanes and labels."""
    return {
        term: sum(v for lane in lanes for (name, _), v in lane.counters.items() if name == counter)
        for term, counter in BOOKS.items()
    }


def used_bytes(lanes: list[LaneStats]) -> int:
    """What counts against max_bytes beside the dead letters, whose part is reserved."""
    return sum(lane.bytes - lane.dead_bytes + lane.index_bytes for lane in lanes)


def document(spool: Path, lanes: list[LaneStats], max_bytes: int, level: int, ballast: bool) -> dict[str, Any]:
    """`spool stats` as it is printed; rates are added by who knows them."""
    now = time.time()
    oldest = min((lane.oldest for lane in lanes if lane.oldest), default=None)
    return {
        "directory": str(spool),
        "id": _text(spool / "id"),
        "format": _text(spool / "format"),
        "bytes": sum(lane.bytes for lane in lanes),
        "max_bytes": max_bytes,
        "batches": sum(lane.batches for lane in lanes),
        "groups": sum(lane.groups for lane in lanes),
        "oldest_seconds": None if oldest is None else max(0.0, now - oldest),
        "level": level,
        "ballast": ballast,
        "full_in_seconds": None,
        "drained_in_seconds": None,
        "books": books(lanes),
        "lanes": [
            {
                "name": lane.name, "batches": lane.batches, "groups": lane.groups, "bytes": lane.bytes,
                "oldest_seconds": None if lane.oldest is None else max(0.0, now - lane.oldest),
                "dead": lane.dead + lane.due, "parked": lane.parked, "damaged": lane.damaged, "rebuilt": lane.rebuilt,
            }
            for lane in lanes
        ],
    }  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def rows(lane: Path, statement: str) -> Iterator[tuple[Any, ...]]:
    """All rows of a statement that selects `id` first and takes `id > ?` and a limit, in pages."""
    after = 0
    while True:
        with connection(lane) as db:
            page = (
                []
                if db is None
                else db.execute(f"{statement} AND id > ? ORDER BY id LIMIT {ROWS}", (after,)).fetchall()
            )
        yield from page
        if len(page) < ROWS:
            return
        after = page[-1][0]


def batches(spool: Path, lane: str | None = None) -> Iterator[dict[str, Any]]:
    """What waits, oldest first in each lane."""
    for directory in lane_directories(spool):
        if lane is not None and directory.name != lane:
            continue
        for number, file, size, groups, when, pulls in rows(
            directory, "SELECT id, file, bytes, groups, time, pulls FROM batch WHERE 1"
        ):
            try:
                known = orjson.loads(pulls)
            except orjson.JSONDecodeError as error:
                raise SpoolDamaged(
                    f"the index of lane {directory.name} says of batch {number}: {pulls[:40]!r}",
                    "it is rebuilt from the bodies at the next start",
                ) from error
            yield {
                "lane": directory.name, "id": number, "file": str(directory / file), "bytes": size, "groups": groups,
                "time": when, "pulls": known,
            }  # fmt: skip


def ignore(_: str) -> None:
    """Of a damaged file: nobody wants to know."""


def pulls(spool: Path, damaged: Callable[[str], None] = ignore) -> Iterator[Pull]:
    """The pulls of what waits; what is acked meanwhile is passed over, and `damaged` is told what cannot be read, and why."""
    for batch in batches(spool):
        loaded = _readable(Path(batch["file"]), damaged)
        if loaded is not None:
            yield from map(body.restore_pull, loaded.meta, loaded.payloads)


def _readable(path: Path, damaged: Callable[[str], None]) -> body.Body | None:
    try:
        return body.unpack(path.read_bytes())
    except FileNotFoundError:
        return None
    except SpoolError as error:
        damaged(f"{path}: {error}")
    except OSError as error:
        damaged(f"{path}: {error.strerror}")
    return None


_DEAD = "SELECT id, sls_id, file, place, state, hold, time, tries, status, code, text FROM dead WHERE 1"


def dead(spool: Path, damaged: Callable[[str], None] = ignore) -> Iterator[tuple[str, DeadLetter]]:
    """(lane, letter) for every dead letter; `damaged` is told of those that cannot be read, and why."""
    for directory in lane_directories(spool):
        opened, loaded = "", None  # letters of one file follow each other: what is parked may be thousands in one
        for _, sls_id, file, place, state, hold, when, tries, status, code, text in rows(directory, _DEAD):
            if file != opened:
                opened, loaded = file, _readable(directory / file, damaged)
            if loaded is None:
                continue
            at = body.place_of(loaded.meta, sls_id, place)
            if at is None:
                damaged(f"{directory / file}: the index says a wrong place in it")
                continue
            now = {
                "state": state,
                "hold": hold,
                "time": when,
                "tries": tries,
                "status": status,
                "code": code,
                "text": text,
            }
            found = body.restore_letter(loaded.meta[at] | now, loaded.payloads[at])
            yield directory.name, found


def _own_lanes(spool: Path, spool_id: str) -> Iterator[Path]:
    """Those whose positions count: adopted lanes and the one of `replay` do not."""
    for lane in lane_directories(spool):
        if lane.name.startswith(f"{spool_id}-") and not lane.name.endswith("-replay"):
            yield lane


def find_position(spool: Path, spool_id: str, key: ShardKey) -> Position | None:
    """Over this spool's own lanes: highest epoch, and its highest put and checkpoint."""
    found = []
    for lane in _own_lanes(spool, spool_id):
        with connection(lane) as db:
            row = db and db.execute(f"SELECT {columns(db)} FROM position WHERE key = ?", (key_text(key),)).fetchone()
        if row:
            found.append(of_row(*row))
    return merge(found)


def group_positions(spool: Path, spool_id: str, project: str, logstore: str, group: str) -> dict[ShardKey, Position]:
    """All that this spool's own lanes know of a consumer group, whatever the query."""
    found: dict[ShardKey, list[Position]] = {}
    for lane in _own_lanes(spool, spool_id):
        with connection(lane) as db:
            rows = db.execute(f"SELECT {columns(db)} FROM position").fetchall() if db else []
        for row in rows:
            key = key_of(row[0])
            if (key.project, key.logstore, key.group) == (project, logstore, group):
                found.setdefault(key, []).append(of_row(*row))
    return {key: position for key, positions in found.items() if (position := merge(positions)) is not None}


def lowest_waiting(spool: Path, project: str, logstore: str, shard: int) -> int | None:
    """The lowest cursor of a shard that waits in any lane, whatever its query and epoch."""
    return lowest_waiting_of(spool, [(project, logstore, shard)]).get((project, logstore, shard))


def lowest_waiting_of(spool: Path, places: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str, int], int]:
    """The same for many (project, logstore, shard) at once; those of which nothing waits are left out."""
    found: dict[tuple[str, str, int], int] = {}
    wanted = list(places)
    for lane in lane_directories(spool):
        with connection(lane) as db:
            for place in wanted if db else ():
                row = db.execute(_LOWEST, place).fetchone() if db else None
                if row and row[0] is not None:
                    found[place] = min(row[0], found.get(place, row[0]))
    return found


_LOWEST = "SELECT min(begin) FROM held WHERE project = ? AND logstore = ? AND shard = ?"


def free_bytes(path: Path) -> tuple[int, int]:
    """Bytes and inodes that the file system has left for us."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_favail
