"""`scripts/bench spool`: durable puts of one size, against append + fdatasync of the same bytes on the same file system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from buffer import body as body_module
from buffer import disk
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from scripts.bench_tools import MB, Figure, Given, median, table, timed, warm

HEAD = ("journal", "a put", "put MB/s", "p50 ms", "p99 ms", "append + fdatasync MB/s", "ratio", "read + ack MB/s")
ASIDE = (
    "journal",
    "lanes",
    "bytes a pull",
    "put MB/s",
    "p50 ms",
    "p99 ms",
    "append + fdatasync MB/s, as many files",
    "ratio",
)
PARTS = ("journal", "header and CRC ms", "write ms", "fsync of the file ms", "rows ms", "COMMIT ms", "whole put ms",
         "for comparison: fdatasync of an append ms")  # fmt: skip
MODES = ("wal", "truncate")
SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)


def run(given: Given) -> list[Figure]:
    """Put and append in turn, of incompressible bytes; medians."""
    rows, figures = [], []
    for mode in MODES:
        for size, waiting in [(size, 1) for size in SIZES] + [(1 << 20, 4)]:
            ratio, cells = measure(mode, size, waiting, given.work)
            rows.append(cells)
            if size == 1 << 20:
                must, aim = (0.8, 0.95) if waiting == 4 else (0.6, 0.8) if mode == "wal" else (0.4, 0.6)
                what = f"durable put of 1 MiB, {mode}, pulls waiting: {waiting}"
                figures.append(Figure(what, ratio, "of append + fdatasync", must, aim))
    table("A durable put (medians)", HEAD, rows)
    several = [(mode, count, size, *side_by_side(mode, count, size, 1, given.work)) for mode in MODES for count in (2, 4)
               for size in SIZES]  # fmt: skip
    shared = [(mode, count, 1 << 20, *side_by_side(mode, count, 1 << 20, 4, given.work)) for mode in MODES
               for count in (1, 2, 4)]  # fmt: skip
    for title, found in (("one pull waiting", several), ("four pulls waiting", shared)):
        table(f"Lanes side by side, {title} at each put", ASIDE, [
            (mode, count, f"{size >> 10} KiB", f"{put:.0f}", f"{half * 1000:.2f}", f"{worst * 1000:.1f}", f"{append:.0f}",
             f"**{put / append:.2f}**")
            for mode, count, size, put, half, worst, append in found
        ])  # fmt: skip
    table("Where the time of a put of 1 MiB goes (medians)", PARTS, [where_it_goes(mode, given.work) for mode in MODES])
    return figures


def side_by_side(mode: str, count: int, size: int, waiting: int, work: Path) -> tuple[float, float, float, float]:
    """MB/s of that many lanes at once, p50 and p99 of a put in seconds, MB/s of as many files that are appended to and flushed."""
    name = f"side-{mode}-{count}-{size}-{waiting}"
    body, key, steps = os.urandom(size), ShardKey("p", "l", "g", "", 0, 1), max(24, min(100, (64 << 20) // size))
    took: list[float] = []
    with lanes_of(mode, count, work / name) as lanes:
        files = [os.open(work / f"{name}.{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for n in range(count)]

        def puts(lane: LaneWriter) -> None:
            for step in range(steps):
                numbers = range(step * waiting, step * waiting + waiting)
                pulls = [Pull(key, 1, "s", "lz4", size, n, n + 1, 1, False, False, 1.0, 1.0, body) for n in numbers]
                took.append(timed(partial(lane.put, pulls)))

        def appends(file: int) -> None:
            for _ in range(steps):
                os.writev(file, [body] * waiting)
                os.fdatasync(file)

        with ThreadPoolExecutor(count) as pool:
            warm(3 * steps * waiting * count * size, work)
            put = timed(lambda: list(pool.map(puts, lanes)))
            append = timed(lambda: list(pool.map(appends, files)))
        for file in files:
            os.close(file)
    moved = steps * waiting * count * size / MB
    return moved / put, median(took), sorted(took)[int(len(took) * 0.99) - 1], moved / append


@contextmanager
def lanes_of(mode: str, count: int, directory: Path) -> Iterator[list[LaneWriter]]:
    """Writers of as many lanes."""
    os.environ["SLS_SIEM_JOURNAL_MODE"] = mode
    settings = SpoolSettings(directory=directory, min_free_bytes=1 << 20, max_bytes=1 << 40)
    held = Spool.open(settings)
    lanes = [LaneWriter.open(lane_directory(held.directory, held.id, slot), settings) for slot in range(count)]
    try:
        yield lanes
    finally:
        for lane in lanes:
            lane.close()
        held.close()
        del os.environ["SLS_SIEM_JOURNAL_MODE"]


def where_it_goes(mode: str, work: Path) -> list[str]:
    """The cells of a row; the calls are timed where they are made."""
    body, key = os.urandom(1 << 20), ShardKey("p", "l", "g", "", 0, 1)
    took: dict[str, list[float]] = {}

    def watched(where: Any, name: str) -> None:
        call = getattr(where, name)

        def timing(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                took.setdefault(name, []).append(time.perf_counter() - began)

        patched.append((where, name, call))
        setattr(where, name, timing)

    patched: list[tuple[Any, str, Any]] = []
    with lanes_of(mode, 1, work / f"where-{mode}") as (lane,):
        commits: list[float] = []
        plain = os.open(work / f"where-{mode}.plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        watched(disk, "write_all")
        watched(os, "fsync")
        watched(body_module, "pack")
        lane.cache._con.set_trace_callback(  # noqa: SLF001 - SQLite says when a statement begins
            lambda text: commits.append(time.perf_counter()) if text in {"COMMIT", "BEGIN IMMEDIATE"} else None
        )
        whole: list[float] = []
        warm(256 << 20, work)
        for number in range(100):
            pull = Pull(key, 1, "s", "lz4", 4 << 20, number, number + 1, 1, False, False, 1.0, 1.0, body)
            whole.append(timed(partial(lane.put, [pull])))
            commits.append(time.perf_counter())
            os.write(plain, body)
            took.setdefault("fdatasync", []).append(timed(partial(os.fdatasync, plain)))
        os.close(plain)
        for where, name, call in patched:
            setattr(where, name, call)
    rows = [b - a for a, b in zip(commits[::3], commits[1::3], strict=True)]
    commit = [b - a for a, b in zip(commits[1::3], commits[2::3], strict=True)]
    cells = [
        took["pack"],
        [t for t in took["write_all"] if t > 5e-5],
        took["fsync"],
        rows,
        commit,
        whole,
        took["fdatasync"],
    ]
    return [mode, *(f"{median(one) * 1000:.2f}" for one in cells)]


def measure(mode: str, size: int, waiting: int, work: Path) -> tuple[float, list[str]]:
    """The ratio, and the cells of the table. So many pulls wait at each put."""
    os.environ["SLS_SIEM_JOURNAL_MODE"] = mode
    settings = SpoolSettings(directory=work / f"{mode}-{size}-{waiting}", min_free_bytes=1 << 20, max_bytes=1 << 40)
    held = Spool.open(settings)
    lane = lane_directory(held.directory, held.id, 0)
    writer, reader = LaneWriter.open(lane, settings), LaneReader.open(lane, settings)
    body, key, count = os.urandom(size), ShardKey("p", "l", "g", "", 0, 1), max(60, min(400, (256 << 20) // size))
    plain = os.open(work / f"plain-{mode}-{size}-{waiting}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(number: int) -> None:
        numbers = range(number * waiting, number * waiting + waiting)
        writer.put([Pull(key, 1, "s", "lz4", size * 4, n, n + 1, 1, False, False, 1.0, 1.0, body) for n in numbers])

    def append() -> None:
        os.writev(plain, [body] * waiting)
        os.fdatasync(plain)

    puts, appends = [], []
    warm(3 * count * size * waiting, work)
    for number in range(count):
        puts.append(timed(partial(put, number)))
        appends.append(timed(append))
    drained = timed(partial(drain, reader))
    middle, best = median(puts), median(appends)
    for one in (reader, writer, held):
        one.close()
    os.close(plain)
    del os.environ["SLS_SIEM_JOURNAL_MODE"]
    return best / middle, [
        mode, f"{waiting} × {size >> 10} KiB", f"{size * waiting / middle / MB:.0f}", f"{middle * 1000:.2f}",
        f"{sorted(puts)[int(count * 0.99) - 1] * 1000:.1f}", f"{size * waiting / best / MB:.0f}", f"**{best / middle:.2f}**",
        f"{size * waiting * count / drained / MB:.0f}",
    ]  # fmt: skip


def drain(reader: LaneReader) -> None:
    """Read and ack everything."""
    while batches := reader.read(0, 16, 64 << 20):
        reader.ack(batches)
