"""`checkpoint = "delivered"`: one look at the lanes serves all shards, and never lets a checkpoint pass what waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory, lowest_waiting_of
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from worker import waiting
from worker.waiting import Waiting, delivered_target


def pull(shard: int, begin: int) -> Pull:
    key = ShardKey("p", "l", "g", "", shard, 1)
    return Pull(key, 1, "s", "lz4", 4, begin, begin + 1, 1, False, False, 1.0, 1.0, b"body", True)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    settings = SpoolSettings(directory=tmp_path / "spool", min_free_bytes=1 << 20, force_file_system=True)
    found = Spool.open(settings)
    yield found
    found.close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many places each look was for."""
    found: list[int] = []

    def counted(directory: Path, places: set[waiting.Place]) -> dict[waiting.Place, int]:
        found.append(len(places))
        return lowest_waiting_of(directory, places)

    monkeypatch.setattr(waiting, "lowest_waiting_of", counted)
    return found


def test_one_look_serves_all_shards_until_a_newer_one_is_asked_for(spool: Spool, looks: list[int]) -> None:
    lanes = [LaneWriter.open(lane_directory(spool.directory, spool.id, slot), spool.settings) for slot in range(4)]
    for shard in range(64):
        lanes[shard % 4].put([pull(shard, 100 + shard)])
        lanes[(shard + 1) % 4].put([pull(shard, 200 + shard)])
    found = Waiting(spool.directory)
    for shard in range(64):
        found.watch(("p", "l", shard))
    with ThreadPoolExecutor(64) as pool:
        since = time.monotonic() - 2.0
        all_looks = list(pool.map(lambda _: found.look(since), range(64)))
        assert looks == [64]
        assert all_looks[0].lowest == {("p", "l", shard): 100 + shard for shard in range(64)}
    reader = LaneReader.open(lanes[0].directory, spool.settings)
    reader.ack(reader.read(0, 1000, 1 << 30))
    assert found.look(since).lowest["p", "l", 0] == 100, "the last look serves"
    assert found.look(time.monotonic()).lowest["p", "l", 0] == 200, "a new one sees what was delivered"
    for lane in (*lanes, reader):
        lane.close()


def test_a_shard_that_is_new_here_is_looked_for_at_once(spool: Spool, looks: list[int]) -> None:
    lane = LaneWriter.open(lane_directory(spool.directory, spool.id, 0), spool.settings)
    lane.put([pull(7, 100)])
    found = Waiting(spool.directory)
    found.watch(("p", "l", 1))
    since = time.monotonic()
    assert found.look(since).lowest == {}
    found.watch(("p", "l", 7))
    assert found.look(since).lowest == {("p", "l", 7): 100}
    found.watch(("p", "l", 7))
    found.look(since)
    assert looks == [1, 2]
    lane.close()


@pytest.mark.parametrize(
    ("durable", "lowest", "acquired", "target"),
    [(50, None, None, 50), (50, 20, None, 20), (50, 20, 30, 30), (50, 60, 10, 50), (50, None, 60, 60)],
)
def test_up_to_the_first_that_waits_but_never_behind_what_was_found(
    durable: int, lowest: int | None, acquired: int | None, target: int
) -> None:
    assert delivered_target(durable, lowest, acquired) == target
