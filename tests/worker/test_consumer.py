"""A consumer process against the emulator: everything is in the lane, once, and the checkpoints say so."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from buffer.reader import LaneReader
from buffer.spool import lane_directory
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.emulators.sls_identify import ACTIONS
from tests.waiting import poll
from tests.worker.consuming import House, body_of, peak_memory, source_of, stored

ROOT = Path(__file__).resolve().parents[2]


def test_everything_sls_holds_is_in_the_lane_once_and_checkpointed(tmp_path: Path) -> None:
    with SlsEmulator(shards=4) as sls:
        sls.fill(40_000)
        with House(tmp_path / "spool", source_of(sls), spawn=True) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
            raw = b"".join(b"".join(shard.framed) for _, shard in sorted(sls.store().shards.items()))
            spooled = sorted(house.pulls(), key=lambda pull: (pull.key.shard, pull.begin))
            assert b"".join(map(body_of, spooled)) == raw


@pytest.mark.parametrize("region", ["", "cn-hangzhou"])
def test_it_speaks_https_with_a_private_ca_and_both_signatures(tmp_path: Path, region: str) -> None:
    with SlsEmulator(shards=1, tls=True) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls, region=region), once=True) as house:
            house.start()
            assert house.wait() == 0
            assert house.groups() == stored(sls)
            assert sls.drained("siem")


def test_killed_at_any_moment_it_goes_on_without_loss_and_without_a_copy(tmp_path: Path) -> None:
    chance = random.Random(7)
    sls = SlsEmulator(shards=3, knobs=Knobs(max_pull_bytes=50_000))
    with sls, House(tmp_path / "spool", source_of(sls)) as house:
        for _ in range(4):
            sls.fill(4_000)
            wanted = sum(len(shard.pulls) for shard in sls.store().shards.values()) + chance.randint(1, 40)
            house.start()
            poll(lambda: sum(len(one.pulls) for one in sls.store().shards.values()) >= wanted, "it pulls")  # noqa: B023
            house.kill()
        house.start()
        house.wait_drained(sls)
        assert house.stop() == 0
        assert house.groups() == stored(sls)


def test_a_split_and_a_merge_are_followed_to_the_end(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls:
        sls.fill(10_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            sls.split(0)
            sls.fill(10_000)
            sls.merge(2)
            sls.fill(10_000)
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_children_of_an_empty_parent_are_released_in_an_ordered_group(tmp_path: Path) -> None:
    """The SDK's own consumer never saves a checkpoint of an empty shard, and its children wait for ever."""
    with SlsEmulator(shards=1) as sls:
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "siem", 6, in_order=True)
        sls.split(0)
        sls.fill(4_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_start_end_takes_only_what_comes_later_and_holds_for_all_shards(tmp_path: Path) -> None:
    with SlsEmulator(shards=4) as sls:
        sls.fill(5_000)
        before = stored(sls)
        with House(tmp_path / "spool", source_of(sls, start="end")) as house:
            house.start()
            poll(lambda: len(house.report()["facts"]["shards"]) == 4, "all shards are held")
            sls.fill(5_000)
            house.wait_drained(sls)
            forced = [one for one in sls.store().checkpoints if one.force]
            assert sorted(one.shard for one in forced) == [0, 1, 2, 3]
            assert house.stop() == 0
            assert house.groups() == stored(sls) - before


def test_what_retention_took_is_counted_exactly_and_reading_goes_on(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=300_000)) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            had = house.groups()
            at = sls.store().shards[0].end
            sls.fill(5_000)
            begin = sls.trim(0, (at - sls.store().shards[0].first) + 17)
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            lost = begin - at
            assert lost > 0
            assert house.groups() == had + Counter((0, n) for n in range(begin, sls.store().shards[0].end))
            counters = house.spool.lanes()[0].counters
            assert counters["lost_to_retention_groups", "audit"] == lost


def test_a_wrong_key_is_a_hold_with_a_remedy_and_ends_when_the_key_is_right(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        keys = tmp_path / "keys.json"
        keys.write_text(json.dumps({"access_key_id": "ak", "access_key_secret": "wrong"}))
        with House(tmp_path / "spool", source_of(sls, credentials_file=keys)) as house:
            house.start()
            poll(house.hold, "a hold")
            hold = house.hold()
            assert hold is not None
            assert "SignatureNotMatch" in hold["error"]
            assert "access_key" in hold["hint"]
            assert "wrong" not in json.dumps(hold)
            poll(lambda: len(sls.service.requests) >= 6, "it asks again")
            asked = [one.time for one in sls.service.requests]
            assert min(after - before for before, after in pairwise(asked)) > 0.2, "not at once"
            keys.write_text(json.dumps({"access_key_id": "ak", "access_key_secret": "sk"}))
            house.wait_drained(sls)
            poll(lambda: house.hold() is None, "the hold ends")
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_the_least_policy_of_the_documentation_is_enough_from_the_first_run_on(tmp_path: Path) -> None:
    policy = json.loads((ROOT / "docs" / "ram-policy.json").read_text())
    allowed = frozenset(action for one in policy["Statement"] for action in one["Action"])
    with SlsEmulator(shards=2, keys=[AccessKey("ak", "sk", allowed=allowed)]) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            poll(lambda: all(one["retention_left_seconds"] for one in house.report()["facts"]["shards"]), "retention")
            assert house.hold() is None
            assert house.stop() == 0
        assert not [key for key in sls.service.counts if key[1] in {401, 403}]
        used = {ACTIONS[operation] for operation, _, _ in sls.service.counts}
        assert used == allowed, "and no more than is needed"


def test_a_shard_that_is_taken_away_is_no_error_and_is_read_again_when_it_is_back(tmp_path: Path) -> None:
    with SlsEmulator(shards=4) as sls:
        sls.fill(6_000)
        codes = {0: ("ConsumerNotMatch", 404), 1: ("ConsumerNotExsit", 400), 2: ("ShardNotExsit", 404)}
        faults = [
            sls.faults.add("status", "checkpoint", shard=shard, status=status, code=code, count=1, consumer="*-0")
            for shard, (code, status) in codes.items()
        ]
        with House(tmp_path / "spool", source_of(sls, start="begin")) as house:
            with SlsClient(sls) as client:  # so that nobody saves by force
                client.sdk.create_consumer_group("p", "l", "siem", 6)
            house.start()
            house.wait_drained(sls)
            assert house.hold() is None
            assert [one.happened for one in faults] == [1, 1, 1]
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_bad_body_is_asked_for_again_and_never_believed(tmp_path: Path) -> None:
    kinds = ("garbage", "flip", "wrong_count", "wrong_size", "cut", "truncate", "no_headers")
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=300_000)) as sls:
        sls.fill(3_000)
        faults = [sls.faults.add(kind, "pull", count=1) for kind in kinds]
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert [fault.happened for fault in faults] == [1] * len(kinds)
            pulls = house.pulls()
            assert house.groups() == stored(sls)
            assert not any(pull.suspect for pull in pulls)
            for pull in pulls:
                body_of(pull)


