"""Taking over the lanes of another host's spool: its disk lives, the host does not.

Lane by lane: copy to `lanes/.<name>` with a note of where it came from, fsync, rename, and only then mark the source lane.
A crash between the two is repeated safely: a lane that is here and has not changed there is only marked. Our supervisor may
run meanwhile; its senders find the new lanes by themselves. Should the other host come back, its supervisor empties the
marked lanes before it uses them, and keeps their positions.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from buffer import outside
from buffer.checks import check_format, check_index, write_durably
from buffer.database import classify, open_cache, sync_directory, transact
from buffer.disk import has_bodies, is_unreadable, write_all
from buffer.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolLocked, SpoolUnusable
from buffer.lane import ADOPTED, add, nothing, refuse_half_made, take_lock
from buffer.lean import structlog
from buffer.rebuild import rebuild
from buffer.settings import SpoolSettings

log = structlog.get_logger()
#: In an adopted lane: the spool it came from, and how far that lane was.
ORIGIN = "origin"
_STEP = 8 << 20


@dataclass(frozen=True, slots=True)
class Adoption:
    """One lane of the other spool, and what is to be done with it."""

    lane: str
    action: str
    """`copy`; `mark` (it is here already, as it is there); `done` (marked before); `empty` (nothing to take)."""
    target: str
    """The lane's name in our spool."""
    batches: int
    groups: int
    bytes: int
    letters: int


@contextmanager
def _held(source: Path) -> Iterator[None]:
    """The other spool's lock: it must not be in use, by a supervisor there or by another adoption."""
    lock = take_lock(source / "lock")
    try:
        yield
    finally:
        os.close(lock)


def plan(settings: SpoolSettings, source: Path) -> list[Adoption]:
    """What `adopt` would do. Raises SpoolUnusable, SpoolLocked, SpoolTooNew or SpoolDamaged."""
    try:
        identity = _check(settings, source)
        with _held(source):
            return [_plan_lane(settings, identity, lane) for lane in outside.lane_directories(source, adopted=True)]
    except (sqlite3.Error, OSError) as error:
        raise _explain(error, source, f"looking at {source}") from error


def adopt(settings: SpoolSettings, source: Path, beat: Callable[[int], None] | None = None) -> list[Adoption]:
    """Take over every lane; what was done, in order. `beat` hears how many bytes were copied. Raises as `plan`, and SpoolFull."""
    try:
        return _adopt(settings, source, beat or _ignore)
    except (sqlite3.Error, OSError) as error:
        raise _explain(error, source, f"adopting {source}") from error


def _adopt(settings: SpoolSettings, source: Path, beat: Callable[[int], None]) -> list[Adoption]:
    identity = _check(settings, source)
    done = []
    mine = _wait_lock(settings.directory / "lanes" / ".adopt.lock")
    try:
        with _held(source):
            for lane in outside.lane_directories(source, adopted=True):
                found = _plan_lane(settings, identity, lane)
                if found.action == "copy":
                    _check_room(settings, found)
                    _copy_or_nothing(settings, identity, lane, found, beat)
                if found.action in {"copy", "mark"}:
                    _mark(lane, settings)
                done.append(found)
    finally:
        os.close(mine)
    return done


def _explain(error: Exception, source: Path, what: str) -> SpoolError:
    """Another host's files may belong to a number that is nobody's here."""
    if isinstance(error, PermissionError) and str(error.filename or source).startswith(str(source)):
        try:
            we = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            we = str(os.geteuid())
        return SpoolUnusable(f"{what}: {error.strerror}", f"it must belong to {we}: chown -R {we}: {source}")
    return classify(error, what)


def _ignore(count: int) -> None:
    del count


def _wait_lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise SpoolLocked("another adoption into this spool is running", "wait for it to end") from error
    return file


def _check(settings: SpoolSettings, source: Path) -> str:
    """The other spool's identity."""
    if not (source / "format").exists() or not (source / "id").exists():
        raise SpoolUnusable(f"{source} holds no spool", "name the directory that has `format`, `id` and `lanes/`")
    check_format(source)
    identity = (source / "id").read_text().strip()
    if not (settings.directory / "id").exists():
        raise SpoolUnusable(f"{settings.directory} holds no spool yet", "run `sls-siem supervise` once first")
    if identity == (settings.directory / "id").read_text().strip():
        raise SpoolUnusable(
            f"{source} has the same id as this spool: it is this one, or a copy of it", "name another host's spool"
        )
    return identity


def _plan_lane(settings: SpoolSettings, identity: str, lane: Path) -> Adoption:
    try:
        refuse_half_made(lane)
        stats = outside.lane_stats(lane)
    except (SpoolDamaged, SpoolUnusable):
        # Only the bodies can be counted; the copy's index is rebuilt.
        stats = outside.LaneStats(lane.name, batches=sum(1 for _ in (lane / "v").glob("*.val")))
    letters = stats.dead + stats.due + stats.parked
    target, action = _target(settings.directory / "lanes", identity, lane)
    if (lane / ADOPTED).exists():
        action = "done"
    elif action == "copy" and not stats.batches and not letters and not has_bodies(lane):
        action = "empty"
    return Adoption(lane.name, action, target, stats.batches, stats.groups, stats.bytes + stats.index_bytes, letters)


