"""How fast a real consumer pulls, and how much at once, by the emulator's own record of what it answered."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from buffer.reader import LaneReader
from buffer.spool import lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_service import RequestRecord
from tests.waiting import poll
from tests.worker.consuming import House, source_of, stored
from tests.worker.sending import log_group
from worker.pace import SLOW, SMALL


def lane_of(house: House) -> Path:
    return lane_directory(house.settings.directory, house.spool.id, 0)


def put_an_hour_ago(house: House) -> None:
    """A batch of a shard long gone, which no sender has come to since."""
    key = ShardKey("p", "former", "siem", "", 0, 1)
    writer = LaneWriter.open(lane_of(house), house.settings)
    writer.put([Pull(key, 1, "former", "lz4", 1, 0, 1, 1, False, False, 1.0, 1.0, b"x")])
    writer.close()
    with closing(sqlite3.connect(lane_of(house) / "cache.db", isolation_level=None)) as db:
        db.execute("UPDATE batch SET time = time - 3600")


def drain(house: House) -> None:
    """A sender's part, done at once."""
    with closing(LaneReader.open(lane_of(house), house.settings)) as reader:
        while batches := reader.read(0, 1000, 1 << 30):
            reader.ack(batches)


def gaps(sls: SlsEmulator, shard: int) -> list[float]:
    """Seconds from one answered pull to the next."""
    return [after.time - before.time for before, after in pairwise(sls.store().shards[shard].pulls)]


def test_with_an_old_backlog_a_shard_of_small_pulls_is_left_to_grow_until_it_is_drained(tmp_path: Path) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        small, large = (sls.store().shards[number] for number in (0, 1))
        put_an_hour_ago(house)
        sls.fill(1, shard=0)
        sls.fill(max_bytes=4 * SMALL, shard=1)
        house.start()
        poll(lambda: len(large.pulls) >= 2 and small.pulls, "the shard of large pulls is asked again")
        assert large.pulls[0].raw_bytes >= SMALL
        assert len(small.pulls) == 1
        for _ in range(5):
            sls.fill(1, shard=0)
        drain(house)
        poll(lambda: len(small.pulls) >= 2, "the shard of small pulls is asked again")
        assert small.pulls[1].count == 5, "what came meanwhile came at once"
        assert gaps(sls, 0)[0] > SLOW - 0.5
        assert gaps(sls, 1)[0] < gaps(sls, 0)[0] * 0.8
        poll(lambda: min(gaps(sls, 0)[1:], default=SLOW) < SLOW / 2, "drained, it is asked as it was")
        house.wait_drained(sls)
        assert house.stop() == 0


def under_way(sls: SlsEmulator, delay: float) -> list[list[RequestRecord]]:
    """For each pull that brought something, those that were being answered when it was begun: each of them took `delay`."""
    pulls = [one for one in list(sls.service.requests) if one.operation == "pull" and one.sent_bytes]
    return [[other for other in pulls if one.time - delay < other.time <= one.time] for one in pulls]


@pytest.mark.parametrize(("limit", "delay"), [(1, 0.05), (1 << 20, 0.3), (64 << 20, 2.0)])
def test_no_more_bytes_are_in_flight_than_may_be_and_one_pull_always_goes(
    tmp_path: Path, limit: int, delay: float
) -> None:
    """Pulls of up to 128 KiB, each of which is expected to be 64 KiB at least; the last limit shows that more come at once
    where more may.
    """
    with SlsEmulator(shards=32, knobs=Knobs(max_pull_bytes=400_000)) as sls:
        sls.fill(32 * 1_600)
        sls.faults.add("delay", "pull", seconds=delay)
        with House(tmp_path / "spool", source_of(sls, codec="lz4"), in_flight=limit) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
        together = under_way(sls, delay)
        most = max(sum(one.sent_bytes for one in pulls) for pulls in together)
        if limit == 1:
            assert {len(pulls) for pulls in together} == {1}
        elif limit == 1 << 20:
            assert limit / 4 < most <= 2 * limit
        else:
            assert most > 2 << 20


def test_bodies_larger_than_expected_wait_with_sls_for_room_and_no_more_is_read(tmp_path: Path) -> None:
    """Quiet shards wake at once, each with a body of many times what the last ones brought. While somebody else writes to
    the lane's index nothing is put, so all that the emulator has got rid of is in flight.
    """
    limit, shards = 4 << 20, 16
    group = log_group("noise", [{"content": os.urandom(500_000).hex()}])
    with SlsEmulator(shards=shards, knobs=Knobs(forced_codec="lz4")) as sls:
        sls.server.send_buffer = 32 << 10
        with House(tmp_path / "spool", source_of(sls), in_flight=limit) as house:
            house.start()
            quiet = [sls.store().shards[number].pulls for number in range(shards)]
            poll(lambda: all(len(pulls) > 3 for pulls in quiet), "all shards are read, and bring nothing")
            sls.faults.add("delay", "pull", seconds=2)  # so all have asked before one is answered
            house.turns(2)
            with closing(sqlite3.connect(lane_of(house) / "cache.db", isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                for number in range(shards):
                    sls.repeat([group], 1, number)
                poll(lambda: sum(pulls[-1].count for pulls in quiet) > shards / 2, "most are answered")
                house.turns(3)
                taken, most = sls.service.taken_bytes, limit + largest(sls)
                assert limit / 2 < taken <= most, "as much as may be, and one more at most"
                db.execute("ROLLBACK")
            sls.faults.clear()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
        assert sls.service.taken_bytes > 2 * most, "they were larger than that together"


def largest(sls: SlsEmulator) -> int:
    return max(one.sent_bytes for one in list(sls.service.requests) if one.operation == "pull")
