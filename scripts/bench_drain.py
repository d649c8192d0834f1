"""`scripts/bench drain`: one sender alone, draining a full lane: the hour after an outage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import zstd

from buffer.values import Pull, ShardKey
from scripts.bench_tools import MB, Figure, Given, cpu_seconds, table
from tests.emulators.generator import Generator
from tests.emulators.generator_wire import frame
from tests.end_to_end.house import Remote
from tests.waiting import poll
from tests.worker.sending import Sending
from worker.process import MALLOC
from worker.settings import RouteSettings

#: Raw bytes of one pull; SLS answers with up to about ten million.
PULL = 4_000_000
HEAD = ("case", "raw MB", "wall s", "CPU s", "raw MB per CPU-second", "requests", "posted MB")


def run(given: Given) -> list[Figure]:
    """The default settings, and pure Python."""
    compiled = measure("compiled", given.work, given.megabytes)
    python = measure("python", given.work, given.megabytes // 4, encoder="python")
    table("A sender alone, draining a full lane", HEAD, [compiled, python])
    return [Figure("sender alone, compiled encoder", float(compiled[4]), "raw MB per CPU-second")]


def measure(
    name: str, work: Path, megabytes: int, *, encoder: str = "compiled", codec: str = "zstd",
    routes: tuple[RouteSettings, ...] = (),
    generator: dict[str, Any] | None = None, hec_options: tuple[str, ...] = (), **hec: Any,
) -> list[str]:  # fmt: skip
    """CPU of the sender's process from its start to the last ack."""
    os.environ.update(MALLOC)
    os.environ["SLS_SIEM_ENCODER"] = encoder
    folder = work / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    remote = Remote("tests.emulators.hec", *hec_options, log=folder / "hec.log")
    if remote.ready["ca_file"]:
        hec["ca_file"] = Path(remote.ready["ca_file"])
    sending = Sending(folder, [remote.ready["url"]], remote.ready["token"], routes=routes, **hec)
    try:
        raw = 0
        for pull in pulls(megabytes * 1_000_000, codec, generator or {}):
            sending.writer.put([pull])
            raw += pull.raw_size
        began = time.monotonic()
        sending.start()
        poll(lambda: sending.waiting() == 0, f"drained: {sending.holds()}", 600, 0.1)
        wall = time.monotonic() - began
        spent = cpu_seconds([sending.process.pid])
        sending.stop()
        stats = remote.get("stats")
    finally:
        sending.close()
        remote.stop()
        del os.environ["SLS_SIEM_ENCODER"]
    requests = sum(stats["answers"].values())
    return [
        name,
        f"{raw / MB:.0f}",
        f"{wall:.1f}",
        f"{spent:.2f}",
        f"{raw / MB / spent:.0f}",
        f"{requests}",
        f"{stats['bytes'] / MB:.0f}",
    ]


def pulls(size: int, codec: str, options: dict[str, Any]) -> Iterator[Pull]:
    """Pulls of the generator's mix, as SLS would answer them."""
    made, cursor, generator = 0, 10**18, Generator(1, **options)
    key = ShardKey("p", "l", "g", "", 0, 1)
    while made < size:
        groups = generator.data(max_bytes=min(PULL, size - made))
        raw = b"".join(map(frame, groups))
        body = {"lz4": lambda b: lz4.block.compress(b, store_size=False), "zstd": lambda b: zstd.compress(b, 1)}[codec](
            raw
        )
        yield Pull(
            key,
            1,
            "s",
            codec,
            len(raw),
            cursor,
            cursor + len(groups),
            len(groups),
            False,
            False,
            time.time(),
            time.time(),
            body,
        )
        cursor += len(groups)
        made += len(raw)
