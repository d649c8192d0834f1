"""What becomes of dead letters after they were buried, as bodies of kind STATES: a lost index forgets no state.

A change is one JSON object. The transaction that changes the index applies the same objects that lie in the file, and a
rebuild applies them again in the order of the files' sequence numbers, so the two cannot differ.

    {"set": {sls_id, state, hold, time, tries, status, code, text}}   this one letter
    {"gone": [sls_id, ...]}                                           delivered, or removed by the operator
    {"release": hold}                                                 every letter parked for that hold is due
    {"due": [sls_id, ...] | null}                                     these, or all, that are `dead` are due
    {"only": [sls_id, ...]}                                           whatever is not named is gone: a snapshot
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from buffer import body
from buffer.errors import SpoolDamaged
from buffer.values import DeadLetter

Sql = Callable[..., sqlite3.Cursor]
_FIELDS = ("state", "hold", "time", "tries", "status", "code", "text")
#: A lane's file of states is written anew when the old ones have more bytes than this, and than twice the last one.
COMPACT_BYTES = 1 << 20


def changed(letter: DeadLetter) -> dict[str, Any]:
    """The letter as it is from now on."""
    return {"set": {name: getattr(letter, name) for name in ("sls_id", *_FIELDS)}}


def pieces(sequence: int, now: float, changes: Sequence[dict[str, Any]]) -> list[bytes]:
    """The file's bytes."""
    return body.pack(body.STATES, sequence, now, [one | {"size": 0} for one in changes], [b""] * len(changes))


def apply(sql: Sql, changes: Iterable[dict[str, Any]]) -> tuple[int, list[str]]:
    """Change the index as they say: letters changed, and the files that hold no letter any more."""
    count, empty = 0, list[str]()
    for one in changes:
        what = next(iter(one))
        if what not in _DO:
            raise SpoolDamaged(f"a file of states says {what!r}, which this program does not know")
        moved, files = _DO[what](sql, one[what])
        count += moved
        empty += files
    return count, empty


def _set(sql: Sql, values: dict[str, Any]) -> tuple[int, list[str]]:
    assignments = ", ".join(f"{name} = ?" for name in _FIELDS)
    found = sql(
        f"UPDATE dead SET {assignments} WHERE sls_id = ?",
        (*(values[name] for name in _FIELDS), values["sls_id"]),
    )
    return found.rowcount, []


def _gone(sql: Sql, ids: Sequence[str]) -> tuple[int, list[str]]:
    count, files = 0, dict[str, None]()
    for sls_id in ids:
        for (file,) in sql("SELECT file FROM dead WHERE sls_id = ?", (sls_id,)).fetchall():
            files[file] = None
        count += sql("DELETE FROM dead WHERE sls_id = ?", (sls_id,)).rowcount
    return count, [f for f in files if sql("SELECT 1 FROM dead WHERE file = ? LIMIT 1", (f,)).fetchone() is None]


def _release(sql: Sql, hold: str) -> tuple[int, list[str]]:
    return sql("UPDATE dead SET state = 'due', hold = '' WHERE state = 'parked' AND hold = ?", (hold,)).rowcount, []


def _due(sql: Sql, ids: Sequence[str] | None) -> tuple[int, list[str]]:
    statement = "UPDATE dead SET state = 'due', hold = '' WHERE state = 'dead'"
    if ids is None:
        return sql(statement).rowcount, []
    return sum(sql(f"{statement} AND sls_id = ?", (sls_id,)).rowcount for sls_id in ids), []


def _only(sql: Sql, ids: Sequence[str]) -> tuple[int, list[str]]:
    kept = set(ids)
    return _gone(sql, [i for (i,) in sql("SELECT sls_id FROM dead").fetchall() if i not in kept])


_DO: dict[str, Callable[[Sql, Any], tuple[int, list[str]]]] = {
    "set": _set, "gone": _gone, "release": _release, "due": _due, "only": _only,
}  # fmt: skip


def snapshot(sql: Sql) -> list[dict[str, Any]]:
    """All that the files of states so far say, as one."""
    columns = ", ".join(("sls_id", *_FIELDS))
    rows = sql(f"SELECT {columns} FROM dead ORDER BY id").fetchall()
    kept = [dict(zip(("sls_id", *_FIELDS), row, strict=True)) for row in rows]
    return [{"only": [one["sls_id"] for one in kept]}, *({"set": one} for one in kept)]
