"""The dead letters of a lane: files that describe themselves, rows that point into them, states `dead`, `parked`, `due`.

Every change of a state is a file first (buffer/states.py), fsynced before the transaction that makes it.
"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from buffer import body, states
from buffer.aside import write_note
from buffer.budget import allocated, letters_level
from buffer.database import classify, sync_directory
from buffer.disk import is_unreadable
from buffer.errors import SpoolDamaged, SpoolError, SpoolFull
from buffer.lane import Lane, add, forget_file, is_named, name_file
from buffer.lean import structlog
from buffer.values import DeadLetter

log = structlog.get_logger()


class Letters(Lane):
    """What the reader's side does with them, and operators beside it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._written: list[str] = []
        """Files that no row names yet."""

    def due(self, limit: int, max_bytes: int) -> list[DeadLetter]:
        """Letters to send now, oldest first."""
        return self._letters("state = 'due' ORDER BY id LIMIT ?", limit, max_bytes=max_bytes)

    def oldest_parked(self, hold: str, after: str = "") -> DeadLetter | None:
        """The probe of a hold; or, of those that were buried later than the letter with the id `after`, the oldest."""
        where = "state = 'parked' AND hold = ? AND id > coalesce((SELECT id FROM dead WHERE sls_id = ?), 0)"
        found = self._letters(f"{where} ORDER BY id LIMIT 1", hold, after)
        return found[0] if found else None

    def _letters(self, where: str, *values: object, max_bytes: int = 1 << 40) -> list[DeadLetter]:
        rows = self.rows(
            "SELECT sls_id, file, place, state, hold, time, tries, status, code, text, bytes FROM dead WHERE " + where,
            *values,
        )
        loaded: dict[str, body.Body | None] = {}
        found: list[DeadLetter] = []
        size = 0
        for sls_id, file, place, state, hold, when, tries, status, code, text, length in rows:
            if found and size + length > max_bytes:
                break
            if file not in loaded:
                loaded[file] = self._load_letters(file)
            holder = loaded[file]
            if holder is None:
                continue
            at = body.place_of(holder.meta, sls_id, place)
            if at is None:
                raise SpoolDamaged(f"the index says a wrong place and id of dead letter {sls_id}")
            if at != place or holder.meta[at]["sls_id"] != sls_id:
                self._correct(holder.meta[at]["sls_id"], at, sls_id, file, place)
            letter = body.restore_letter(holder.meta[at], holder.payloads[at])
            found.append(
                dataclasses.replace(
                    letter, state=state, hold=hold, time=when, tries=tries, status=status, code=code, text=text
                )
            )
            size += length
        return found

    def _correct(self, its_id: str, at: int, sls_id: str, file: str, place: int) -> None:
        """A bit of the index was turned over: the file says where a letter is, or which one is there."""
        log.error("a dead letter's row in the index was wrong", lane=self.directory.name, sls_id=sls_id, place=place)
        with self.transaction("a dead letter's row") as sql:
            if at != place:
                sql("UPDATE dead SET place = ? WHERE sls_id = ?", (at, sls_id))
            else:
                sql("UPDATE dead SET sls_id = ? WHERE file = ? AND place = ?", (its_id, file, place))

    def _load_letters(self, file: str) -> body.Body | None:
        try:
            return self._unpack(file, "dead letters")
        except SpoolDamaged as error:
            self._set_letters_aside(file, str(error))
        return None

    def _unpack(self, file: str, what: str) -> body.Body:
        """SpoolDamaged also where it is gone, or the disk cannot read it: it is set aside like any other damaged one."""
        try:
            return body.unpack(self.disk.load(file))
        except OSError as error:
            if isinstance(error, FileNotFoundError) or is_unreadable(error):
                raise SpoolDamaged(str(error)) from error
            raise classify(error, f"{what} of lane {self.directory.name}") from error

    def _set_letters_aside(self, file: str, why: str) -> None:
        source, target = self.directory / file, self.directory / "damaged" / Path(file).name
        ids = [row[0] for row in self.rows("SELECT sls_id FROM dead WHERE file = ?", file)]
        try:
            write_note(self.directory, target.name, why, letters=[{"sls_id": one} for one in ids])
            if source.exists() and not target.exists():
                os.link(source, target)
                sync_directory(target.parent)
        except OSError as error:
            raise classify(error, "damaged dead letters") from error
        with self.transaction("damaged dead letters") as sql:
            sql("DELETE FROM dead WHERE file = ?", (file,))
            add(sql, "letters_file_bytes", -forget_file(sql, f"dead-{file}"))
            add(sql, "dead_set_aside", len(ids))
            add(sql, "damaged", 1)
        self.disk.remove(file)
        log.error("damaged dead letters set aside", lane=self.directory.name, file=target.name, why=why, ids=ids[:20])

    def parked(self) -> dict[str, int]:
        """Hold → events that wait for it."""
        return dict(self.rows("SELECT label, value FROM counter WHERE name = 'letters_held' AND value > 0"))

    def may_bury(self) -> bool:
        """False at a full quota: then the lane is not read on."""
        rows = self.rows("SELECT value FROM counter WHERE name = 'letters_file_bytes'")
        return not rows or not letters_level(self._settings, int(rows[0][0]))

    def release(self, hold: str) -> int:
        """The hold has ended: parked becomes due. How many."""
        return self._change([{"release": hold}]) if self.parked().get(hold) else 0

    def settle_dead(self, delivered: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> None:
        """What was sent again: gone, or back with its new state, reason and number of tries. One transaction."""
        changes: list[dict[str, Any]] = [states.changed(letter) for letter in refused]
        if delivered:
            changes.append({"gone": [letter.sls_id for letter in delivered]})
        if changes:
            self._change(changes, gone="delivered_later")

    def may_have(self, state: str) -> bool:
        """Whether a letter is in that state."""
        return bool(self.rows("SELECT 1 FROM counter WHERE name = 'letters' AND label = ? AND value > 0", state))

    def make_due(self, ids: Sequence[str] | None) -> int:
        """`dead` becomes `due`: these, or all. How many."""
        return self._change([{"due": None if ids is None else list(ids)}])

    def remove_dead(self, ids: Sequence[str] | None) -> int:
        """Letters in state `dead` are removed for good: these, or all. How many."""
        there = [row[0] for row in self.rows("SELECT sls_id FROM dead WHERE state = 'dead'")]
        wanted = None if ids is None else set(ids)
        chosen = [one for one in there if wanted is None or one in wanted]
        return self._change([{"gone": chosen}], gone="dead_purged") if chosen else 0

    def bury(self, buried: Sequence[DeadLetter]) -> tuple[int, int, str, None] | None:
        """Their file, before the transaction that names it."""
        return self._write_letters(buried) if buried else None

    def _write_letters(self, buried: Sequence[DeadLetter]) -> tuple[int, int, str, None]:
        described = [body.describe_letter(letter) for letter in buried]
        return self._store(
            body.pack(body.DEAD, self._sequence(), time.time(), described, [letter.log for letter in buried])
        )

    def name_buried(
        self,
        sql: Callable[..., sqlite3.Cursor],
        buried: Sequence[DeadLetter],
        stored: tuple[int, int, str, None] | None,
    ) -> list[str]:
        """Their rows. A letter that was buried before moves into the new file; the files that this leaves empty."""
        if stored is None:
            return []
        stored = self._in_order(sql, stored, partial(self._write_letters, buried))
        known = [d.sls_id for d in buried if sql("SELECT 1 FROM dead WHERE sls_id = ?", (d.sls_id,)).fetchone()]
        _count, empty = states.apply(sql, [{"gone": known}])
        add(sql, "dead_purged", len(known))  # they are counted as buried once more
        self._forget(sql, empty)
        self._name(sql, "dead", stored)
        new = insert_letters(sql, stored[2], [body.describe_letter(letter) for letter in buried])
        add(sql, "dead_purged", len(buried) - new)  # the same one twice: an overlap of pulls
        return empty

    def _change(self, changes: Sequence[dict[str, Any]], gone: str = "") -> int:
        """The file, the transaction, then the unlinks. `gone`: what is counted for each letter that goes, which is once, though
        two may have chosen it.
        """
        write = partial(self._write_changes, changes)
        stored = write()
        with self.naming("dead letters") as sql:
            stored = self._in_order(sql, stored, write)
            before = letters_there(sql)
            count, empty = states.apply(sql, changes)
            self._forget(sql, empty)
            self._name(sql, "states", stored)
            add(sql, gone, before - letters_there(sql))
            empty += self._compact(sql)
        for file in empty:
            self.disk.remove(file)
        return count

    def _write_changes(self, changes: Sequence[dict[str, Any]]) -> tuple[int, int, str, None]:
        return self._store(states.pieces(self._sequence(), time.time(), changes))

    @contextmanager
    def naming(self, what: str) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """A transaction that names what was written for it. Where it fails the files go: tried again and again without room, they
        would take what draining needs. Only where a COMMIT failed at a flush its outcome is unknown: then they stay for the sweep.
        """
        committing = False
        try:
            with self.transaction(what) as sql:
                yield sql
                committing = True
        except SpoolError as error:
            if not committing or isinstance(error, SpoolFull):
                for file in self._written:
                    self.disk.remove(file)
            raise
        finally:
            self._written.clear()

    def _in_order(
        self,
        sql: Callable[..., sqlite3.Cursor],
        stored: tuple[int, int, str, None],
        write: Callable[[], tuple[int, int, str, None]],
    ) -> tuple[int, int, str, None]:
        """Written anew where another process, a sender or an operator, has named a file since: a rebuild goes by the numbers, and
        a snapshot that came between would take for gone what it could not know. And where a start, which found it half written,
        has swept it.
        """
        last = sql("SELECT value FROM counter WHERE name = 'letters_sequence'").fetchone()
        if (last is None or last[0] < self._last) and (self.directory / stored[2]).exists():
            return stored
        if not is_named(sql, stored[2]):  # a start has found it, and taken it in
            self.disk.remove(stored[2])
        return write()

    def _forget(self, sql: Callable[..., sqlite3.Cursor], files: Sequence[str]) -> None:
        for file in files:
            add(sql, "letters_file_bytes", -forget_file(sql, f"dead-{file}"))

    def _compact(self, sql: Callable[..., sqlite3.Cursor]) -> list[str]:
        """One file of states for many, none where no letter is left. The files that are no longer named.

        The new file is fsynced inside the transaction: it says what the rows say, and nobody may change them meanwhile.
        """
        known = dict(
            sql("SELECT name, value FROM counter WHERE name IN ('states_bytes', 'states_compacted')").fetchall()
        )
        left = sql("SELECT 1 FROM dead LIMIT 1").fetchone() is not None
        limit = max(states.COMPACT_BYTES, 2 * known.get("states_compacted", 0))
        if left and known.get("states_bytes", 0) <= limit:
            return []
        old = [
            row[0] for row in sql("SELECT filename FROM Cache WHERE key >= 'states-' AND key < 'states.'").fetchall()
        ]
        sql("DELETE FROM Cache WHERE key >= 'states-' AND key < 'states.'")
        size = 0
        if left:
            stored = self._write_changes(states.snapshot(sql))
            self._name(sql, "states", stored)
            size = allocated(stored[0])
        for name in ("states_bytes", "states_compacted"):
            sql("INSERT OR REPLACE INTO counter(name, label, value) VALUES (?, '', ?)", (name, size))
        return old

    def _store(self, pieces: Sequence[bytes]) -> tuple[int, int, str, None]:
        try:
            stored: tuple[int, int, str, None] = self.disk.store(pieces, read=False)
        except OSError as error:
            raise classify(error, f"dead letters of lane {self.directory.name}") from error
        self._written.append(stored[2])
        return stored

    def _sequence(self) -> int:
        """The order of files of letters and states in a rebuild: nanoseconds, but never back when the clock goes back."""
        last = self.rows("SELECT value FROM counter WHERE name = 'letters_sequence'")
        self._last = max(time.time_ns(), last[0][0] + 1 if last else 0)
        return self._last

    def _name(self, sql: Callable[..., sqlite3.Cursor], kind: str, stored: tuple[int, int, str, None]) -> None:
        """A row for the file, and its sequence number as the highest so far."""
        name_file(self._cache, f"{kind}-{stored[2]}", stored)
        add(sql, "letters_file_bytes" if kind == "dead" else "states_bytes", allocated(stored[0]))
        sql("INSERT OR REPLACE INTO counter(name, label, value) VALUES ('letters_sequence', '', ?)", (self._last,))


def letters_there(sql: Callable[..., sqlite3.Cursor]) -> int:
    """How many, in whatever state."""
    found: int = sql("SELECT coalesce(sum(value), 0) FROM counter WHERE name = 'letters'").fetchone()[0]
    return found


def insert_letters(sql: Callable[..., sqlite3.Cursor], file: str, described: Sequence[dict[str, Any]]) -> int:
    """The rows that point into a file of letters; a letter that is there already keeps its row. How many are new."""
    new = 0
    for place, letter in enumerate(described):
        new += sql(
            "INSERT OR IGNORE INTO dead(sls_id, file, place, state, hold, time, tries, status, code, text, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (letter["sls_id"], file, place, letter["state"], letter["hold"], letter["time"], letter["tries"],
             letter["status"], letter["code"], letter["text"], letter["size"]),
        ).rowcount  # fmt: skip
    return new
