"""One shard in trouble: it is not hammered, not counted twice, not held back from others, and slows nobody else."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.waiting import poll
from tests.worker.consuming import House, source_of, stored


def holding(house: House, shards: int, slot: int = 0) -> None:
    poll(lambda: len(house.report(slot)["facts"]["shards"]) == shards, f"{shards} shards are held")


def pulls(sls: SlsEmulator, shard: int) -> int:
    return len(sls.store().shards[shard].pulls)


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [("pull", 400, "ShardNotExist"), ("pull", 404, "ShardNotExsit"), ("checkpoint", 404, "ConsumerNotMatch")],
)
def test_a_shard_that_sls_gives_and_then_refuses_is_not_hammered(
    tmp_path: Path, operation: str, status: int, code: str
) -> None:
    """While SLS is upgraded its parts disagree for a minute; the SDK's consumer asks eleven times a second."""
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        house.start()
        holding(house, 2)
        fault = sls.faults.add("status", operation, shard=0, status=status, code=code)
        sls.fill(1_000)
        poll(lambda: fault.happened >= 6, "it is refused, given again, refused again, and so on")
        refused = [one.time for one in sls.service.requests if one.fault]
        assert min(after - before for before, after in pairwise(refused)) > 0.2
        beats = [one.time for one in sls.service.requests if one.operation == "heartbeat" and one.time > refused[0]]
        assert len(beats) < 10 * (beats[-1] - beats[0]) + 5, "nor does it beat faster and faster"
        poll(lambda: sls.checkpoints("siem")[1] == sls.store().shards[1].end, "the other shard goes on")
        sls.faults.clear()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls)


def test_a_read_quota_slows_its_shard_only(tmp_path: Path) -> None:
    with SlsEmulator(shards=3, knobs=Knobs(max_pull_bytes=20_000)) as sls:
        sls.fill(24_000)
        fault = sls.faults.add("status", "pull", shard=1, status=403, code="ShardReadQuotaExceed")
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            ends = {number: shard.end for number, shard in sls.store().shards.items() if number != 1}
            poll(lambda: ends.items() <= sls.checkpoints("siem").items(), "the other two are read to their ends")
            assert pulls(sls, 1) == 0
            asked = [one.shard for one in sls.service.requests if one.operation == "pull"]
            refused = [place for place, shard in enumerate(asked) if shard == 1]
            assert max(after - before for before, after in pairwise([*refused, len(asked)])) > 20, (
                "while it waits, the others are read back to back"
            )
            poll(lambda: (house.hold() or {}).get("error", "").find("ShardReadQuotaExceed") >= 0, "the hold says so")
            assert "split the shard" in (house.hold() or {})["hint"]
            before = fault.happened
            house.turns(2)
            assert fault.happened - before <= 8
            sls.faults.clear()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_what_retention_took_is_counted_once_though_we_are_killed_before_the_next_checkpoint(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls, consumer_timeout=2.0), consumers=2) as house:
            house.start(0)
            house.wait_drained(sls)
            assert house.stop(0) == 0
            at = sls.store().shards[0].end
            sls.fill(4_000)
            lost = sls.trim(0, (at - sls.store().shards[0].first) + 11) - at
            sls.faults.add("status", "checkpoint", status=500)

            def counted() -> int:
                return sum(lane.counters.get(("lost_to_retention_groups", "audit"), 0) for lane in house.spool.lanes())

            spoiled = sls.faults.add("no_headers", "pull")  # the earliest log that is left cannot be put
            for slot in (0, 1, 0):
                before = spoiled.happened
                house.start(slot)
                poll(lambda: counted() and spoiled.happened > before + 2, "it is counted, and tries to read on")  # noqa: B023
                house.kill(slot)
                assert counted() == lost
            sls.faults.clear()
            house.start(0)
            house.wait_drained(sls)
            assert house.stop(0) == 0
            assert counted() == lost
            kept = Counter({one: 1 for one in stored(sls) if one[1] < at or one[1] >= at + lost})
            assert house.groups() == kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
def test_shards_asked_back_from_a_host_whose_disk_is_full_go_at_once(tmp_path: Path, small_disk: Path) -> None:
    sls = SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=300_000))
    with sls, House(small_disk / "spool", source_of(sls)) as full, House(tmp_path / "spool", source_of(sls)) as other:
        full.start()
        holding(full, 2)
        (small_disk / "filler").write_bytes(b"\0" * (38 << 20))
        sls.fill(20_000)
        poll(lambda: full.hold(kind="disk"), "a hold")
        other.start()
        poll(lambda: len(set(sls.owners("siem").values()) - {""}) == 2, "one shard has moved, disk or no disk")
        moved = next(number for number, owner in sls.owners("siem").items() if other.spool.id in owner)
        poll(lambda: sls.checkpoints("siem")[moved] == sls.store().shards[moved].end, "the other host reads it")
        (small_disk / "filler").unlink()
        full.wait_drained(sls)
        assert full.stop() == 0
        assert other.stop() == 0
        assert full.groups() + other.groups() == stored(sls)


def test_a_pull_that_hangs_keeps_no_checkpoint_back_and_no_stop(tmp_path: Path) -> None:
    """The SDK's shutdown waits until whatever hangs comes back."""
    with SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(2_000)
        shard = sls.store().shards[0]
        hung = sls.faults.add("hang", "pull", shard=0, seconds=60, after=2)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            poll(lambda: hung.happened, "the third pull of a shard hangs")
            poll(lambda: sls.checkpoints("siem").get(0) == shard.high_water, "what came before is put and checkpointed")
            poll(lambda: sls.checkpoints("siem").get(1) == sls.store().shards[1].end, "the other shard goes on")
            since = sls.clock.now()
            assert house.stop() == 0
            assert hung.happened == 1
            beats = [one.time for one in sls.store().heartbeats if one.time > since]
            assert len(beats) < 4 * (beats[-1] - since) + 5, "it does not beat faster because it goes"
            assert not any(one.error for one in sls.store().checkpoints)
            sls.faults.clear()
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_cursor_that_is_not_answered_keeps_no_stop(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        sls.fill(500)
        house.start()
        house.wait_drained(sls)
        hung = sls.faults.add("hang", "cursor", seconds=60)
        sls.split(0)
        sls.fill(500)
        poll(lambda: hung.happened, "where a new shard begins is not answered")
        assert house.stop() == 0
        sls.faults.clear()
        house.start()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls)


def test_a_shard_whose_pull_hangs_goes_to_another_all_the_same(tmp_path: Path) -> None:
    with SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls), consumers=2) as house:
            house.start(0)
            house.wait_drained(sls)
            hung = sls.faults.add("hang", "pull", seconds=60, count=2)
            poll(lambda: hung.happened == 2, "both pulls hang")
            house.start(1)
            poll(lambda: len(set(sls.owners("siem").values()) - {""}) == 2, "one has moved", 20)
            sls.fill(1_000)
            moved = next(number for number, owner in sls.owners("siem").items() if owner.endswith("-1"))
            poll(lambda: sls.checkpoints("siem")[moved] == sls.store().shards[moved].end, "and is read")
            assert sls.faults.dump()[0]["happened"] == 2
            assert [house.stop(slot) for slot in (0, 1)] == [0, 0]
            house.start(0)
            house.wait_drained(sls)
            assert house.stop(0) == 0
            assert house.groups() == stored(sls)
