"""What a house holds and leaves behind: processes, descriptors, files, memory. Witness: the kernel."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buffer.disk import is_spare
from tests.end_to_end.house import House
from tests.waiting import poll

#: Files that a lane keeps for its next puts.
SPARES = 16


def living(groups: Sequence[int]) -> dict[int, str]:
    """pid → command of everything that lives in a session of ours, from the kernel."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) in groups and fields[0] != "Z":
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().decode().strip("\0")
    return found


def descriptors(pid: int) -> int:
    """Open files, sockets and pipes."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def pss(pids: Sequence[int]) -> int:
    """Bytes, what is shared counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def moments(house: House) -> Iterator[None]:
    """Three, each behind another status.json."""
    for _ in range(3):
        before = house.status()["time"]
        poll(lambda: house.status().get("time", before) != before, "the supervisor writes")  # noqa: B023
        yield


def least_descriptors(house: House, pid: int) -> int:
    """Without those of a moment: each second the supervisor has indexes and reports open for some milliseconds."""
    return min(descriptors(pid) for _ in moments(house))


def files_of(house: House) -> tuple[str, ...]:
    """What lies in the spool for more than a moment: seen in most of three looks."""
    spool, seen = house.spool.resolve(), Counter[str]()
    for _ in moments(house):
        seen.update(str(one.relative_to(spool)) for one in spool.rglob("*") if one.is_file() and not is_spare(one))
    return tuple(sorted(name for name, times in seen.items() if times > 1))


@dataclass(frozen=True, slots=True)
class Traces:
    """What a quiet house holds."""

    supervisor_descriptors: int
    most_descriptors: int
    """Of any child."""
    memory: int
    files: tuple[str, ...]
    """Of the spool, but spare files, whose names are random, and what is being written at this moment."""
    spares: int
    """Of any lane."""

    @classmethod
    def of(cls, house: House) -> Traces:
        status = house.status()
        children = [one["pid"] for one in status["children"]]
        own = status["supervisor"]["pid"]
        spool = house.spool.resolve()
        spares = {lane: sum(map(is_spare, lane.glob("v/*.val"))) for lane in (spool / "lanes").iterdir()}
        return cls(
            least_descriptors(house, own), max(map(descriptors, children)), pss([own, *children]), files_of(house),
            max(spares.values()),
        )  # fmt: skip

    def assert_no_more_than(self, before: Traces) -> None:
        """Connections come and go with the shards that a child has; memory breathes."""
        assert self.supervisor_descriptors == before.supervisor_descriptors
        assert self.most_descriptors <= before.most_descriptors + 4
        assert self.files == before.files, set(self.files) ^ set(before.files)
        assert self.spares <= SPARES
        assert self.memory < 1.3 * before.memory + (32 << 20)

    def compared(self, after: Traces) -> str:
        """In words."""
        return (
            f"{len(self.files)} files before and {len(after.files)} after, {self.supervisor_descriptors} and "
            f"{after.supervisor_descriptors} descriptors of the supervisor, {self.most_descriptors} and "
            f"{after.most_descriptors} of a child, {self.memory >> 20} and {after.memory >> 20} MiB"
        )
