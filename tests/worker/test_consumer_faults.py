"""What SLS, the network and the machine do to a consumer; each of these stops or harms the SDK's own consumer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.generator_wire import parse_group, parse_list
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll
from tests.worker import consuming
from tests.worker.consuming import House, body_of, run_consumer, source_of, stored
from worker import heartbeat
from worker.child import ChildContext


def calls(sls: SlsEmulator, operation: str) -> int:
    return sum(times for (name, _, _), times in list(sls.service.counts.items()) if name == operation)


def most_frequent_topic(sls: SlsEmulator) -> str:
    groups = [parse_group(parse_list(one)[0]) for one in sls.store().shards[0].framed]
    return Counter(group.topic.decode() for group in groups).most_common(1)[0][0]


def holding(house: House, shards: int, slot: int = 0) -> None:
    poll(lambda: len(house.report(slot)["facts"]["shards"]) == shards, f"{shards} shards are held")


FAILURES: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500}),
    ("status", {"status": 429, "code": "Throttled"}),
    ("status", {"status": 403, "code": "ShardReadQuotaExceed"}),
    ("status", {"status": 502, "text": "<html>gateway</html>"}),
    ("drop", {}),
    ("drop_after", {}),
    ("status_after", {"status": 503, "code": "ServerBusy"}),
]


@pytest.mark.parametrize("tls", [False, True])
def test_calls_that_fail_in_every_way_lose_nothing_and_store_nothing_twice(tmp_path: Path, tls: bool) -> None:
    """Over https the SDK retries nothing that it retries over http."""
    with SlsEmulator(shards=3, tls=tls, knobs=Knobs(max_pull_bytes=100_000)) as sls:
        sls.fill(8_000)
        faults = [sls.faults.add(kind, probability=0.03, **options) for kind, options in FAILURES]
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert sum(one.happened for one in faults) > 5
            assert house.groups() == stored(sls)


@pytest.mark.parametrize(("operation", "status"), [("pull", 400), ("pull", 429), ("heartbeat", 400)])
def test_a_call_that_is_always_refused_is_not_hammered_and_ends_by_itself(
    tmp_path: Path, operation: str, status: int
) -> None:
    """The SDK's consumer asks 11 times a second, and 900 times where a heartbeat's answer is wrong."""
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        fault = sls.faults.add("status", operation, status=status, code="ParameterInvalid")
        with House(tmp_path / "spool", source_of(sls, codec="lz4")) as house:
            house.start()
            poll(lambda: fault.happened, "it is refused")
            before = calls(sls, operation)
            house.turns(3)
            assert calls(sls, operation) - before <= 20
            poll(house.hold, "a hold")
            assert (house.hold() or {})["hint"]
            sls.faults.clear()
            house.wait_drained(sls)
            poll(lambda: house.hold() is None, "the hold ends")
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_text_of_sls_that_utf_8_cannot_hold_is_a_hold_like_any_other(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        text = json.dumps({"errorCode": "Cut\ud83d", "errorMessage": "cut in the midst of \ud83d"})
        sls.faults.add("status", "pull", status=400, text=text)
        with House(tmp_path / "spool", source_of(sls, codec="lz4")) as house:
            house.start()
            poll(house.hold, "a hold")
            assert "in the midst of ?" in (house.hold() or {})["error"]
            sls.faults.clear()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


@pytest.mark.parametrize(
    ("operation", "text"),
    [("list_shards", '[{"shardID": 1e999, "createTime": 1}]'), ("get_checkpoint", "[" * 100_000)],
    ids=["a number", "a stack"],
)
def test_an_answer_that_no_number_or_stack_holds_ends_no_consumer(tmp_path: Path, operation: str, text: str) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(500)
        sls.faults.add("body", operation, text=text, count=2)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert [one.operation for one in sls.service.requests if one.fault] == [operation] * 2
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_heartbeat_answered_with_nonsense_is_neither_believed_nor_repeated_at_once(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        for text in ("", "{}", '"x"', '{"shards": null}', "[[1]]", "<html>", "[" * 100_000, f"[1, {'9' * 5000}]"):
            sls.faults.add("body", "heartbeat", text=text, count=1)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            beats = [one for one in sls.service.requests if one.operation == "heartbeat"]
            waits = [after.time - before.time for before, after in pairwise(beats) if before.fault]
            assert len(waits) == 8
            assert min(waits) > 0.2
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_hanging_service_falls_the_fence_and_nothing_is_pulled_behind_it(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(500)
        with House(tmp_path / "spool", source_of(sls, consumer_timeout=3.0)) as house:
            house.start()
            house.wait_drained(sls)
            fault = sls.faults.add("hang", "heartbeat", seconds=60)
            poll(lambda: fault.happened >= 6, "heartbeats hang one after the other, each given up in time")
            last = sls.store().heartbeats[-1].time
            assert sls.owners("siem") == {0: ""}, "SLS has given the shard away"
            behind = [one.time - last for one in sls.store().shards[0].pulls if one.time > last + 3.0]
            assert len(behind) <= 1, (
                "the last heartbeat was answered longer ago than the time-out; one may have been on its way"
            )
            sls.faults.clear()
            sls.fill(500)
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


@pytest.mark.parametrize("timeout", [30, 12])
def test_a_single_heartbeat_that_hangs_is_given_up_before_the_fence_falls(tmp_path: Path, timeout: int) -> None:
    """The SDK's waits 1 210 s for it. Where somebody made the group with a shorter time-out than ours, that one counts."""
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "siem", timeout)
        house.start()
        holding(house, 1)
        fault = sls.faults.add("hang", "heartbeat", seconds=60, count=1)
        poll(lambda: fault.happened, "a heartbeat hangs")
        since = len(sls.store().heartbeats)
        poll(lambda: len(sls.store().heartbeats) > since + 2, "they go on")
        answered = [one.time for one in sls.store().heartbeats]
        assert max(b - a for a, b in pairwise(answered)) < 0.8 * timeout
        assert not [one for one in sls.store().heartbeats if one.answer is None]


