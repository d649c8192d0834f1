"""The weaknesses of the SDK's ConsumerWorker that are quick to see, by what the emulator sees of it: why ours is our own.

Beside each, in `tests/test_weaknesses.py`, stands the test that shows that ours does not have it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]
#: Small pulls: ten groups or so.
SMALL = Knobs(max_pull_bytes=200_000)


@contextlib.contextmanager
def worker(sls: SlsEmulator, out: Path, mood: str = "reads", **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    with out.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.emulators.sdk_worker", mood, sls.proxy, json.dumps(settings)],
            cwd=ROOT, stdout=written, stderr=subprocess.DEVNULL, env=kept,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def taken(out: Path) -> int:
    return sum(int(line.split()[1]) for line in out.read_text().splitlines())


def calls(sls: SlsEmulator, operation: str) -> int:
    return sum(times for (name, _, _), times in list(sls.service.counts.items()) if name == operation)


def checkpoint(sls: SlsEmulator, shard: int = 0) -> int:
    return sls.checkpoints("group").get(shard) or 0


def test_number_1_an_exception_skips_the_batch_and_the_checkpoint_passes_it(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=SMALL) as sls, worker(sls, tmp_path / "out", "raises"):
        sls.fill(2_000)
        shard = sls.store().shards[0]
        poll(lambda: checkpoint(sls) == shard.end, "a checkpoint at the end")
        assert taken(tmp_path / "out") < shard.end - shard.first


def test_number_2_its_shutdown_commits_what_was_refused(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=SMALL) as sls:
        sls.fill(2_000)
        with worker(sls, tmp_path / "out", "refuses") as process:
            process.wait(60)
        assert taken(tmp_path / "out") == 0
        assert checkpoint(sls) > sls.store().shards[0].first


def test_number_3_where_retention_was_faster_it_skips_to_the_end(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=SMALL) as sls:
        sls.fill(1_000)
        shard = sls.store().shards[0]
        with worker(sls, tmp_path / "out"):
            poll(lambda: checkpoint(sls) == shard.end, "it reads")
        had = taken(tmp_path / "out")
        sls.fill(4_000)
        left = shard.end - sls.trim(0, had + 5)
        with worker(sls, tmp_path / "later"):
            poll(lambda: calls(sls, "cursor") and shard.pulls[-1].cursor == shard.end, "it is at the end")
        assert left > 50
        assert taken(tmp_path / "later") == 0


def test_number_10_an_empty_answer_to_a_heartbeat_makes_it_spin(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.faults.add("empty", "heartbeat", after=1)
        with worker(sls, tmp_path / "out"):
            poll(lambda: calls(sls, "heartbeat") > 100, "a hundred heartbeats, one a second was asked for", 90)


def test_number_14_a_refused_pull_is_asked_again_at_each_tick(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        sls.fill(10_000)  # after a large pull it asks at each tick
        fault = sls.faults.add("status", "pull", status=429, code="Throttled", after=1)
        with worker(sls, tmp_path / "out", data_fetch_interval=0.02):
            poll(
                lambda: fault.happened > 100,
                "a hundred times in a minute: who waits longer each time does not get there",
            )


def test_number_16_forgotten_it_goes_on_listing_its_shards(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, worker(sls, tmp_path / "out"):
        poll(lambda: set(sls.owners("group").values()) == {"sdk"}, "it holds them")
        with sls.service.lock:
            sls.store().groups["group"].consumers.clear()
            for one in sls.store().groups["group"].shards.values():
                one.state, one.owner = "not_alloc", ""
        poll(lambda: sum(one.answer is None for one in sls.store().heartbeats) >= 3, "refused, and again, and again")


def test_number_17_an_empty_parent_holds_its_children_back_for_ever(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "group", 2, in_order=True)
        sls.split(0)
        sls.fill(400)
        with worker(sls, tmp_path / "out", in_order=True):
            poll(lambda: sls.owners("group").get(0) == "sdk", "it has the parent")
            beats = calls(sls, "heartbeat")
            poll(lambda: calls(sls, "heartbeat") > beats + 4, "it goes on")
            assert sls.checkpoints("group")[0] is None
            assert not any(sls.owners("group")[number] for number in (1, 2))


def test_number_18_what_a_query_empties_is_never_checkpointed(tmp_path: Path) -> None:
    with SlsEmulator(shards=1, knobs=SMALL) as sls:
        sls.fill(2_000)
        shard = sls.store().shards[0]
        with worker(sls, tmp_path / "out", query="* | where __topic__ = 'no_such_topic'"):
            poll(lambda: shard.high_water == shard.end, "it has read all of it")
            beats = calls(sls, "heartbeat")
            poll(lambda: calls(sls, "heartbeat") > beats + 4, "it goes on")
            assert sls.checkpoints("group")[0] is None


def test_number_21_it_writes_its_own_settings_over_the_groups(tmp_path: Path) -> None:
    with SlsEmulator(shards=1) as sls:
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "group", 57, in_order=True)
        with worker(sls, tmp_path / "out"):
            poll(lambda: calls(sls, "update_group"), "it changes the group")
            poll(lambda: not sls.store().groups["group"].order, "its order is gone")
