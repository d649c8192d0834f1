"""Ways in which the SDK's own consumer loses, hangs or spins, where no other test shows that ours does not.

All 23, and which test holds each: `tests/test_weaknesses.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll
from tests.worker import consuming
from tests.worker.consuming import House, run_consumer, source_of, stored
from worker.child import ChildContext


def calls(sls: SlsEmulator, operation: str) -> int:
    return sum(times for (name, _, _), times in list(sls.service.counts.items()) if name == operation)


def holding(house: House, shards: int) -> None:
    poll(lambda: len(house.report()["facts"]["shards"]) == shards, f"{shards} shards are held")


def with_settings(house: House, **changes: Any) -> None:
    settings = house.context.settings
    house.context = replace(house.context, settings=replace(settings, spool=replace(settings.spool, **changes)))


def test_stopped_while_nothing_can_be_put_it_checkpoints_nothing_of_what_it_pulled(tmp_path: Path) -> None:
    """Number 2: the SDK's shutdown commits the cursor of a batch that was refused."""
    with SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            good = house.context
            with_settings(house, min_free_bytes=1 << 60)
            house.start()
            poll(lambda: house.hold(kind="disk"), "the disk is full")
            assert any(shard.pulls for shard in sls.store().shards.values())
            assert house.stop() == 0
            assert sls.checkpoints("siem") == {number: shard.first for number, shard in sls.store().shards.items()}
            house.context = good
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def dies_after(turns: int, place: str) -> Callable[[ChildContext], None]:
    """A consumer's process of which one thread fails: as any defect of ours would make it."""
    from worker import checkpoints, consumer, heartbeat, putter, reader

    names: dict[str, tuple[Any, str]] = {
        "a reader": (reader.Reader, "_turn"),
        "the putter": (putter.Putter, "_put"),
        "the heart": (heartbeat.Heart, "_beat"),
        "the saver": (checkpoints.Saver, "save"),
        "the main thread": (consumer.Consumer, "_each_second"),
    }
    owner, name = names[place]
    left, work = [turns], getattr(owner, name)

    def failing(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("a defect")
        return work(*given, **named)

    def run(context: ChildContext) -> None:
        if context.slot == 0:
            setattr(owner, name, failing)
        run_consumer(context)

    return run


def run_a_broken_one(context: ChildContext) -> None:
    dies_after(3, context.boot)(context)


@pytest.mark.parametrize("place", ["a reader", "the putter", "the heart", "the saver", "the main thread"])
def test_a_process_with_a_dead_thread_is_a_dead_process_and_holds_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Numbers 5 and 6: the SDK's goes on beating for shards that nobody reads."""
    monkeypatch.setattr(consuming, "run_consumer", run_a_broken_one)
    sls = SlsEmulator(shards=2, knobs=Knobs(max_pull_bytes=20_000))
    with sls, House(tmp_path / "spool", source_of(sls, consumer_timeout=2.0), consumers=2, boot=place) as house:
        sls.fill(2_000)
        house.start(0)
        assert house.wait(0) not in {0, None}
        house.start(1)
        house.wait_drained(sls)
        assert house.stop(1) == 0
        assert house.groups() == stored(sls)


def test_checkpoints_that_hang_or_are_refused_stop_no_reading_and_no_beating_and_are_said(tmp_path: Path) -> None:
    """Numbers 12 and 19: the SDK's saves in its main loop, and prints what goes wrong to nobody."""
    with SlsEmulator(shards=3) as sls:
        sls.fill(1_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            hung = sls.faults.add("hang", "checkpoint", shard=0, seconds=4, count=1)
            sls.fill(1_000)
            poll(lambda: hung.happened, "a checkpoint hangs")
            sls.fill(1_000)
            poll(lambda: house.groups() == stored(sls), "all shards are read on")
            sls.faults.add("status", "checkpoint", status=500)
            beats = calls(sls, "heartbeat")
            sls.fill(1_000)
            poll(lambda: house.groups() == stored(sls), "still")
            poll(house.hold, "a hold says that checkpoints are not saved")
            hold = house.hold()
            assert hold is not None
            assert "InternalServerError" in hold["error"]
            assert hold["hint"]
            poll(lambda: calls(sls, "heartbeat") > beats + 3, "it beats on")
            assert not [one for one in sls.store().heartbeats if one.answer is None]
            sls.faults.clear()
            house.wait_drained(sls)
            poll(lambda: house.hold() is None, "the hold ends")
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_shard_far_behind_is_read_without_a_pause_between_pulls(tmp_path: Path) -> None:
    """Number 13: the SDK's reads one batch an interval. Ours beats each 2 s here, and reads much more often."""
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=20_000)) as sls:
        sls.fill(8_000)
        with House(tmp_path / "spool", source_of(sls, heartbeat_interval=2.0)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
        full = [one for one in sls.store().shards[0].pulls if one.count]
        beats = len(sls.store().heartbeats)
        assert len(full) >= 6 * beats, "perhaps there was but one beat before all was read"


def test_what_is_no_log_at_all_is_kept_once_and_said_in_a_few_words(tmp_path: Path) -> None:
    """Number 15: the SDK's asks for ever, and logs the whole body each time."""
    page = "<html>" + "x" * 1_000_000
    with SlsEmulator(shards=1) as sls:
        sls.fill(1_000)
        fault = sls.faults.add("status", "pull", status=502, text=page)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            poll(house.hold, "a hold")
            assert len(json.dumps(house.hold())) < 2_000
            assert fault.happened < 40
            sls.faults.clear()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_token_that_expires_under_many_readers_stops_nobody_for_longer_than_it_takes_to_renew_it(
    tmp_path: Path,
) -> None:
    """Number 20: in the SDK one thread renews it and the others sleep for minutes, the heartbeat among them."""
    old, new = ({"access_key_id": "ak", "access_key_secret": "sk", "security_token": one} for one in ("old", "new"))
    sls = SlsEmulator(shards=8, knobs=Knobs(max_pull_bytes=20_000), keys=[AccessKey("ak", "sk", "old")])
    with sls:
        keys = tmp_path / "keys.json"
        keys.write_text(json.dumps(old))
        sls.fill(4_000)
        with House(tmp_path / "spool", source_of(sls, credentials_file=keys)) as house:
            house.start()
            holding(house, 8)
            sls.service.keys["ak"] = replace(sls.service.keys["ak"], expires=time.time() - 1)
            poll(house.hold, "a hold")
            refused = sum(n for (_, status, _), n in list(sls.service.counts.items()) if status == 401)
            house.turns(2)
            now = sum(n for (_, status, _), n in list(sls.service.counts.items()) if status == 401)
            assert now - refused < 8 * 40, "each waits, and longer each time"
            sls.service.keys["ak"] = AccessKey("ak", "sk", "new")
            keys.write_text(json.dumps(new))
            sls.fill(4_000)
            house.wait_drained(sls)
            poll(lambda: house.hold() is None, "the hold ends")
            assert house.stop() == 0
            assert house.groups() == stored(sls)


def test_a_group_that_exists_keeps_its_order_and_its_time_out(tmp_path: Path) -> None:
    """Number 21: each of the SDK's workers writes its own over them."""
    with SlsEmulator(shards=2) as sls:
        sls.fill(500)
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "siem", 57, in_order=True)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
        group = sls.store().groups["siem"]
        assert (group.timeout, group.order) == (57, True)
        assert calls(sls, "update_group") == 0
