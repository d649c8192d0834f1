"""A lost or damaged index, made again from the bodies. Only the supervisor does this, with the consumers stopped.

Every position of the lane begins a new epoch without P and C: what SLS has as checkpoint counts. Batches that were
delivered and not yet unlinked may be delivered again, with the same ids.

A half-made index is a sound database that names only some of the bodies, and the sweep would remove the others. So a file
says that it is being made, from before the first change until after the last; while it is there the lane is damaged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from buffer import body
from buffer.database import open_cache, sync_directory
from buffer.errors import SpoolDamaged
from buffer.lane import add, insert_batch, save_position, take_lock
from buffer.settings import SpoolSettings
from buffer.values import Position, ShardKey

log = structlog.get_logger()
#: Its presence in a lane's directory.
UNFINISHED = "rebuilding"


def rebuild(lane: Path, settings: SpoolSettings, why: str, beat: Callable[[], None]) -> None:
    """Move the index to damaged/, read every body, insert what it says."""
    del settings
    locks = [take_lock(lane / name) for name in ("writer.lock", "reader.lock")]
    try:
        (lane / UNFINISHED).touch(mode=0o600)
        sync_directory(lane)
        _move_index(lane)
        cache = open_cache(lane)
        epochs: dict[ShardKey, int] = {}
        batches = letters = 0
        try:
            for path in sorted((lane / "v").glob("*.val")):
                beat()
                try:
                    found = body.unpack(path.read_bytes())
                except SpoolDamaged as error:
                    _set_aside(lane, path, str(error))
                    continue
                with cache._transact() as (sql, _):
                    if found.kind == body.BATCH:
                        insert_batch(
                            sql, cache, found.sequence, found.time, f"v/{path.name}", found.size, 2, found.meta
                        )
                        add(sql, "put", sum(d["groups"] for d in found.meta))
                        batches += 1
                        for one in found.meta:
                            key = ShardKey(*one["key"])
                            epochs[key] = max(epochs.get(key, 0), one["epoch"])
                    elif found.kind == body.DEAD:
                        letters += _insert_letters(sql, cache, path, found)
            with cache._transact() as (sql, _):
                for key, epoch in epochs.items():
                    save_position(sql, key, Position(epoch + 1, None, None))
                add(sql, "rebuilt", 1)
        finally:
            cache.close()
            cache.disk.close()
        (lane / UNFINISHED).unlink()
        sync_directory(lane)
    finally:
        for lock in locks:
            os.close(lock)
    log.error("index rebuilt from the bodies", lane=lane.name, why=why, batches=batches, dead_letters=letters)


def _insert_letters(sql: object, cache: object, path: Path, found: body.Body) -> int:
    sql("DELETE FROM Cache WHERE key = ?", (f"dead-v/{path.name}",))  # type: ignore[operator]
    cache._row_insert(  # type: ignore[attr-defined]
        f"dead-v/{path.name}", True, found.time, (None, None, found.size, 2, f"v/{path.name}", None)
    )
    for place, letter in enumerate(found.meta):
        sql(  # type: ignore[operator]
            "INSERT OR IGNORE INTO dead(sls_id, file, place, state, hold, time, tries, status, code, text, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (letter["sls_id"], f"v/{path.name}", place, letter["state"], letter["hold"], letter["time"],
             letter["tries"], letter["status"], letter["code"], letter["text"], letter["size"]),
        )  # fmt: skip
    add(sql, "buried", len(found.meta))  # type: ignore[arg-type]
    return len(found.meta)


def _move_index(lane: Path) -> None:
    stamp = time.time_ns()
    (lane / "damaged").mkdir(mode=0o700, exist_ok=True)
    (lane / "v").mkdir(mode=0o700, exist_ok=True)
    for name in ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal"):
        if (lane / name).exists():
            (lane / name).rename(lane / "damaged" / f"{name}.{stamp}")
    sync_directory(lane)
    sync_directory(lane / "damaged")


def _set_aside(lane: Path, path: Path, why: str) -> None:
    path.rename(lane / "damaged" / path.name)
    sync_directory(lane / "damaged")
    log.error("damaged body set aside while rebuilding", lane=lane.name, file=path.name, why=why)