def run_curious(context: ChildContext) -> None:
    """A consumer that wants to know the retention all the time."""
    heartbeat.RETENTION_EVERY = 0.0
    run_consumer(context)


def test_between_two_heartbeats_there_is_one_other_call_at_most_that_may_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that hang one after the other would take longer than SLS waits for a heartbeat."""
    monkeypatch.setattr(consuming, "run_consumer", run_curious)
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls, consumer_timeout=3.0)) as house:
        house.start()
        poll(lambda: calls(sls, "list_shards") >= 4, "shards are listed again and again")
        assert house.stop() == 0
        letters = {"heartbeat": " ", "list_shards": "l", "get_logstore": "r"}
        asked = "".join(letters.get(one.operation, "") for one in sls.service.requests)
        between = asked.split(" ")[1:]
        assert {"l", "r"} <= set(between)
        assert max(map(len, between)) == 1, between


@pytest.mark.parametrize("forgotten", [(400, "NotExistConsumerWithBody"), (404, "ConsumerNotExist")])
def test_forgotten_by_sls_it_comes_back_at_once_with_an_empty_list(tmp_path: Path, forgotten: tuple[int, str]) -> None:
    """The SDK's goes on listing its shards until the time-out has passed once more."""
    with SlsEmulator(shards=2) as sls:
        sls.fill(500)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            with sls.service.lock:
                group = sls.store().groups["siem"]
                group.forgotten = forgotten
                group.consumers.clear()
                for one in group.shards.values():
                    one.state, one.owner = "not_alloc", ""
            # Before there is a checkpoint to save, which would be refused too.
            poll(lambda: any(one.answer is None for one in sls.store().heartbeats), "it hears of it")
            sls.fill(500)
            house.wait_drained(sls)
            beats = list(sls.store().heartbeats)
            refused = [place for place, one in enumerate(beats) if one.answer is None]
            assert len(refused) == 1
            assert beats[refused[0]].held == (0, 1)
            assert beats[refused[0] + 1].held == ()
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_group_that_vanished_is_made_again_and_reading_goes_on_where_it_was(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls, start="end")) as house:
            first = stored(sls)
            house.start()
            holding(house, 2)
            sls.fill(1_000)
            house.wait_drained(sls)
            with SlsClient(sls) as client:
                client.sdk.delete_consumer_group("p", "l", "siem")
            sls.fill(1_000)
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls) - first


