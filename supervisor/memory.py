"""The only door to psutil: how much the process tree uses, what it may use, and the steps between.

Usage is the sum of rss - shared over the tree, never the cgroup's `current`: that counts the spool's page cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from buffer.settings import MIB

SHARE = 0.8
#: Up at, down below; of the budget.
STEPS = ((0.70, 0.65), (0.85, 0.78), (0.95, 0.88))
SAMPLES = 3
RECYCLE_EVERY = 300.0


def budget(setting: int | None) -> int:
    """Bytes: the setting, or 80 % of what machine or cgroup allow."""
    if setting is not None:
        return setting
    return int(SHARE * min([psutil.virtual_memory().total, *cgroup_limits()]))


def cgroup_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Of every cgroup above us, version 2 and 1; none where there is no limit."""
    found = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
            if controllers and "memory" not in controllers.split(","):
                continue
            for folder in [base / path.strip("/"), *(base / path.strip("/")).parents]:
                with contextlib.suppress(OSError, ValueError):
                    found.append(int((folder / name).read_text()))
                if folder == base:
                    break
    return [limit for limit in found if 0 < limit < 1 << 60]


def in_flight_bytes(budget_bytes: int, children: int) -> int:
    """The first guard: what one child may hold of data, so that a burst cannot happen."""
    return max(MIB, budget_bytes // (4 * max(children, 1)))


def usage(pids: list[int]) -> dict[int, int]:
    """pid → rss - shared, bytes; the dead are left out."""
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            info = psutil.Process(pid).memory_info()
            found[pid] = max(0, info.rss - info.shared)
    return found


def pss(pids: Iterable[int]) -> int:
    """The honest footprint; dear, so for status only."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def level(now: int, used: int, budget_bytes: int) -> int:
    """0 to 3: up at 70, 85 and 95 %, down only well below."""
    share = used / budget_bytes
    reached = sum(share >= up for up, _ in STEPS)
    if reached >= now:
        return reached
    return max(reached, max((step for step in range(1, now + 1) if share >= STEPS[step - 1][1]), default=0))


@dataclass(slots=True)
class Recycler:
    """Which child has been too large for three samples; one at a time, at most every five minutes."""

    over: dict[int, int] = field(default_factory=dict)
    last: float = -RECYCLE_EVERY

    def choose(self, now: float, sizes: dict[int, int], budget_bytes: int, memory_level: int) -> int | None:
        """The pid to recycle, or None. `sizes` are the children's."""
        limit = max(256 * MIB, 2 * budget_bytes // max(len(sizes), 1))
        largest = max(sizes, key=lambda pid: sizes[pid], default=None)
        suspects = {pid for pid, size in sizes.items() if size > limit}
        if memory_level >= 3 and largest is not None:
            suspects.add(largest)
        self.over = {pid: self.over.get(pid, 0) + 1 for pid in suspects}
        ready = [pid for pid, samples in self.over.items() if samples >= SAMPLES]
        if not ready or now - self.last < RECYCLE_EVERY:
            return None
        self.last = now
        return max(ready, key=lambda pid: sizes[pid])


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    sizes: dict[int, int]
    """pid → bytes, ours too."""
    used: int
    level: int
    recycle: int | None
    """The pid that is to go, at most one in five minutes."""


class Guard:
    """Looks once a second; the loop acts."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget = budget_bytes
        self._level = 0
        self._recycler = Recycler()

    def look(self, now: float, own: int, children: list[int]) -> Seen:
        """Sizes, level, and who is to be recycled."""
        sizes = usage([own, *children])
        used = sum(sizes.values())
        self._level = level(self._level, used, self.budget)
        mine = {pid: sizes[pid] for pid in children if pid in sizes}
        return Seen(sizes, used, self._level, self._recycler.choose(now, mine, self.budget, self._level))
