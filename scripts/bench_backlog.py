"""`scripts/bench backlog`: the lane with much in it, against the same lane empty: 10 GB, and a million tiny batches.

The million is written as files and made an index of by a rebuild, which is measured on the way: through puts it would take hours.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from buffer import body, outside
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from scripts.bench_tools import MB, Figure, Given, median, table, timed, warm

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

    def settle_oldest(self) -> None:
        self.reader.ack(self.reader.read(0, 1, 1))


def in_turn(empty: Callable[[], None], full: Callable[[], None], times: int) -> float:
    """How fast the second is, of the first; medians. In turn, because the machine is not the same a minute later."""
    took = [(timed(empty), timed(full)) for _ in range(times)]
    return median([one for one, _ in took]) / median([other for _, other in took])


def compare(lane: Lane, fresh: Lane, given: Given, data: bytes, old: bytes) -> tuple[float, float]:
    """Put, and read + ack of the oldest, in the full lane against one with nothing else in it, whose oldest are `old`."""
    for _ in range(TIMED):
        fresh.put(old)
    warm(3 * TIMED * len(data), given.work)
    put = in_turn(partial(fresh.put, data), partial(lane.put, data), TIMED)
    return put, in_turn(fresh.settle_oldest, lane.settle_oldest, TIMED)


def big(given: Given) -> list[Figure]:
    """10 GB of 8 MiB batches."""
    lane, fresh, chunk = Lane(given.work / "big"), Lane(given.work / "fresh"), os.urandom(8 << 20)
    lane.open()
    began = time.perf_counter()
    count = given.gigabytes * 1000 * MB // len(chunk)
    for _ in range(int(count)):
        lane.put(chunk)
    filled = time.perf_counter() - began
    lane.close()
    opened = timed(lane.open)
    listed = timed(lambda: sum(1 for _ in outside.batches(lane.directory)))
    counted = timed(lambda: outside.lane_stats(lane.lane))
    fresh.open()
    put, read = compare(lane, fresh, given, os.urandom(SIZE), chunk)
    for one in (lane, fresh):
        one.close()
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
    lane, fresh, data = Lane(given.work / "many"), Lane(given.work / "none"), os.urandom(200)
    lane.open()
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
    fresh.open()
    put, read = compare(lane, fresh, given, data, data)
    drained = timed(partial(drain, lane))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for one in (lane, fresh):
        one.close()
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