def test_a_group_that_vanishes_again_and_again_is_made_once_a_minute(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        house.start()
        holding(house, 1)
        made = calls(sls, "create_group")
        gone = sls.faults.add("status", "heartbeat", status=404, code="ConsumerGroupNotExist")
        poll(lambda: gone.happened >= 4, "SLS says so, each time")
        house.turns(1)
        assert calls(sls, "create_group") == made + 1


def test_an_idle_shard_is_asked_once_a_second_at_most(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        house.start()
        house.wait_drained(sls)
        reports, pulls = house.report()["time"], len(sls.store().shards[0].pulls)
        house.turns(4)
        passed = house.report()["time"] - reports
        assert len(sls.store().shards[0].pulls) - pulls <= passed + 2


def test_another_query_goes_on_at_the_groups_checkpoint(tmp_path: Path) -> None:
    """What this host knows of a shard under one query says nothing under another: the checkpoint is the group's."""
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            shard, had = sls.store().shards[0], house.groups()
            at = shard.end
            sls.fill(2_000)
            house.read(source_of(sls, query=f"* | where __topic__ = '{most_frequent_topic(sls)}'"))
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert had == Counter((0, cursor) for cursor in range(shard.first, at))
            assert {(pull.begin >= at) for pull in house.pulls() if pull.key.query} == {True}


def stop_between_transactions(house: House) -> None:
    """SIGSTOP at a moment when the lane is not locked, or nobody could look into it."""
    index = house.settings.directory / "lanes" / f"{house.spool.id}-0" / "cache.db"

    def stopped() -> bool:
        os.kill(house.processes[0].pid, signal.SIGSTOP)
        connection = sqlite3.connect(index, timeout=0.1, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE").connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            os.kill(house.processes[0].pid, signal.SIGCONT)
            return False
        finally:
            connection.close()
        return True

    poll(stopped, "it stops outside a transaction")


@contextlib.contextmanager
def two_hosts(tmp_path: Path) -> Iterator[tuple[SlsEmulator, House, House]]:
    """The first has the shard, and has read all that there is; the second is not started yet."""
    sls = SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=100_000))
    with sls, House(tmp_path / "one") as one, House(tmp_path / "two") as two:
        one.read(source_of(sls, consumer_timeout=2.0))
        two.read(source_of(sls, consumer_timeout=2.0))
        one.start()
        sls.fill(1_000)
        one.wait_drained(sls)
        yield sls, one, two


def test_a_stopped_and_woken_process_puts_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    """A zombie: SIGSTOP beyond the time-out, another host takes over, SIGCONT."""
    with two_hosts(tmp_path) as (sls, one, two):
        had = one.groups()
        stop_between_transactions(one)
        two.start()
        sls.fill(6_000)
        poll(lambda: sls.drained("siem"), "the other host takes over")
        os.kill(one.processes[0].pid, signal.SIGCONT)
        poll(lambda: any(beat.answer is None for beat in sls.store().heartbeats), "it hears that it was forgotten")
        poll(lambda: len(set(sls.owners("siem").values()) | {""}) == 2, "one of them holds the shard")
        one.turns(2)
        assert one.stop() == 0
        assert two.stop() == 0
        assert one.groups() == had
        assert one.groups() + two.groups() == stored(sls)


def test_a_pull_that_was_on_its_way_when_the_shard_was_given_away_is_thrown_away(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (sls, one, two):
        had = one.groups()
        late = sls.faults.add("delay", "pull", seconds=6.0, count=1)
        poll(lambda: late.happened, "a pull is on its way")
        lost = sls.faults.add("hang", "heartbeat", consumer=f"*{one.spool.id}*", seconds=60)
        two.start()
        sls.fill(2_000)
        poll(lambda: sls.drained("siem"), "the other host takes over")
        poll(lambda: any(one.fault == "delay" for one in list(sls.service.requests)), "the answer comes")
        sls.faults.remove(lost)
        one.turns(2)
        assert one.stop() == two.stop() == 0
        assert one.groups() == had
        assert one.groups() + two.groups() == stored(sls)


def test_a_shard_that_is_asked_back_is_listed_until_its_last_checkpoint_is_saved(tmp_path: Path) -> None:
    """SLS gives it to the next consumer as soon as it is not listed: that one would begin too early, and the save be refused."""
    with SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(500)
        with House(tmp_path / "spool", source_of(sls), consumers=2) as house:
            house.start(0)
            house.wait_drained(sls)
            slow = sls.faults.add("delay", "checkpoint", consumer="*-0", seconds=3.0)
            sls.feeder.start(1_000, sls.store(), None)
            poll(lambda: slow.happened, "there always is something to save")
            house.start(1)
            poll(lambda: len(set(sls.owners("siem").values()) - {""}) == 2, "a shard has moved")
            moved = next(number for number, owner in sls.owners("siem").items() if owner.endswith("-1"))
            sls.feeder.stop()
            sls.faults.clear()
            house.wait_drained(sls)
            assert [house.stop(slot) for slot in (0, 1)] == [0, 0]
            assert house.groups() == stored(sls)
            saved = [one for one in sls.store().checkpoints if one.shard == moved]
            assert not [one for one in saved if one.error], "nobody saves for a shard that is another's"
            last = max(one.time for one in saved if one.consumer.endswith("-0"))
            taken = min(one.time for one in sls.store().shards[moved].pulls if one.client.endswith("-1"))
            assert last < taken


def test_two_hosts_share_and_hand_over_without_a_copy(tmp_path: Path) -> None:
    sls = SlsEmulator(shards=4, knobs=Knobs(max_pull_bytes=100_000))
    with sls, House(tmp_path / "one") as one, House(tmp_path / "two") as two:
        for house in (one, two):
            house.read(source_of(sls, consumer_timeout=15.0))  # the second has to wait for it
        sls.fill(6_000)
        one.start()
        poll(lambda: len(one.groups()) > 50, "the first reads")
        two.start()
        poll(lambda: len(set(sls.owners("siem").values()) - {""}) == 2, "both hold shards")
        sls.fill(6_000)
        assert one.stop() == 0
        sls.fill(3_000)
        poll(lambda: sls.drained("siem"), "the second takes all")
        assert two.stop() == 0
        assert one.groups() + two.groups() == stored(sls)


def test_pulls_that_a_query_emptied_move_the_checkpoint(tmp_path: Path) -> None:
    query = "* | where __topic__ = 'no_such_topic'"
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=100_000)) as sls:
        sls.fill(4_000)
        with House(tmp_path / "spool", source_of(sls, query=query)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.pulls() == []


def test_a_query_filters_and_what_passes_is_stored_once(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=100_000)) as sls:
        sls.fill(6_000)
        query = f"* | where __topic__ = '{most_frequent_topic(sls)}'"
        with House(tmp_path / "spool", source_of(sls, query=query), once=True) as house:
            house.start()
            assert house.wait() == 0
            pulls = house.pulls()
            shard = sls.store().shards[0]
            assert 0 < sum(pull.groups for pull in pulls) < len(shard.framed)
            assert sum(pull.groups for pull in pulls) == sum(one.count for one in shard.pulls)
            assert all(pull.sparse for pull in pulls)
            for pull in pulls:
                body_of(pull)