def test_the_same_bad_body_three_times_is_spooled_as_suspect_and_the_shard_goes_on(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=300_000)) as sls:
        sls.fill(3_000)
        sls.faults.add("garbage", "pull", count=3)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
            assert [pull.suspect for pull in house.pulls()].count(True) == 1


def test_a_body_that_would_blow_up_is_refused_while_it_is_small(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(2_000)
        fault = sls.faults.add("bomb", "pull", count=2)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert fault.happened == 2
            peak = peak_memory(house.processes[0].pid)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
            assert peak < 400 << 20


def test_two_slots_share_the_shards_and_a_killed_one_is_replaced_by_the_other(tmp_path: Path) -> None:
    with SlsEmulator(shards=4, knobs=Knobs(max_pull_bytes=300_000)) as sls:
        sls.fill(20_000)
        with House(tmp_path / "spool", source_of(sls, consumer_timeout=6.0), consumers=2) as house:
            house.start(0)
            house.start(1)
            poll(lambda: len(set(sls.owners("siem").values())) == 2, "both hold shards")
            house.kill(1)
            sls.fill(20_000)
            house.wait_drained(sls)
            assert house.stop(0) == 0
            assert house.groups() == stored(sls), "one spool: positions of the other lane are known too"


def test_once_ends_when_all_that_was_there_is_put_and_checkpointed(tmp_path: Path) -> None:
    with SlsEmulator(shards=3) as sls:
        sls.fill(10_000)
        with House(tmp_path / "spool", source_of(sls), consumers=2, once=True) as house:
            house.start(0)
            house.start(1)
            assert house.wait(0) == 0
            assert house.wait(1) == 0
            assert sls.drained("siem")
            assert house.groups() == stored(sls)


def test_delivered_checkpoints_do_not_pass_what_waits_in_the_spool(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(3_000)
        shard = sls.store().shards[0]
        with House(tmp_path / "spool", source_of(sls), checkpoint="delivered") as house:
            house.start()
            poll(lambda: house.groups() == stored(sls), "everything is in the lane")
            house.turns(5)
            assert sls.checkpoints("siem")[0] == shard.first
            directory = lane_directory(house.settings.directory, house.spool.id, 0)
            reader = LaneReader.open(directory, house.settings)
            reader.ack(reader.read(0, 1000, 1 << 40))
            reader.close()
            house.wait_drained(sls)
            assert house.stop() == 0


def test_the_reported_numbers_name_every_shard(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            poll(lambda: len(house.report()["facts"]["shards"]) == 2, "both are shown")
            poll(lambda: all(one["retention_left_seconds"] for one in house.report()["facts"]["shards"]), "retention")
            report = house.report()
            assert {(one["source"], one["shard"]) for one in report["facts"]["shards"]} == {("audit", 0), ("audit", 1)}
            assert all(0 <= one["lag_seconds"] < 15 for one in report["facts"]["shards"])
            assert report["metrics"]["shards_held"] == [[{"child": "consumer-0"}, 2]]
            assert {"lag_seconds", "retention_left_seconds", "checkpoint_age_seconds"} <= report["metrics"].keys()
            assert house.board.last_beat(0) > 0
            assert house.stop() == 0


def test_a_consumer_that_starts_while_nothing_may_be_pulled_shows_how_long_sls_still_keeps_what_waits(
    tmp_path: Path,
) -> None:
    """A long outage of Splunk's has filled the spool, and then the host starts anew."""
    hours = 5.0
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        sls.fill(1_000)
        shard = sls.store().shards[0]
        for place in range(len(shard.received)):
            shard.received[place] = sls.clock.now() - hours * 3600
        house.board.spool_level = 1
        house.start()
        poll(lambda: any(one["retention_left_seconds"] for one in house.report()["facts"]["shards"]), "retention")
        (shown,) = house.report()["facts"]["shards"]
        assert shown["lag_seconds"] == pytest.approx(hours * 3600, abs=120)
        assert shown["retention_left_seconds"] == pytest.approx(sls.store().ttl - hours * 3600, abs=120)
        assert not house.groups(), "and nothing was pulled for it"
        assert not shard.pulls
        house.board.spool_level = 0
        house.wait_drained(sls)
        assert house.stop() == 0
