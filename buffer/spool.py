"""The whole spool as the supervisor holds it: layout, lock, identity, ballast, budget, recovery."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from buffer import budget, outside
from buffer.checks import check_file_system, check_format, check_index, identity
from buffer.errors import SpoolDamaged, SpoolError, SpoolLocked, SpoolUnusable
from buffer.home import empty_adopted
from buffer.lane import ADOPTED, nothing, take_lock
from buffer.lean import structlog
from buffer.outside import LaneStats, find_position, group_positions, lowest_waiting_of
from buffer.rebuild import known_epochs, rebuild
from buffer.settings import SpoolSettings
from buffer.writer import Sweeper

__all__ = [
    "Fault",
    "Spool",
    "SpoolStats",
    "find_position",
    "group_positions",
    "lane_directory",
    "lowest_waiting_of",
]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that recovery found, and what it did."""

    lane: str
    what: str


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """All lanes together."""

    lanes: list[LaneStats]
    books: dict[str, int]


def lane_directory(spool: Path, spool_id: str, slot: int) -> Path:
    """Where a slot's lane lives."""
    return spool / "lanes" / f"{spool_id}-{slot}"


class Spool:
    """One per spool; holds the lock that refuses a second supervisor."""

    def __init__(self, settings: SpoolSettings, lock: int, identity: str) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.id = identity
        self._lock = lock
        self._level = 0
        self._closed = False
        self.run_directory = _run_directory(self.directory)

    @classmethod
    def open(cls, settings: SpoolSettings, *, beat: Callable[[], None] = nothing) -> Spool:
        """Raises SpoolLocked, SpoolTooNew or SpoolUnusable. The ballast goes first, before any lane is opened."""
        directory = settings.directory
        beat()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_file_system(settings)
            lock = take_lock(directory / "lock")
        except SpoolError as error:
            raise type(error)(str(error), error.hint) from error
        except OSError as error:
            raise SpoolUnusable(
                f"cannot use {directory} as a spool: {error.strerror}", "check path, owner and permissions"
            ) from error
        try:
            _release_ballast(directory)
            (directory / "lanes").mkdir(mode=0o700, exist_ok=True)
            check_format(directory)
            spool = cls(settings, lock, identity(directory))
            spool.tend()
        except OSError as error:
            os.close(lock)
            raise SpoolUnusable(
                f"cannot use {directory} as a spool: {error.strerror}", "check path, owner and permissions"
            ) from error
        except BaseException:
            os.close(lock)
            raise
        return spool

    def recover(self, beat: Callable[[], None] = nothing) -> list[Fault]:
        """Sweep every lane, rebuild damaged indexes. Nobody is at work: so letters without a row can be told from new ones."""
        faults = []
        for directory in outside.lane_directories(self.directory, adopted=True):
            if (directory / ADOPTED).exists():
                empty_adopted(directory, beat)
                faults.append(Fault(directory.name, "emptied: another spool has taken over what was in it"))
        for directory in outside.lane_directories(self.directory):
            beat()
            try:
                check_index(directory)
                Sweeper.open(directory, self.settings, beat=beat).close()
            except SpoolLocked:
                continue
            except (SpoolDamaged, sqlite3.DatabaseError) as error:
                faults.append(Fault(directory.name, f"index rebuilt: {error}"))
                rebuild(directory, str(error), beat, known_epochs(self.directory))
        return faults

    def lanes(self) -> list[LaneStats]:
        """Each lane's numbers."""
        return [outside.lane_stats(lane) for lane in outside.lane_directories(self.directory)]

    def stats(self) -> SpoolStats:
        """All of it."""
        lanes = self.lanes()
        return SpoolStats(lanes, outside.books(lanes))

    def level(self, lanes: list[LaneStats] | None = None) -> int:
        """0 pull, 1 stop."""
        used = outside.used_bytes(self.lanes() if lanes is None else lanes)
        free, inodes = outside.free_bytes(self.directory)
        self._level = budget.level(self.settings, self._level, used, free, inodes, self.has_ballast)
        return self._level

    def letters_level(self, lanes: list[LaneStats]) -> int:
        """0 bury, 1 the quota of dead letters is reached, which is one for all lanes."""
        return budget.letters_level(self.settings, sum(lane.dead_bytes for lane in lanes))

    @property
    def has_ballast(self) -> bool:
        """Whether it is in its place."""
        return (self.directory / "ballast").exists()

    def tend(self) -> None:
        """Once a second: give the ballast up on a full disk, make it again when there is room."""
        free, _ = outside.free_bytes(self.directory)
        path = self.directory / "ballast"
        if path.exists():
            if free < budget.BALLAST_RELEASE:
                log.error("the disk is full: ballast released, pulling stops", free_bytes=free)
                path.unlink()
        elif free >= min(self.settings.min_free_bytes, 1 << 40) + budget.BALLAST_MARGIN:
            _make_ballast(path)

    def close(self) -> None:
        """Give the spool back; twice is fine."""
        if not self._closed:
            self._closed = True
            os.close(self._lock)


def _run_directory(directory: Path) -> Path:
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    run = directory / "run"
    if not runtime:
        if run.is_symlink():
            run.unlink()
        run.mkdir(mode=0o700, exist_ok=True)
        return run
    if run.is_dir() and not run.is_symlink():
        shutil.rmtree(run)
    if not run.is_symlink() or run.readlink() != Path(runtime):
        run.unlink(missing_ok=True)
        run.symlink_to(runtime)
    return Path(runtime)


def _release_ballast(directory: Path) -> None:
    free, _ = outside.free_bytes(directory)
    if free < budget.BALLAST_RELEASE:
        (directory / "ballast").unlink(missing_ok=True)


def _make_ballast(path: Path) -> None:
    temporary = path.with_name(".ballast.new")
    with contextlib.suppress(OSError):
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, budget.BALLAST)
        finally:
            os.close(file)
        temporary.replace(path)
