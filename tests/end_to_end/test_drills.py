"""Three in the morning: something real is broken, and `sls-siem status` says whose trouble it is, and what to do.

One house for all that comes from outside; each drill mends what it broke and sees that all is well again.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.picture import blocks
from tests.buffer.power.machine import loop_mount
from tests.buffer.test_power import need_loop_and_fuse
from tests.end_to_end.books import assert_books
from tests.end_to_end.house import House
from tests.waiting import poll

#: One worker runs them all: they share a house.
pytestmark = pytest.mark.xdist_group("drills")
OTHER = "00000000-0000-4000-8000-00000000000f"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    work = tmp_path_factory.mktemp("drills")
    with House(work, shards=2, consumers=1, senders=1, sls_options=("--fill", "500")) as made:
        made.config.write_text(made.settings() + '[[route]]\ntopic = "*"\nindex = "cloud"\n')
        made.start()
        made.wait_delivered()
        well_again(made)
        yield made
        assert made.stop() == 0, made.tail()
        assert_books(made)


def said(house: House) -> str:
    """What somebody who was woken up reads; one line, however it is laid out."""
    done = house.run("status")
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def see(house: House, state: str, *expected: str) -> str:
    """Wait for the state, then read it as an operator does."""

    def missing() -> list[str]:
        found = house.status()
        told = " ".join(str(cell) for block in blocks(found, time.time()) for row in block.rows for cell in row)
        return [one for one in (state.upper(), *expected) if one not in told]

    poll(lambda: house.status() and not missing(), f"{missing()} of {house.status()}; {house.tail()}", 60, 0.1)
    text = said(house)
    for one in (state.upper(), *expected):
        assert one in text, f"{one!r} is not in: {text}"
    return text


def well_again(house: House) -> None:
    poll(lambda: house.status().get("state") == "running", f"all is well; {house.status()}; {house.tail()}", 60, 0.1)
    house.wait_delivered(60)


def nagios(house: House) -> tuple[int, str]:
    done = house.run("status", "--check")
    return done.returncode, done.stdout


def test_all_is_well(house: House) -> None:
    text = see(house, "running", "all is well", "the newest log came")  # children report once a second
    assert re.search(r"the newest log came \d", text), "whether it is SLS that gets nothing"
    code, line = nagios(house)
    assert (code, line.startswith("SLS-SIEM OK - running")) == (0, True)


def test_splunk_is_busy(house: House) -> None:
    house.hec.post("outage", on=True)
    house.sls.post("append", logs=200)
    see(house, "degraded", "503/9: Server is busy", "Splunk does not take", "it comes back by itself")
    assert nagios(house)[0] == 1
    house.hec.post("outage", on=False)
    well_again(house)


def test_the_token_is_revoked(house: House) -> None:
    house.hec.send("tokens", [{"value": OTHER}])
    house.sls.post("append", logs=200)
    see(house, "degraded", "403/4: Invalid token", "Splunk refuses the token", "hec.token", "enabled in Splunk")
    assert nagios(house)[0] == 2
    assert house.hec.ready["token"] not in said(house)
    house.hec.send("tokens", [{"value": house.hec.ready["token"]}])
    well_again(house)


def test_the_index_is_refused(house: House) -> None:
    house.hec.send("tokens", [{"value": house.hec.ready["token"], "indexes": ["main"]}])
    house.sls.post("append", logs=200)
    text = see(house, "degraded", "Incorrect index", "Splunk refuses an index", "index cloud", "200 events waiting")
    assert "allowed" in text, "the remedy"
    house.hec.send("tokens", [{"value": house.hec.ready["token"], "indexes": ["main", "cloud"]}])
    well_again(house)


def test_the_sls_key_is_revoked(house: House) -> None:
    house.sls.send("keys", [{"id": "another", "secret": "x"}])
    text = see(house, "degraded", "SLS refuses us", "source l")
    assert "access_key" in text, "the remedy names the setting"
    assert nagios(house)[0] == 2
    house.sls.send("keys", [{"id": "ak", "secret": "sk"}])
    house.sls.post("append", logs=200)
    well_again(house)


def test_a_child_hangs(house: House) -> None:
    """Stopped, as by a disk that does not come back. That it is ended and replaced later, tests of the loop hold."""
    pid = next(c["pid"] for c in house.status()["children"] if c["kind"] == "sender")
    os.kill(pid, signal.SIGSTOP)
    try:
        see(house, "degraded", "sender-0 hangs", "it is replaced at 180 s", "stacks are in the log")
        assert nagios(house)[0] == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    well_again(house)


def test_the_supervisor_is_killed(house: House) -> None:
    house.kill_tree()
    poll(lambda: "STALE" in said(house), "it is said within seconds", 30, 0.5)
    text = said(house)
    for one in ("stale since", "the supervisor is gone", "systemctl status sls-siem", "as of"):
        assert one in text
    assert nagios(house)[0] == 2
    house.start()
    well_again(house)


@contextlib.contextmanager
def small_disk(work: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own."""
    need_loop_and_fuse()
    image = work / "image"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    with loop_mount(image, "ext4", work / "disk") as mounted:
        yield mounted


@pytest.mark.root
def test_the_disk_is_nearly_full(tmp_path: Path) -> None:
    with small_disk(tmp_path, 420) as disk, House(tmp_path / "house", shards=2, consumers=1, senders=1) as house:
        house.config.write_text(house.settings().replace(str(house.work / "spool"), str(disk / "spool")))
        (house.work / "spool").symlink_to(disk / "spool")
        house.start()
        well_again(house)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        blob = os.open(disk / "somebody-else's", os.O_CREAT | os.O_WRONLY)
        os.posix_fallocate(blob, 0, free - (50 << 20))
        os.close(blob)
        house.sls.post("append", logs=200)
        see(house, "paused", "the disk is nearly full", "no room on the disk", "free space on this file system",
            "pulling is stopped")  # fmt: skip
        assert nagios(house)[0] == 2
        (disk / "somebody-else's").unlink()
        well_again(house)
        assert house.stop() == 0, house.tail()
        assert_books(house)