@pytest.mark.parametrize(
    ("knobs", "codec", "expected"),
    [
        ({}, "auto", "zstd"),
        ({"zstd": False}, "auto", "lz4"),
        ({"forced_codec": ""}, "auto", "lz4"),
        ({"forced_codec": "deflate"}, "auto", "lz4"),
    ],
)
def test_the_codec_is_found_out_and_a_plain_body_is_compressed(
    tmp_path: Path, knobs: dict[str, Any], codec: str, expected: str
) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=300_000, **knobs)) as sls:
        sls.fill(3_000)
        with House(tmp_path / "spool", source_of(sls, codec=codec), once=True) as house:
            house.start()
            assert house.wait() == 0
            assert house.groups() == stored(sls)
            assert {pull.codec for pull in house.pulls()} == {expected}
            assert sum(len(body_of(pull)) for pull in house.pulls()) == sum(map(len, sls.store().shards[0].framed))


def test_a_full_quota_of_groups_names_those_that_exist(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_groups=2)) as sls:
        sls.fill(500)
        with SlsClient(sls) as client:
            for name in ("old-one", "old-two"):
                client.sdk.create_consumer_group("p", "l", name, 30)
            with House(tmp_path / "spool", source_of(sls)) as house:
                house.start()
                poll(house.hold, "a hold")
                hold = house.hold()
                assert hold is not None
                assert "ConsumerGroupQuotaExceed" in hold["error"]
                assert "old-one, old-two" in hold["hint"]
                client.sdk.delete_consumer_group("p", "l", "old-one")
                house.wait_drained(sls)
                assert house.stop() == 0


