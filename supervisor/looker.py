"""What the disk says, looked up by a thread of its own: the loop never waits for a disk.

The thread's reason: a disk that stands still, or a lane whose writer holds the index while its flush takes long, would stop the
loop, and with it signals, restarts and systemd's watchdog, which would then kill what only waits. So everything of the loop
that touches the spool's file system once a second happens here, and the loop goes on with what was seen last.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buffer import outside
from buffer.errors import SpoolError
from buffer.outside import LaneStats
from buffer.spool import Spool
from supervisor import memory, status
from worker import logs
from worker.report import write_atomically

log = logs.get_logger()
#: Seconds that the loop waits for a look, which takes milliseconds; after which the disk counts as standing still.
PATIENCE, STALLED_AFTER = 0.2, 5.0
#: Seconds between two sums of the tree's PSS: milliseconds a process, and whoever holds the lock of its memory may wait for a disk.
PSS_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the spool."""

    lanes: list[LaneStats] = field(default_factory=list)
    spool: dict[str, Any] = field(default_factory=dict)
    """As `spool stats`, without what is reckoned over time."""
    level: int = 0
    letters_level: int = 0
    ballast: bool = True
    free: int = 0
    """Bytes."""
    inodes: int = 0
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """child → what it last wrote."""
    pss: int = 0
    """Bytes of the whole tree, what is shared counted once."""
    unreadable: str = ""
    """Why nothing could be seen; the numbers are those of before."""


class Looker:
    """The thread, and what it saw last."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._pss_at = 0.0
        self.last = Look()
        self.last = self._see((), ())
        self._wanted: tuple[Sequence[str], Sequence[int]] | None = None
        self._picture = b""
        self._begun = 0.0
        self._work, self._idle = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="looker", daemon=True)
        self._thread.start()

    def look(self, names: Sequence[str], pids: Sequence[int]) -> Look:
        """A new one, or where that takes too long the last. `names`: the children whose reports are wanted; `pids`: the tree."""
        self._wanted = names, pids
        self._ask(PATIENCE)
        return self.last

    def show(self, picture: bytes, *, wait: float = 0.0) -> None:
        """Write status.json, waiting at most so many seconds for it. On a full disk it is not written."""
        self._picture = picture
        self._ask(wait)

    def stalled(self, now: float) -> float:
        """Seconds for which the disk has not answered; 0 while it does. `now`: monotonic."""
        begun = self._begun
        return now - begun if begun and now - begun > STALLED_AFTER else 0.0

    def _ask(self, patience: float) -> None:
        self._idle.clear()
        self._work.set()
        self._idle.wait(patience)

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            self._begun = time.monotonic()
            try:
                self._turn()
            except Exception as error:  # without this thread no child would ever be started again
                log.error("defect", exc_info=error)
                self.last = replace(self.last, level=1, unreadable=f"{type(error).__name__}, a defect: see the log")
            self._begun = 0.0
            self._idle.set()

    def _turn(self) -> None:
        picture, self._picture = self._picture, b""
        wanted, self._wanted = self._wanted, None
        if picture:
            self._write(picture)
        if wanted is not None:
            self.last = self._see(*wanted)

    def _write(self, picture: bytes) -> None:
        path = self._spool.run_directory / "status.json"
        write_atomically(path, picture)
        with contextlib.suppress(OSError):
            path.chmod(0o600)

    def _see(self, names: Sequence[str], pids: Sequence[int]) -> Look:
        spool, before, pss = self._spool, self.last, self._sum(pids)
        reports = status.read_reports(Path(spool.run_directory), names)
        with contextlib.suppress(OSError, SpoolError):
            spool.tend()
        try:
            lanes = spool.lanes()
            level = spool.level(lanes)
            free, inodes = outside.free_bytes(spool.directory)
        except (SpoolError, OSError) as error:
            log.error("the spool cannot be read", error=str(error), hint="look at the disk")
            # As last seen: counters never go back.
            shown = before.spool or self._document([], 1)
            return Look(before.lanes, shown, 1, before.letters_level, before.ballast, 0, 0, reports, pss, str(error))
        return Look(
            lanes,
            self._document(lanes, level),
            level,
            spool.letters_level(lanes),
            spool.has_ballast,
            free,
            inodes,
            reports,
            pss,
        )

    def _sum(self, pids: Sequence[int]) -> int:
        now = time.monotonic()
        if not pids or now < self._pss_at:
            return self.last.pss
        self._pss_at = now + PSS_EVERY
        return memory.pss(pids)

    def _document(self, lanes: list[LaneStats], level: int) -> dict[str, Any]:
        spool = self._spool
        return outside.document(spool.directory, lanes, spool.settings.max_bytes, level, spool.has_ballast)
