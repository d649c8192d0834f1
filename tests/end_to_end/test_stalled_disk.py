"""A disk that stands still for longer than any patience: nobody is killed for it, and the operator is told that it is the disk."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.books import assert_books
from tests.end_to_end.day import FRAGILE, own_disk
from tests.end_to_end.day_traces import living
from tests.end_to_end.house import House
from tests.end_to_end.systemd import Systemd
from tests.waiting import poll

#: Seconds of patience, in place of 120 and 180; well over the eight or nine after which it is known who waits for the disk.
PUT, HANG = 1, 20


@contextlib.contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Every write waits in the kernel until it is over."""
    try:
        subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True, timeout=60)
        yield
    finally:  # also when freezing has taken too long: what stays frozen can never be unmounted
        subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True, timeout=60)


def page(house: House, listen: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{listen}/status", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def silent(found: dict[str, Any]) -> list[str]:
    """Children without a beat for so long that they would be killed."""
    return [one["name"] for one in found["children"] if one["beat_age"] > HANG]


@pytest.mark.root
@pytest.mark.parametrize("run_directory", ["beside the spool", "of its own"])
def test_a_disk_that_stands_still_is_said_and_kills_nobody(tmp_path: Path, run_directory: str) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "FRAGILE_PUT_SECONDS": str(PUT),
                 "FRAGILE_HANG_TIMEOUT": str(HANG)}  # fmt: skip
    if run_directory == "of its own":
        (tmp_path / "run").mkdir()
        variables["RUNTIME_DIRECTORY"] = str(tmp_path / "run")
    with contextlib.closing(Systemd(tmp_path / "notify")) as systemd, own_disk(tmp_path) as disk:
        if disk is None:
            pytest.skip("needs /dev/loop-control")
        with House(
            tmp_path / "house", shards=2, consumers=1, senders=1, program=FRAGILE, variables=variables,
            sls_options=("--fill", "2000"),
        ) as house:  # fmt: skip
            (disk / "spool").mkdir()
            house.spool.symlink_to(disk / "spool")
            house.hec.post("outage", on=True)
            house.start()
            systemd.hear("READY=1")
            poll(lambda: house.status().get("spool", {}).get("batches"), f"something waits; {house.tail()}", 60)
            before, listen = house.tree(), house.status()["supervisor"]["listen"]
            with frozen(disk):
                house.hec.post("outage", on=False)
                house.sls.post("append", logs=500)
                said = ("does not answer", "has not come back")
                poll(
                    lambda: any(s in page(house, listen)["reason"] for s in said),
                    f"{page(house, listen)['reason']}",
                    60,
                )
                systemd.forget()
                systemd.hear("WATCHDOG=1", PUT + HANG + 3)
                poll(lambda: silent(page(house, listen)), "somebody would have been killed")
                found = page(house, listen)
                assert found["state"] == "paused", found["reason"]
                hold = next(one for one in found["holds"] if one["name"] == "stalled")
                assert any(name in hold["error"] for name in silent(found))
                assert "dmesg" in hold["hint"]
                with urllib.request.urlopen(f"http://{listen}/healthz", timeout=60) as answer:
                    assert answer.status == 200
            house.wait_delivered()
            poll(lambda: house.status().get("state") == "running", f"all is well; {house.status()}", 60)
            assert house.tree() == before, house.tail()
            assert "the disk does not answer" in house.log()
            assert "child hangs" not in house.log()
            assert house.stop() == 0, house.tail()
            assert_books(house)
            assert not living(before[:1])
