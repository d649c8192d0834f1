"""A spool that comes back after another host has adopted its lanes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from buffer.checks import check_index
from buffer.database import classify, open_cache, sync_directory, transact
from buffer.errors import SpoolDamaged
from buffer.lane import ADOPTED, add, take_lock
from buffer.rebuild import rebuild


def empty_adopted(lane: Path, beat: Callable[[], None]) -> None:
    """What was taken over goes from the index and from the disk; positions stay, and the mark goes last."""
    try:
        try:
            check_index(lane)
            _empty_index(lane)
            _empty_folder(lane / "v", beat)
        except SpoolDamaged as error:
            _empty_folder(lane / "v", beat)
            rebuild(lane, str(error), beat)
        (lane / ADOPTED).unlink()
        sync_directory(lane)
    except (sqlite3.Error, OSError) as error:
        raise classify(error, f"emptying the adopted lane {lane.name}") from error


def _empty_index(lane: Path) -> None:
    locks = [take_lock(lane / name) for name in ("writer.lock", "reader.lock")]
    try:
        cache = open_cache(lane)
        try:
            with transact(cache) as sql:
                found = dict(sql("SELECT name, sum(value) FROM counter GROUP BY name").fetchall())
                for table in ("batch", "held", "dead", "Cache"):
                    sql(f"DELETE FROM {table}")
                add(sql, "purged", found.get("waiting_groups", 0))
                add(sql, "dead_purged", found.get("letters", 0))
                sql(
                    "DELETE FROM counter WHERE name LIKE 'waiting_%' OR name LIKE 'states_%'"
                    " OR (name LIKE 'letters%' AND name != 'letters_sequence')"
                )
        finally:
            cache.close()
            cache.disk.close()
    finally:
        for lock in locks:
            os.close(lock)


def _empty_folder(folder: Path, beat: Callable[[], None]) -> None:
    for entry in os.scandir(folder):
        beat()
        Path(entry.path).unlink()
    sync_directory(folder)
