"""`start` counts in a group's first run and in no other, whoever is killed, however many hosts begin at once."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll
from tests.worker.consuming import House, source_of, stored


def holding(house: House, shards: int, slot: int = 0) -> None:
    poll(lambda: len(house.report(slot)["facts"]["shards"]) == shards, f"{shards} shards are held")


def forced(sls: SlsEmulator) -> dict[int, int]:
    """Shard -> the cursor that was saved by force, and accepted."""
    return {one.shard: one.cursor for one in sls.store().checkpoints if one.force and not one.error}


def test_killed_between_making_the_group_and_saving_where_it_starts_nothing_since_is_skipped(tmp_path: Path) -> None:
    with SlsEmulator(shards=4) as sls, House(tmp_path / "spool", source_of(sls, start="end"), consumers=2) as house:
        sls.fill(2_000)
        before = stored(sls)
        hung = sls.faults.add("hang", "checkpoint", seconds=60, after=1)
        house.start()
        poll(lambda: hung.happened, "one checkpoint is saved, the next one hangs")
        house.kill()
        sls.faults.clear()
        sls.fill(2_000)
        house.start(0)
        house.start(1)
        house.wait_drained(sls)
        assert [house.stop(slot) for slot in (0, 1)] == [0, 0]
        assert house.groups() == stored(sls) - before


@pytest.mark.parametrize("kind", ["drop_after", "status_after"])
def test_when_the_answer_to_making_the_group_is_lost_start_still_means_that_moment(tmp_path: Path, kind: str) -> None:
    with SlsEmulator(shards=3) as sls, House(tmp_path / "spool", source_of(sls, start="end")) as house:
        sls.fill(1_500)
        before = stored(sls)
        lost = sls.faults.add(kind, "create_group", count=1)
        house.start()
        poll(lambda: lost.happened, "it is made, and we do not know")
        sls.fill(1_500)
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls) - before
        assert not forced(sls), "nobody forces who is not certain to have made it"


def test_killed_before_it_knows_that_the_group_is_made_nothing_since_is_skipped(tmp_path: Path) -> None:
    with SlsEmulator(shards=3) as sls, House(tmp_path / "spool", source_of(sls, start="end"), consumers=2) as house:
        sls.fill(1_500)
        before = stored(sls)
        lost = sls.faults.add("drop_after", "create_group", count=1)
        hung = sls.faults.add("hang", "list_groups", seconds=60, after=2)
        house.start()
        poll(lambda: lost.happened and hung.happened, "it is made, and we do not know")
        house.kill()
        sls.faults.clear()
        sls.fill(1_500)
        house.start(1)
        house.wait_drained(sls)
        assert house.stop(1) == 0
        assert house.groups() == stored(sls) - before
        assert not list((tmp_path / "spool").glob("starts-*")), "what was remembered until then is gone"


def test_while_there_is_no_group_another_start_may_still_be_set(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls, start="end")) as house:
        sls.fill(1_000)
        refused = sls.faults.add("status", "create_group", status=403, code="ConsumerGroupQuotaExceed")
        house.start()
        poll(lambda: refused.happened, "none is made")
        assert house.stop() == 0
        sls.faults.clear()
        house.read(source_of(sls, start="begin"))
        house.start()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls)


def test_a_shard_that_ends_while_the_group_is_made_keeps_nobody_out(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls, start="begin")) as house:
        sls.fill(1_000)
        hung = sls.faults.add("status", "checkpoint", shard=1, status=500)
        house.start()
        poll(lambda: hung.happened, "the group is made, and a checkpoint is still to be saved")
        gone = sls.store().shards.pop(1)
        sls.faults.clear()
        poll(lambda: sls.drained("siem"), "the other one is read")
        assert house.stop() == 0
        assert gone.framed
        assert house.groups() == stored(sls)


def test_a_group_deleted_while_we_were_away_is_made_again_where_we_were(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls, start="end")) as house:
        house.start()
        holding(house, 2)
        sls.fill(1_000)
        house.wait_drained(sls)
        assert house.stop() == 0
        with SlsClient(sls) as client:
            client.sdk.delete_consumer_group("p", "l", "siem")
        sls.fill(1_000)
        sls.split(0)
        sls.fill(1_000)
        house.start()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls)


def test_a_group_deleted_under_two_hosts_skips_nothing_although_shards_change_hands(tmp_path: Path) -> None:
    sls = SlsEmulator(shards=4)
    with sls, House(tmp_path / "one") as one, House(tmp_path / "two") as two:
        for house in (one, two):
            house.read(source_of(sls, start="end"))
            house.start()
        holding(one, 2)
        holding(two, 2)
        sls.fill(2_000)
        poll(lambda: sls.drained("siem"), "both read")
        two.kill()
        with SlsClient(sls) as client:
            client.sdk.delete_consumer_group("p", "l", "siem")
        sls.fill(2_000)
        poll(lambda: sls.drained("siem"), "one has all of them")
        assert one.stop() == 0
        assert not stored(sls) - (one.groups() + two.groups())


def test_a_logstore_made_anew_is_read_from_its_beginning_although_start_is_end(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls, start="end")) as house:
        house.start()
        holding(house, 2)
        sls.fill(1_000)
        house.wait_drained(sls)
        assert house.stop() == 0
        had = house.groups()
        sls.add_logstore("l", 3)
        sls.fill(1_000)
        house.start()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == had + stored(sls)


def test_hosts_that_begin_at_once_agree_on_one_start(tmp_path: Path) -> None:
    """Whoever makes the group, nobody takes a shard whose start is not saved yet for one that was born later."""
    sls = SlsEmulator(shards=6)
    with sls, House(tmp_path / "one") as one, House(tmp_path / "two") as two:
        sls.fill(6_000)
        sls.feeder.start(2_000, sls.store(), None)
        sls.faults.add("delay", "checkpoint", seconds=0.3, count=6)
        for house in (one, two):
            # A third of the time-out is the others' patience with who makes the group, who needs two seconds here.
            house.read(source_of(sls, start="end", consumer_timeout=24.0))
            house.start()
        poll(lambda: len(set(sls.owners("siem").values()) - {""}) == 2, "both hold shards")
        poll(lambda: len(forced(sls)) == 6, "somebody said where it starts")
        poll(lambda: len(one.groups()) and len(two.groups()), "both read")
        sls.feeder.stop()
        poll(lambda: sls.drained("siem"), "all is read")
        assert one.stop() == 0
        assert two.stop() == 0
        wanted = Counter({(shard, at): 1 for shard, at in stored(sls) if at >= forced(sls)[shard]})
        assert one.groups() + two.groups() == wanted


@pytest.mark.parametrize("ordered", [False, True])
def test_start_end_skips_nothing_that_is_written_to_children_of_splits_and_merges(
    tmp_path: Path, ordered: bool
) -> None:
    sls = SlsEmulator(shards=2)
    # Children of an ordered group wait until it is seen that their parents are closed: once in a time-out.
    with sls, House(tmp_path / "spool", source_of(sls, start="end", consumer_timeout=6.0), consumers=2) as house:
        sls.fill(2_000)
        before = stored(sls)
        if ordered:
            with SlsClient(sls) as client:
                client.sdk.create_consumer_group("p", "l", "siem", 6, in_order=True)
        house.start(0)
        poll(lambda: set(sls.checkpoints("siem").values()) == {one.end for one in sls.store().shards.values()}, "start")
        children = sls.split(0)
        sls.fill(2_000)
        house.start(1)
        sls.merge(children[0].number)
        sls.fill(2_000)
        poll(lambda: sls.drained("siem"), "parents and children are read to their ends", 90)
        assert [house.stop(slot) for slot in (0, 1)] == [0, 0]
        assert house.groups() == stored(sls) - before


@pytest.mark.parametrize(("start", "hours"), [("begin", 100), ("-5h", 5), ("-0.5d", 12), ("ISO", 7)])
def test_each_form_of_start_is_resolved_once_by_who_makes_the_group(tmp_path: Path, start: str, hours: float) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=100_000)) as sls:
        sls.fill(2_000)
        shard, now = sls.store().shards[0], sls.clock.now()
        for place in range(len(shard.received)):
            shard.received[place] = now - 3600 * 20 + 3600 * 20 * place / len(shard.received)
        wanted = shard.at_time(now - 3600 * hours, now, sls.store().ttl)
        east = timezone(timedelta(hours=8))
        said = datetime.fromtimestamp(now - 3600 * hours, east).isoformat() if start == "ISO" else start
        with House(tmp_path / "spool", source_of(sls, start=said)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert abs(min(at for _, at in house.groups()) - wanted) <= 1, "a second or two have passed"
            assert [one.force for one in sls.store().checkpoints].count(True) == 1