def test_one_source_refused_does_not_stop_the_other(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(500)
        bad = source_of(sls, name="gone", logstore="no-such-logstore")
        plain = source_of(sls, name="plain", endpoint="http://cn-nowhere.example.com")
        with House(tmp_path / "spool", bad, plain, source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            poll(lambda: len(house.report()["holds"]) == 2, "two holds")
            holds = {one["name"]: one for one in house.report()["holds"]}
            assert "LogStoreNotExist" in holds["gone"]["error"]
            assert "plain http" in holds["plain"]["error"]
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_checkpoint_moved_back_on_purpose_is_read_again(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=100_000)) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            shard = sls.store().shards[0]
            with sls.service.lock:
                sls.store().groups["siem"].shards[0].checkpoint = shard.first + 5
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            again = Counter((0, at) for at in range(shard.first + 5, shard.end))
            assert house.groups() == stored(sls) + again


def test_a_logstore_made_anew_under_the_same_name_is_read_from_its_beginning(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            old = len(house.groups())
            with sls.service.lock:
                sls.recreate_shard(0)
            sls.fill(1_000)
            house.wait_drained(sls)
            assert house.stop() == 0
            assert len(house.groups()) == old + len(stored(sls))


def test_sixteen_shards_are_let_go_within_seconds_and_saved(tmp_path: Path) -> None:
    """The SDK's consumer takes a second a shard, with its heartbeat already stopped."""
    with SlsEmulator(shards=16) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        house.start()
        holding(house, 16)
        refused = sls.faults.add("status", "checkpoint", status=503)
        sls.fill(16_000)
        poll(lambda: house.groups() == stored(sls), "all is in the lane")
        sls.faults.add("delay", "checkpoint", shard=0, seconds=5.0)
        sls.faults.remove(refused)
        assert house.stop() == 0
        assert sls.drained("siem")
        assert not any(one.error for one in sls.store().checkpoints)
        last = sls.store().heartbeats[-1]
        assert last.held == (0,), "what has been let go is not listed any more, so that others get it at once"
        assert last.time > max(one.time for one in sls.store().checkpoints if one.shard), (
            "it beats until the last is saved"
        )


def test_without_memory_or_spool_nothing_is_pulled_and_it_goes_on_after(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        for name in ("memory_level", "spool_level"):
            setattr(house.board, name, 2)
            house.start()
            holding(house, 2)
            sls.fill(1_000)
            house.turns(1)
            assert not house.groups() - Counter(dict.fromkeys(house.groups(), 1))
            before = sum(len(one.pulls) for one in sls.store().shards.values())
            house.turns(1)
            assert sum(len(one.pulls) for one in sls.store().shards.values()) == before
            setattr(house.board, name, 0)
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_lane_in_use_and_a_damaged_index_end_with_their_own_codes(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(500)
        with House(tmp_path / "spool", source_of(sls), once=True) as house:
            house.start()
            assert house.wait() == 0
            lane = house.settings.directory / "lanes" / f"{house.spool.id}-0"
            (lane / "cache.db").write_bytes(b"not a database, " * 1000)
            for name in ("cache.db-wal", "cache.db-shm"):
                (lane / name).unlink(missing_ok=True)
            house.start()
            assert house.wait() == 65
            from buffer.lane import take_lock

            lock = take_lock(lane / "writer.lock")
            house.start()
            assert house.wait() == 75
            os.close(lock)


@pytest.mark.root
def test_a_disk_that_fills_up_holds_and_goes_on_by_itself_when_there_is_room(tmp_path: Path) -> None:
    """A real one: a small file system, filled by somebody else."""
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(tmp_path / "disk")], check=True)
    try:
        sls = SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=300_000))
        with sls, House(tmp_path / "disk" / "spool", source_of(sls)) as house:
            house.start()
            holding(house, 2)
            (tmp_path / "disk" / "filler").write_bytes(b"\0" * (38 << 20))
            sls.fill(20_000)
            poll(lambda: house.hold(kind="disk"), "a hold")
            hold = house.hold(kind="disk")
            assert hold is not None
            assert hold["hint"]
            pulls = sum(len(one.pulls) for one in sls.store().shards.values())
            house.turns(2)
            assert sum(len(one.pulls) for one in sls.store().shards.values()) - pulls <= 4
            (tmp_path / "disk" / "filler").unlink()
            house.wait_drained(sls)
            poll(lambda: house.hold(kind="disk") is None, "the hold ends")
            assert house.stop() == 0
            assert house.groups() == stored(sls)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)
