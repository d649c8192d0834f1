"""`scripts/bench spool`: durable puts of one size, against append + fdatasync of the same bytes on the same file system."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from scripts.bench_tools import MB, Figure, Given, median, table, timed

HEAD = ("journal", "bytes a put", "put MB/s", "p50 ms", "p99 ms", "append + fdatasync MB/s", "ratio", "read + ack MB/s")
SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)


def run(given: Given) -> list[Figure]:
    """Put and append in turn, of incompressible bytes; medians."""
    rows, figures = [], []
    for mode in ("wal", "truncate"):
        for size in SIZES:
            ratio, cells = measure(mode, size, given.work)
            rows.append(cells)
            if size == 1 << 20:
                must, aim = (0.6, 0.8) if mode == "wal" else (0.4, 0.6)
                what = f"durable put of 1 MiB, {mode}, one pull waiting"
                figures.append(Figure(what, ratio, "of append + fdatasync", must, aim))
    table("A durable put (medians)", HEAD, rows)
    lanes = [
        (mode, count, *side_by_side(mode, count, given.work)) for mode in ("wal", "truncate") for count in (1, 2, 4)
    ]
    table(
        "Lanes side by side, 1 MiB a put, four pulls waiting",
        ("journal", "lanes", "put MB/s", "append + fdatasync MB/s, as many files", "ratio"),
        [(mode, count, f"{put:.0f}", f"{append:.0f}", f"**{put / append:.2f}**") for mode, count, put, append in lanes],
    )
    for mode, count, put, append in lanes:
        if count == 1:
            what = f"durable put of 4 × 1 MiB, {mode}, four pulls waiting"
            figures.append(Figure(what, put / append, "of append + fdatasync", 0.8, 0.95))
    return figures


def side_by_side(mode: str, count: int, work: Path) -> tuple[float, float]:
    """MB/s of that many lanes at once, and of as many files that are appended to and flushed."""
    os.environ["SLS_SIEM_JOURNAL_MODE"] = mode
    settings = SpoolSettings(directory=work / f"side-{mode}-{count}", min_free_bytes=1 << 20, max_bytes=1 << 40)
    held = Spool.open(settings)
    lanes = [LaneWriter.open(lane_directory(held.directory, held.id, slot), settings) for slot in range(count)]
    files = [
        os.open(work / f"side-{mode}-{count}-{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for n in range(count)
    ]
    body, key, steps = os.urandom(1 << 20), ShardKey("p", "l", "g", "", 0, 1), 24

    def puts(lane: LaneWriter) -> None:
        for step in range(steps):
            numbers = range(step * 4, step * 4 + 4)
            lane.put([Pull(key, 1, "s", "lz4", 1 << 22, n, n + 1, 1, False, False, 1.0, 1.0, body) for n in numbers])

    def appends(file: int) -> None:
        for _ in range(steps):
            os.writev(file, [body] * 4)
            os.fdatasync(file)

    with ThreadPoolExecutor(count) as pool:
        put = timed(lambda: list(pool.map(puts, lanes)))
        append = timed(lambda: list(pool.map(appends, files)))
    for one in (*lanes, held):
        one.close()
    for file in files:
        os.close(file)
    del os.environ["SLS_SIEM_JOURNAL_MODE"]
    moved = steps * 4 * count * len(body) / MB
    return moved / put, moved / append


def measure(mode: str, size: int, work: Path) -> tuple[float, list[str]]:
    """The ratio, and the cells of the table."""
    os.environ["SLS_SIEM_JOURNAL_MODE"] = mode
    settings = SpoolSettings(directory=work / f"{mode}-{size}", min_free_bytes=1 << 20, max_bytes=1 << 40)
    held = Spool.open(settings)
    lane = lane_directory(held.directory, held.id, 0)
    writer, reader = LaneWriter.open(lane, settings), LaneReader.open(lane, settings)
    body, key, count = os.urandom(size), ShardKey("p", "l", "g", "", 0, 1), max(40, min(400, (256 << 20) // size))
    plain = os.open(work / f"plain-{mode}-{size}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(number: int) -> None:
        writer.put([Pull(key, 1, "s", "lz4", size * 4, number, number + 1, 1, False, False, 1.0, 1.0, body)])

    def append() -> None:
        os.write(plain, body)
        os.fdatasync(plain)

    puts, appends = [], []
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
        mode, f"{size >> 10} KiB", f"{size / middle / MB:.0f}", f"{middle * 1000:.2f}",
        f"{sorted(puts)[int(count * 0.99) - 1] * 1000:.1f}", f"{size / best / MB:.0f}", f"**{best / middle:.2f}**",
        f"{size * count / drained / MB:.0f}",
    ]  # fmt: skip


def drain(reader: LaneReader) -> None:
    """Read and ack everything."""
    while batches := reader.read(0, 16, 64 << 20):
        reader.ack(batches)
