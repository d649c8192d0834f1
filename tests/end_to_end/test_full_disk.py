"""A file system that is full to the last byte, by somebody else's doing, while Splunk is away; and the whole tree killed on it.

The witness is the file system (no byte is left) and the emulators' own records.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buffer.power.machine import MIB, loop_mount, run
from tests.buffer.test_power import need_loop_and_fuse
from tests.end_to_end.books import assert_books
from tests.end_to_end.house import House
from tests.waiting import poll

SIZE = 320 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    need_loop_and_fuse()
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    with loop_mount(image, "ext4", tmp_path / "disk") as mounted:
        yield mounted


def fill(disk: Path, path: Path) -> None:
    """All that is left, down to single blocks, until not a byte more can be written by anybody: whoever is at work meanwhile
    gives blocks back, of what there was no room for, and of the report that a newer one replaces."""

    def is_full() -> bool:
        _fill(path)
        return free(disk) == 0

    poll(is_full, "the disk is full")


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    os.fsync(file.fileno()) if file.write(bytes(size)) < size else None


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def level(listen: str) -> int:
    """Of the spool, as the supervisor tells."""
    with urllib.request.urlopen(f"http://{listen}/status", timeout=60) as answer:
        found: int = json.load(answer)["spool"]["level"]
    return found


@pytest.mark.root
@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_the_backlog_drains_on_a_full_disk_also_after_a_kill(mode: str, tmp_path: Path, disk: Path) -> None:
    with house_on(disk, tmp_path, mode) as house:
        others = disk / "somebody-else's"
        listen = house.status()["supervisor"]["listen"]
        _fill(others)
        poll(lambda: not (disk / "ballast").exists(), "the ballast is given up", 60)
        # Not out of status.json: the ballast's room may be taken already.
        poll(lambda: level(listen) == 1, "pulling stops", 60)
        fill(disk, others)  # the ballast's room too
        house.kill_tree()
        fill(disk, others)
        waiting = sum(1 for _ in disk.glob("lanes/*/v/*.val"))
        assert waiting > 0
        os.truncate(
            others, others.stat().st_size - 8 * MIB
        )  # somebody gives back a little: less than pulling would need
        drains(house, disk, others)


@pytest.mark.root
@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_what_is_started_on_a_disk_without_a_free_byte_gives_up_its_ballast_and_drains(
    mode: str, tmp_path: Path, disk: Path
) -> None:
    with house_on(disk, tmp_path, mode) as house:
        house.kill_tree()
        others = disk / "somebody-else's"
        fill(disk, others)
        assert (disk / "ballast").exists()
        drains(house, disk, others)


@contextlib.contextmanager
def house_on(disk: Path, tmp_path: Path, mode: str) -> Iterator[House]:
    """Running on that disk, with a backlog: Splunk is away."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "spool").symlink_to(disk)
    with House(
        tmp_path / "work", shards=4, consumers=2, senders=2, sls_options=("--fill", "60MB"),
        variables={"SLS_SIEM_JOURNAL_MODE": mode},
    ) as house:  # fmt: skip
        house.config.write_text(house.settings().replace('min_free_bytes = "64MiB"', 'min_free_bytes = "16MiB"'))
        house.hec.post("outage", on=True)
        house.start()
        poll(lambda: house.status().get("spool", {}).get("groups", 0) > 100, "a backlog", 60)
        yield house


def drains(house: House, disk: Path, others: Path) -> None:
    """Started again, it sends all that waits; with room again it goes on pulling."""
    house.start()
    poll(lambda: house.status().get("spool", {}).get("level") == 1, "it runs, pulling is stopped", 60)
    house.hec.post("outage", on=False)
    poll(lambda: house.status()["spool"]["batches"] == 0, f"it drains; {house.tail()}", 90, 0.1)
    assert not (disk / "ballast").exists() or free(disk) > 0
    house.sls.post("append", shard=0, logs=200)
    others.unlink()
    house.wait_delivered()
    poll((disk / "ballast").exists, "the ballast is back", 60)
    assert house.stop() == 0
    assert_books(house)
