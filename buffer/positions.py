"""Positions as rows of an index. Each has a CRC of its own: SQLite has none, and a position that a flipped bit moved ahead would
skip logs without a word.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable

import orjson

from buffer.errors import SpoolDamaged
from buffer.values import Position, ShardKey

#: What `of_row` takes, in order.
COLUMNS = "key, epoch, put, checkpoint, crc"


def columns(db: sqlite3.Connection) -> str:
    """The same of an index that may be an older version's, which had no CRC."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    return COLUMNS if version != 1 else COLUMNS.replace("crc", "NULL")


def key_text(key: ShardKey) -> str:
    """A position's key as it stands in the index."""
    return orjson.dumps([key.project, key.logstore, key.group, key.query, key.shard, key.created]).decode()


def key_of(text: str) -> ShardKey:
    """The inverse. Raises SpoolDamaged."""
    try:
        return ShardKey(*orjson.loads(text))
    except (ValueError, TypeError) as error:
        raise SpoolDamaged(f"a position's key is {text[:80]!r}") from error


def save_position(sql: Callable[..., sqlite3.Cursor], key: ShardKey, position: Position) -> None:
    """Write a position's row."""
    text = key_text(key)
    values = (position.epoch, position.put, position.checkpoint)
    sql(f"INSERT OR REPLACE INTO position({COLUMNS}) VALUES (?, ?, ?, ?, ?)", (text, *values, _crc(text, *values)))


def of_row(text: str, epoch: int, put: int | None, checkpoint: int | None, crc: int | None) -> Position:
    """A row's position. Raises SpoolDamaged. A row without a CRC was written before there was one."""
    if crc is not None and crc != _crc(text, epoch, put, checkpoint):
        raise SpoolDamaged(f"the position of {text[:80]} does not match its CRC")
    return Position(epoch, put, checkpoint)


def _crc(text: str, *values: int | None) -> int:
    return zlib.crc32(repr((text, values)).encode())