def _target(lanes: Path, identity: str, lane: Path) -> tuple[str, str]:
    """A free name, or the name under which this very state of the lane is here already."""
    for number in range(1, 10_000):
        name = lane.name if number == 1 else f"{lane.name}~{number}"
        if not (lanes / name).exists():
            return name, "copy"
        try:
            origin = orjson.loads((lanes / name / ORIGIN).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            origin = {}
        if origin.get("spool") != identity:
            raise SpoolUnusable(
                f"a lane {name} from elsewhere is here already", f"drain it, then move {lanes / name} out of the spool"
            )
        if origin.get("state") == _state(lane):
            return name, "mark"
    raise SpoolUnusable(f"lane {lane.name} was adopted ten thousand times", "look at the spool's lanes")


def _state(lane: Path) -> list[int | str]:
    """Changes with every put, ack, burial and change of a letter."""
    try:
        with outside.connection(lane) as db:
            if db is None:
                return []
            last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batch'").fetchone()
            found = dict(db.execute("SELECT name || '/' || label, value FROM counter").fetchall())
    except (SpoolDamaged, SpoolUnusable) as error:
        return [str(error)]
    names = ("settled/", "purged/", "set_aside/", "letters_sequence/")
    return [last[0] if last else 0, *(found.get(name, 0) for name in names)]


def _check_room(settings: SpoolSettings, found: Adoption) -> None:
    free, _ = outside.free_bytes(settings.directory)
    if free < found.bytes + settings.min_free_bytes:
        raise SpoolFull(
            f"lane {found.lane} has {found.bytes} bytes, and {free} are free of which {settings.min_free_bytes} must stay",
            "make room, then run it again: what is adopted stays adopted",
        )


def _copy_or_nothing(
    settings: SpoolSettings, identity: str, lane: Path, found: Adoption, beat: Callable[[int], None]
) -> None:
    """What is half copied is seen by nobody, and would take the room that is missing."""
    try:
        _copy(settings, identity, lane, found, beat)
    except BaseException:
        shutil.rmtree(settings.directory / "lanes" / f".{found.target}", ignore_errors=True)
        raise


def _copy(settings: SpoolSettings, identity: str, lane: Path, found: Adoption, beat: Callable[[int], None]) -> None:
    lanes = settings.directory / "lanes"
    staging = lanes / f".{found.target}"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(mode=0o700)
    state = _state(lane)
    for name in ("cache.db", "cache.db-wal", "cache.db-journal", "rebuilding"):
        if (lane / name).exists():
            _copy_file(lane / name, staging / name, beat)
    for folder in ("v", "damaged"):
        (staging / folder).mkdir(mode=0o700)
        if (lane / folder).is_dir():
            for entry in os.scandir(lane / folder):
                _copy_file(Path(entry.path), staging / folder / entry.name, beat)
        sync_directory(staging / folder)
    note = {"spool": identity, "path": str(lane), "time": time.time(), "state": state}
    write_durably(staging / ORIGIN, orjson.dumps(note).decode())
    _settle_index(staging)
    sync_directory(staging)
    staging.rename(lanes / found.target)
    sync_directory(lanes)


def _copy_file(source: Path, target: Path, beat: Callable[[int], None]) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            while count := os.sendfile(writing, reading, None, _STEP):
                beat(count)
        except OSError as error:
            if not is_unreadable(error):
                raise
            _copy_readable(reading, writing, source)
        os.fsync(writing)
    finally:
        os.close(reading)
        os.close(writing)


def _copy_readable(reading: int, writing: int, source: Path) -> None:
    """Up to where the other host's disk cannot be read: that one file is found damaged here, and the others come along."""
    while True:
        try:
            piece = os.read(reading, 4096)
        except OSError as error:
            if not is_unreadable(error):
                raise
            log.error("a file of the other spool cannot be read whole", file=str(source), error=str(error))
            return
        if not piece:
            return
        write_all(writing, [piece])


def _settle_index(lane: Path) -> None:
    """A damaged index is made again here. The books of the copy begin with what it brings along."""
    try:
        check_index(lane)
    except SpoolDamaged as error:
        rebuild(lane, str(error), nothing)
    cache = open_cache(lane)
    try:
        with transact(cache) as sql:
            kept = (
                "('waiting_groups', 'waiting_batches', 'waiting_bytes', 'letters_sequence', 'letters', 'letters_held',"
            )
            kept += " 'letters_why', 'letters_bytes', 'letters_file_bytes', 'states_bytes', 'states_compacted')"
            found = dict(sql("SELECT name, sum(value) FROM counter GROUP BY name").fetchall())
            sql(f"DELETE FROM counter WHERE name NOT IN {kept}")
            add(sql, "put", found.get("waiting_groups", 0))
            add(sql, "buried", found.get("letters", 0))
            add(sql, "decoded", found.get("letters", 0), "(adopted)")
    finally:
        cache.close()
        cache.disk.close()


def _mark(lane: Path, settings: SpoolSettings) -> None:
    note = {"by": (settings.directory / "id").read_text().strip(), "path": str(settings.directory)}
    write_durably(lane / ADOPTED, orjson.dumps(note).decode())
