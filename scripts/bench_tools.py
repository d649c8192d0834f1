"""What the parts of `scripts/bench` share: figures, tables, CPU-seconds.

A part is a module with `run(given) -> list[Figure]`, named in `scripts.bench_run.PARTS`. It prints its own table and
returns what belongs into the last one, where each figure stands beside what design.md wants of it.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.memory import pss

MB = 1e6
TICKS = os.sysconf("SC_CLK_TCK")
__all__ = ["MB", "Figure", "Given", "Took", "cpu_seconds", "machine", "median", "pss", "table", "timed", "warm"]


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line said, and where to work."""

    work: Path
    megabytes: int = 1024
    """Raw, for the parts that move much."""
    gigabytes: int = 10
    """Of backlog."""
    batches: int = 1_000_000
    """Of backlog, tiny ones."""
    rounds: int = 3
    """Repeats of what is short; the best or the median counts, as the table says."""
    minutes: float = 1.0
    """Of load."""
    rate: float = 13.0
    """Raw MB a second of load."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the last table. `least`: more is better than `must`; else less is."""

    what: str
    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    least: bool = True

    @property
    def verdict(self) -> str:
        """Against the target, if there is one."""
        if self.must is None:
            return ""
        return "aim" if self._meets(self.aim) else "met" if self._meets(self.must) else "**missed**"

    def words(self, target: float | None) -> str:
        """A target."""
        return "" if target is None else f"{'≥' if self.least else '≤'} {target:g}"

    def _meets(self, target: float | None) -> bool:
        return target is not None and (self.value >= target if self.least else self.value <= target)


@dataclass(frozen=True, slots=True)
class Took:
    """Raw bytes that went through, seconds of the wall clock, CPU-seconds."""

    raw: float
    wall: float
    cpu: float

    @property
    def speed(self) -> float:
        """Raw MB a second."""
        return self.raw / MB / self.wall

    @property
    def rate(self) -> float:
        """Raw MB per CPU-second."""
        return self.raw / MB / self.cpu


def machine() -> str:
    """Date, processors, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    system = f"Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} × {model}, {system}"


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and of their children that have ended."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Markdown, ready for docs/performance.md."""
    sys.stdout.write(f"\n{title}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(map(str, row)) + " |\n")
    sys.stdout.flush()


def timed(work: Callable[[], object]) -> float:
    """Seconds of the wall clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def warm(size: int, work: Path) -> None:
    """Write as much to files that are then removed. A virtual machine may have given its free memory back to its host, and then
    the first use of a page costs ten times what writing it costs: chance would say on whom of the two it falls.
    """
    scratch, chunk = [work / f"scratch-{number}" for number in range(size >> 20)], bytes(1 << 20)
    for path in scratch:
        path.write_bytes(chunk)
    for path in scratch:
        path.unlink()


median = statistics.median
