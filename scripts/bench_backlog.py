"""`scripts/bench backlog`: the lane with much in it, against the same lane empty: 10 GB, and a million tiny batches.

The million is written as files and made an index of by a rebuild, which is measured on the way: through puts it would take hours.
"""

from __future__ import annotations

import os
import resource
import time
from functools import partial
from pathlib import Path

from buffer import body, outside
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from scripts.bench_tools import MB, Figure, Given, median, table, timed

KEY = ShardKey("p", "l", "g", "", 0, 1)
SIZE = 1 << 20
#: Puts and reads that are timed, at each depth.
TIMED = 200


def run(given: Given) -> list[Figure]:
    """Both."""
    return big(given) + many(given)


def pull(number: int, data: bytes) -> Pull:
    """One LogGroup."""
    return Pull(KEY, 1, "s", "lz4", len(data) * 4, number, number + 1, 1, False, False, 1.0, 1.0, data)


class Lane:
    """Both sides of one."""

    def __init__(self, directory: Path) -> None:
        self.settings = SpoolSettings(directory=directory, min_free_bytes=1 << 20, max_bytes=1 << 42)
        self.directory = directory
        self.number = 0

    def open(self) -> None:
        self.spool = Spool.open(self.settings)
        self.lane = lane_directory(self.directory, self.spool.id, 0)
        self.writer = LaneWriter.open(self.lane, self.settings)
        self.reader = LaneReader.open(self.lane, self.settings)

    def close(self) -> None:
        for one in (self.reader, self.writer, self.spool):
            one.close()

    def put(self, data: bytes) -> None:
        self.number += 1
        self.writer.put([pull(self.number, data)])

    def rates(self, data: bytes) -> tuple[float, float]:
        """Seconds of a put, and of reading and acking the oldest batch, in the median."""
        puts = [timed(partial(self.put, data)) for _ in range(TIMED)]
        reads = [timed(self.settle_oldest) for _ in range(TIMED)]
        return median(puts), median(reads)

    def settle_oldest(self) -> None:
        self.reader.ack(self.reader.read(0, 1, 1))


def big(given: Given) -> list[Figure]:
    """10 GB of 8 MiB batches."""
    lane, data, chunk = Lane(given.work / "big"), os.urandom(SIZE), os.urandom(8 << 20)
    lane.open()
    empty = lane.rates(data)
    began = time.perf_counter()
    count = given.gigabytes * 1000 * MB // len(chunk)
    for _ in range(int(count)):
        lane.put(chunk)
    filled = time.perf_counter() - began
    lane.close()
    opened = timed(lane.open)
    listed = timed(lambda: sum(1 for _ in outside.batches(lane.directory)))
    counted = timed(lambda: outside.lane_stats(lane.lane))
    full = [timed(partial(lane.put, data)) for _ in range(TIMED)]
    # The oldest are large: reading is compared by bytes.
    reads = [timed(lane.settle_oldest) for _ in range(50)]
    lane.close()
    fresh = Lane(given.work / "fresh")
    fresh.open()
    for _ in range(50):
        fresh.put(chunk)
    alone = [timed(fresh.settle_oldest) for _ in range(50)]
    fresh.close()
    put, read = empty[0] / median(full), median(alone) / median(reads)
    table(
        f"A backlog of {given.gigabytes} GB against none",
        ("filled MB/s", "open s", "list s", "stats ms", "put, of empty", "read + ack, of empty"),
        [(f"{given.gigabytes * 1000 / filled:.0f}", f"{opened:.2f}", f"{listed:.2f}", f"{counted * 1000:.1f}", f"{put:.2f}",
          f"{read:.2f}")],
    )  # fmt: skip
    what = f"at a backlog of {given.gigabytes} GB, against empty"
    return [Figure(f"put {what}", put, "times", 0.9, 0.98), Figure(f"read + ack {what}", read, "times", 0.9, 0.98)]


def many(given: Given) -> list[Figure]:
    """A million batches of 200 bytes."""
    lane, data = Lane(given.work / "many"), os.urandom(200)
    lane.open()
    empty = lane.rates(data)
    lane.close()
    written = timed(partial(write_bodies, lane, given.batches, data))
    for path in lane.lane.glob("cache.db*"):
        path.unlink()
    spool = Spool.open(lane.settings)
    rebuilt = timed(spool.recover)
    checked = timed(spool.recover)
    spool.close()
    opened = timed(lane.open)
    lane.number = given.batches + 10_000_000
    listed = timed(lambda: sum(1 for _ in outside.batches(lane.directory)))
    counted = timed(lambda: outside.lane_stats(lane.lane))
    lane.writer.start_epoch(KEY, 2, None)
    full = lane.rates(data)
    drained = timed(partial(drain, lane))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lane.close()
    put, read = empty[0] / full[0], empty[1] / full[1]
    table(
        f"{given.batches} batches of 200 bytes against none",
        ("files written s", "rebuild s", "check and sweep s", "open s", "list s", "stats ms", "put, of empty",
         "read + ack, of empty", "drain s", "peak RSS MiB"),
        [(f"{written:.0f}", f"{rebuilt:.0f}", f"{checked:.1f}", f"{opened:.2f}", f"{listed:.1f}", f"{counted * 1000:.1f}",
          f"{put:.2f}", f"{read:.2f}", f"{drained:.0f}", f"{peak:.0f}")],
    )  # fmt: skip
    what = f"at {given.batches} batches, against empty"
    return [Figure(f"put {what}", put, "times", 0.9, 0.98), Figure(f"read + ack {what}", read, "times", 0.9, 0.98)]


def write_bodies(lane: Lane, count: int, data: bytes) -> None:
    """As they would lie there, without the flushes."""
    folder = os.open(lane.lane / "v", os.O_RDONLY | os.O_DIRECTORY)
    for number in range(1, count + 1):
        one = pull(number, data)
        pieces = body.pack(body.BATCH, number, 1.0, [body.describe_pull(one)], [data])
        file = os.open(f"{number:032x}.val", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        os.writev(file, pieces)
        os.close(file)
    os.close(folder)


def drain(lane: Lane) -> None:
    """Everything, a thousand batches an ack."""
    while batches := lane.reader.read(0, 1000, 1 << 30):
        lane.reader.ack(batches)
