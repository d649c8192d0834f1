"""`scripts/bench`: raw MB per CPU-second, against something in the same run. Never a test: machines differ.

scripts/bench whole     end to end: SLS emulator → consumers → spool → senders → HEC emulator, both encoders
scripts/bench spool     a durable put against append + fdatasync of the same bytes
scripts/bench encode    the encoders against the SDK's walk and upb + orjson
scripts/bench start     start-up time of the command line, memory and CPU of an idle house
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from supervisor.memory import pss
from tests.end_to_end.house import ROOT, House
from tests.waiting import poll

MB = 1e6


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and of their children that have ended."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def table(title: str, rows: list[list[str]]) -> None:
    """Markdown, ready for docs/performance.md."""
    sys.stdout.write(f"\n{title}\n\n")
    for number, row in enumerate(rows):
        sys.stdout.write("| " + " | ".join(row) + " |\n")
        if number == 0:
            sys.stdout.write("|" + "---|" * len(row) + "\n")
    sys.stdout.flush()


def whole(megabytes: int, work: Path) -> None:
    """End to end at the default settings, from running on: 2 consumers, 2 senders, 8 shards."""
    rows = [
        [
            "encoder",
            "raw MB",
            "wall s",
            "raw MB/s",
            "CPU s",
            "consumers",
            "senders",
            "supervisor",
            "raw MB per CPU-second",
        ]
    ]
    for encoder in ("compiled", "python"):
        amount = megabytes if encoder == "compiled" else max(64, megabytes // 4)
        rows.append(_whole(encoder, amount, work / encoder))
    table("End to end", rows)


def _whole(encoder: str, megabytes: int, work: Path) -> list[str]:
    os.environ["SLS_SIEM_ENCODER"] = encoder
    with House(work, shards=8, consumers=2, senders=2) as house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        before = {pid: cpu_seconds([pid]) for pid in house.tree()}
        began = time.monotonic()
        for _ in range(megabytes // 64):
            house.sls.post("append", bytes=64 * 10**6)
        raw = sum(s["raw_bytes"] for s in house.sls.get("shards"))
        logs = sum(s["logs"] for s in house.sls.get("stats")["generated"].values())
        poll(lambda: house.hec.get("stats")["distinct"] >= logs, f"{logs} logs; {house.tail()}", 560, 0.2)
        wall = time.monotonic() - began
        spent = {pid: cpu_seconds([pid]) - before.get(pid, 0.0) for pid in house.tree()}
        kinds = {c["pid"]: c["kind"] for c in house.status()["children"]}
        by_kind = {kind: sum(s for pid, s in spent.items() if kinds.get(pid, "supervisor") == kind) for kind in
                   ("consumer", "sender", "supervisor")}  # fmt: skip
        total = sum(by_kind.values())
        house.stop()
    return [
        encoder, f"{raw / MB:.0f}", f"{wall:.1f}", f"{raw / MB / wall:.0f}", f"{total:.1f}", f"{by_kind['consumer']:.1f}",
        f"{by_kind['sender']:.1f}", f"{by_kind['supervisor']:.1f}", f"**{raw / MB / total:.0f}**",
    ]  # fmt: skip


def spool(work: Path) -> None:
    """Durable puts of one size, against append + fdatasync of the same bytes on the same file system, in turn."""
    rows = [
        [
            "journal",
            "bytes a put",
            "put MB/s",
            "p50 ms",
            "p99 ms",
            "append + fdatasync MB/s",
            "ratio",
            "read + ack MB/s",
        ]
    ]
    rows += [
        _spool(mode, size, work) for mode in ("wal", "truncate") for size in (64 << 10, 256 << 10, 1 << 20, 4 << 20)
    ]
    table("A durable put (medians)", rows)


def _spool(mode: str, size: int, work: Path) -> list[str]:
    from buffer.reader import LaneReader
    from buffer.settings import SpoolSettings
    from buffer.spool import Spool, lane_directory
    from buffer.values import Pull, ShardKey
    from buffer.writer import LaneWriter

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
    drained = timed(partial(_drain, reader))
    median, best = statistics.median(puts), statistics.median(appends)
    for one in (reader, writer, held):
        one.close()
    os.close(plain)
    return [
        mode, f"{size >> 10} KiB", f"{size / median / MB:.0f}", f"{median * 1000:.2f}",
        f"{sorted(puts)[int(count * 0.99) - 1] * 1000:.1f}", f"{size / best / MB:.0f}", f"**{best / median:.2f}**",
        f"{size * count / drained / MB:.0f}",
    ]  # fmt: skip


def _drain(reader: object) -> None:
    while batches := reader.read(0, 16, 64 << 20):  # type: ignore[attr-defined]
        reader.ack(batches)  # type: ignore[attr-defined]


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def start(work: Path) -> None:
    """The command line's start, and an idle house of 4 + 4 children with 64 quiet shards."""
    command = [sys.executable, "-m", "supervisor", "--help"]
    times = [timed(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True)) for _ in range(7)]
    with House(work / "idle", shards=64, consumers=4, senders=4) as house:
        house.start()
        poll(lambda: house.status().get("state") == "running", f"running; {house.tail()}", 90)
        poll(lambda: len([s for x in house.status()["sources"] for s in x["shards"]]) == 64, "all shards are held", 90)
        before, began = cpu_seconds(house.tree()), time.monotonic()
        poll(lambda: time.monotonic() - began > 20, "twenty seconds of nothing", 30, 0.5)
        spent, took = cpu_seconds(house.tree()) - before, time.monotonic() - began
        footprint = pss(house.tree())
        house.stop()
    table("Start and idle", [
        ["what", "is"],
        ["`sls-siem --help`, wall, median of 7", f"{statistics.median(times):.2f} s"],
        ["idle, 64 quiet shards, 4 + 4 children: share of one core", f"{100 * spent / took:.1f} %"],
        ["idle, 4 + 4 children: PSS", f"{footprint / MB:.0f} MB"],
    ])  # fmt: skip


def encode() -> None:
    """Its own program."""
    subprocess.run([sys.executable, "-m", "scripts.bench_encode"], cwd=ROOT, check=True)


def main() -> None:
    """Parse, name the machine, run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["whole", "spool", "encode", "start"])
    parser.add_argument("--megabytes", type=int, default=1024, help="raw, for `whole` (default 1024)")
    given = parser.parse_args()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    sys.stdout.write(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} × {model}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="sls-siem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        parts: dict[str, Callable[[], None]] = {
            "whole": lambda: whole(given.megabytes, work), "spool": lambda: spool(work), "encode": encode,
            "start": lambda: start(work),
        }  # fmt: skip
        for part in given.parts:
            parts[part]()


if __name__ == "__main__":
    main()
