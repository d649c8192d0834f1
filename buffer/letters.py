"""The dead letters of a lane: files that describe themselves, rows that point into them, states `dead`, `parked`, `due`."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from buffer import body
from buffer.database import sync_directory
from buffer.errors import SpoolDamaged
from buffer.lane import Lane, add
from buffer.values import DeadLetter

log = structlog.get_logger()


class Letters(Lane):
    """What the reader's side does with them."""

    def due(self, limit: int, max_bytes: int) -> list[DeadLetter]:
        """Letters to send now, oldest first."""
        return self._letters("state = 'due' ORDER BY id LIMIT ?", limit, max_bytes=max_bytes)

    def oldest_parked(self, hold: str) -> DeadLetter | None:
        """The probe of a hold."""
        found = self._letters("state = 'parked' AND hold = ? ORDER BY id LIMIT 1", hold)
        return found[0] if found else None

    def _letters(self, where: str, *values: object, max_bytes: int = 1 << 40) -> list[DeadLetter]:
        rows = self.rows(
            "SELECT file, place, state, hold, time, tries, status, code, text, bytes FROM dead WHERE " + where, *values
        )
        loaded: dict[str, body.Body | None] = {}
        found: list[DeadLetter] = []
        size = 0
        for file, place, state, hold, when, tries, status, code, text, length in rows:
            if found and size + length > max_bytes:
                break
            if file not in loaded:
                loaded[file] = self._load_letters(file)
            holder = loaded[file]
            if holder is None:
                continue
            letter = body.restore_letter(holder.meta[place], holder.payloads[place])
            found.append(
                dataclasses.replace(
                    letter, state=state, hold=hold, time=when, tries=tries, status=status, code=code, text=text
                )
            )
            size += length
        return found

    def _load_letters(self, file: str) -> body.Body | None:
        try:
            return body.unpack(self.disk.load(file))
        except (SpoolDamaged, FileNotFoundError) as error:
            self._set_letters_aside(file, str(error))
            return None

    def _set_letters_aside(self, file: str, why: str) -> None:
        source, target = self.directory / file, self.directory / "damaged" / Path(file).name
        if source.exists() and not target.exists():
            os.link(source, target)
            sync_directory(target.parent)
        ids = [row[0] for row in self.rows("SELECT sls_id FROM dead WHERE file = ?", file)]
        with self.transaction("damaged dead letters") as sql:
            sql("DELETE FROM dead WHERE file = ?", (file,))
            sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"dead-{file}",))
            add(sql, "dead_set_aside", len(ids))
            add(sql, "damaged", 1)
        self.disk.remove(file)
        log.error("damaged dead letters set aside", lane=self.directory.name, file=target.name, why=why, ids=ids[:20])

    def parked(self) -> dict[str, int]:
        """Hold → events that wait for it."""
        return dict(self.rows("SELECT hold, count(*) FROM dead WHERE state = 'parked' GROUP BY hold"))

    def release(self, hold: str) -> int:
        """The hold has ended: parked becomes due."""
        with self.transaction("a release") as sql:
            return sql("UPDATE dead SET state = 'due', hold = '' WHERE state = 'parked' AND hold = ?", (hold,)).rowcount

    def settle_dead(self, delivered: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> None:
        """What was sent again: gone, or back with its new state, reason and number of tries. One transaction."""
        with self.transaction("dead letters") as sql:
            empty = delete_letters(sql, [letter.sls_id for letter in delivered])
            add(sql, "delivered_later", len(delivered))
            for one in refused:
                sql(
                    "UPDATE dead SET state = ?, hold = ?, time = ?, tries = ?, status = ?, code = ?, text = ?"
                    " WHERE sls_id = ?",
                    (one.state, one.hold, one.time, one.tries, one.status, one.code, one.text, one.sls_id),
                )
        for file in empty:
            self.disk.remove(file)

    def may_bury(self) -> bool:
        """False at a full quota: then the lane is not read on."""
        rows = self.rows("SELECT coalesce(sum(size), 0) FROM Cache WHERE key >= 'dead-' AND key < 'dead.'")
        return int(rows[0][0]) < self._settings.dead_letter_quota


def delete_letters(sql: Callable[..., sqlite3.Cursor], ids: Sequence[str]) -> list[str]:
    """Their rows go; the files that hold no letter any more."""
    files: set[str] = set()
    for sls_id in ids:
        files.update(row[0] for row in sql("SELECT file FROM dead WHERE sls_id = ?", (sls_id,)))
        sql("DELETE FROM dead WHERE sls_id = ?", (sls_id,))
    empty = [f for f in files if not sql("SELECT 1 FROM dead WHERE file = ? LIMIT 1", (f,)).fetchone()]
    for file in empty:
        sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (f"dead-{file}",))
    return empty
