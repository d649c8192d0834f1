"""Runs a workload on a real file system over the recorder, and makes the crash states out of what was recorded."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.buffer.power.recorder import Record, read_log
from tests.waiting import poll

MIB = 1 << 20
#: xfs refuses to be smaller than 300 MB.
SIZES = {"ext4": 256 * MIB, "xfs": 400 * MIB, "btrfs": 400 * MIB}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
#: With ext4's other policy, errors=continue, a block of metadata that could not be written is forgotten, and what was flushed
#: since is lost at the next mount: docs/operations.md says so too.
MOUNT = {"ext4": "noatime,errors=remount-ro", "xfs": "noatime", "btrfs": "noatime"}
#: A write is torn at such a boundary. On xfs at a block: its own recovery refuses to mount where a block of a directory is torn
#: inside (its head says that it is new, its CRC that it is not), whatever the program had written.
TORN_AT = {"ext4": 512, "xfs": 4096, "btrfs": 4096}


_NEW_NS, _NEW_FS = 0x00020000, 0x00000200


@contextmanager
def own_mounts() -> Iterator[None]:
    """Mounts from here on are seen by this thread and its children alone.

    Else a mount namespace that anybody makes meanwhile keeps a copy of each: its file system lives on after the umount, and writes
    into an image that is a later crash's by then.
    """
    libc, where = ctypes.CDLL(None, use_errno=True), Path.cwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        if libc.unshare(_NEW_NS):
            raise OSError(ctypes.get_errno(), "cannot unshare the mounts")
        run("mount", "--make-rprivate", "/")
        try:
            yield
        finally:
            libc.unshare(_NEW_FS)  # threads that were started since share it
            if libc.setns(before, _NEW_NS):
                raise OSError(ctypes.get_errno(), "cannot go back to the mounts of before")
            os.chdir(where)
    finally:
        os.close(before)


def run(*command: str | Path, timeout: float = 120) -> str:
    """Run it; its output. Raises with what it said when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def loop_mount(image: Path, kind: str, where: Path, *, check: bool = False) -> Iterator[Path]:
    """The file system in `image`, mounted at `where`; `check` runs e2fsck before, as a machine does after an I/O error."""
    where.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image).strip()
    try:
        if check and kind == "ext4":
            subprocess.run(["e2fsck", "-fy", device], check=False, timeout=60, capture_output=True)
        run("mount", "-t", kind, "-o", MOUNT[kind], device, where)
        try:
            yield where
        finally:
            run("umount", where)
    finally:
        subprocess.run(["losetup", "-d", device], check=False, timeout=60)


def record(kind: str, work: Path, workload: list[str], timeout: float = 120, failing: int = 0) -> list[Record]:
    """What the disk saw while `workload` ran with the mounted directory and the marks file as its last arguments.

    `failing`: that write of the workload's fails with EIO.
    """
    fuse, log, mounted = work / "fuse", work / "log", work / "mnt"
    fuse.mkdir()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.buffer.power.recorder", str(fuse), str(SIZES[kind]), str(log), str(failing)],
        stderr=subprocess.DEVNULL,
    )
    try:
        poll(lambda: (fuse / "disk").exists() or daemon.poll() is not None, "the recorder is mounted", 30)
        run(*MAKE[kind], fuse / "disk")
        with loop_mount(fuse / "disk", kind, mounted):
            marks = os.open(fuse / "marks", os.O_WRONLY)
            os.write(marks, b"mounted\n")
            os.close(marks)
            run(*workload, mounted, fuse / "marks", timeout=timeout)
    finally:
        poll(lambda: _unmounted(fuse) and daemon.poll() is not None, "the recorder ends", 120, 0.1)
    return list(read_log(log))


def _unmounted(where: Path) -> bool:
    """The loop device lets go of its file when the kernel comes to it: until then it is busy."""
    return not os.path.ismount(where) or subprocess.run(["umount", where], check=False, timeout=60).returncode == 0


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Power went after record number `at`; `fate` says what became of the writes since the last flush."""

    at: int
    fate: str
    """`none`, `all`, `some` (a random subset) or `torn` (a random subset, each cut at a sector)."""


def choose(records: list[Record], count: int, seed: int, after: str = "M") -> list[CrashPoint]:
    """`count` points after the mount (or after the first record of another kind), in order; the four fates in turn."""
    first = next(i for i, r in enumerate(records) if r.kind == after)
    chance = random.Random(seed)
    points = sorted(chance.randrange(first, len(records)) for _ in range(count))
    return [CrashPoint(at, ("some", "none", "torn", "all")[i % 4]) for i, at in enumerate(points)]


def survivors(volatile: list[Record], fate: str, sector: int, chance: random.Random) -> list[Record]:
    """Which of the unflushed writes reached the platter."""
    if fate == "none":
        return []
    if fate == "all":
        return volatile
    kept = [r for r in volatile if chance.random() < 0.5]
    if fate == "torn":
        return [_tear(r, sector, chance) for r in kept]
    return kept


def _tear(record: Record, sector: int, chance: random.Random) -> Record:
    sectors = max(1, len(record.data) // sector)
    return Record("W", record.offset, record.data[: chance.randrange(sectors + 1) * sector])


def crash_images(
    records: list[Record], points: list[CrashPoint], work: Path, kind: str, seed: int
) -> Iterator[tuple[CrashPoint, list[str], Path]]:
    """For each point: the marks written before it, and an image as the power cut left it."""
    chance = random.Random(seed)
    base, image = work / "base.img", work / "crash.img"
    applied, marks, volatile = 0, list[str](), list[Record]()
    with base.open("w+b", buffering=0) as disk:
        disk.truncate(SIZES[kind])
        for point in points:
            for here in records[applied : point.at + 1]:
                applied += 1
                if here.kind == "M":
                    marks.extend(here.data.decode().splitlines())
                elif here.kind == "W":
                    volatile.append(here)
                elif here.kind == "F":
                    for written in volatile:
                        os.pwrite(disk.fileno(), written.data, written.offset)
                    volatile = []
            run("cp", "--sparse=always", base, image)
            with image.open("r+b", buffering=0) as crashed:
                for kept in survivors(volatile, point.fate, TORN_AT[kind], chance):
                    os.pwrite(crashed.fileno(), kept.data, kept.offset)
            yield point, list(marks), image
