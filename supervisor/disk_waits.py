"""Who waits for a disk that does not answer, as the kernel has it.

A thread in the uninterruptible sleep (D) that has not run since it was last looked at. No signal reaches it, so to kill its
process is of no use; and whoever waits for a lock that it holds (in SQLite, of the same lane) waits for the disk as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds in one and the same sleep after which it counts: a slow flush is none.
STANDS = 2.0


@dataclass(slots=True)
class DiskWaits:
    """Looked at about once a second; `sleeping` is pid, thread, switches → since when (monotonic seconds)."""

    proc: Path = Path("/proc")
    sleeping: dict[tuple[int, str, str], float] = field(default_factory=dict)

    def look(self, now: float, pids: Sequence[int]) -> dict[int, float]:
        """pid → seconds for which a thread of it has waited; those that do not wait are left out."""
        seen = {(pid, *one): now for pid in pids for one in self._sleepers(pid)}
        self.sleeping = {key: self.sleeping.get(key, when) for key, when in seen.items()}
        found: dict[int, float] = {}
        for (pid, _, _), since in self.sleeping.items():
            if now - since >= STANDS:
                found[pid] = max(found.get(pid, 0.0), now - since)
        return found

    def _sleepers(self, pid: int) -> Iterator[tuple[str, str]]:
        """Threads in D, each with how often it has been given the processor: the same number is the same sleep."""
        for status in (self.proc / str(pid) / "task").glob("*/status"):
            with contextlib.suppress(OSError, KeyError):
                lines = dict(line.split(":\t", 1) for line in status.read_text(errors="replace").splitlines())
                if lines["State"].startswith("D"):
                    yield (
                        status.parent.name,
                        f"{lines['voluntary_ctxt_switches']} {lines['nonvoluntary_ctxt_switches']}",
                    )
