"""`scripts/bench drain`: one sender alone, draining a full lane: the hour after an outage."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
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
from tests.worker.sending import Sending, run_sender
from worker.child import ChildContext
from worker.process import MALLOC
from worker.settings import RouteSettings

#: Raw bytes of one pull; SLS answers with up to about ten million.
PULL = 4_000_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda raw: lz4.block.compress(raw, store_size=False),
    "zstd": lambda raw: zstd.compress(raw, 1),
}
HEAD = ("case", "raw MB", "wall s", "CPU s", "raw MB per CPU-second", "requests", "posted MB")


def run(given: Given) -> list[Figure]:
    """The default settings, then one thing changed at a time."""
    some = max(64, given.megabytes // 4)
    rows = [measure(name, given.work, size, **changed) for name, size, changed in cases(given.megabytes, some)]
    table("A sender alone, draining a full lane", HEAD, rows)
    rate = {row[0]: float(row[4]) for row in rows}
    unit = "raw MB per CPU-second"
    return [
        Figure("sender alone, compiled encoder", rate["default"], unit),
        Figure("sender alone, pure Python", rate["pure Python"], unit),
        Figure("sender alone, TLS", rate["TLS"], unit),
    ]


def cases(most: int, some: int) -> list[tuple[str, int, dict[str, Any]]]:
    """(name, raw MB, what differs)"""
    return [
        ("default", most, {}),
        ("pure Python", some // 2, {"encoder": "python"}),
        ("lz4 instead of zstd", some, {"codec": "lz4"}),
        ("no gzip", some, {"gzip": False}),
        ("zlib instead of ISA-L", some, {"target": run_with_zlib}),
        *((f"requests of {size} MiB", some, {"max_request_bytes": size << 20}) for size in (1, 2, 4, 8)),
        *((f"{number} in flight", some, {"in_flight": number}) for number in (1, 2, 8)),
        ("TLS", some, {"hec_options": ("--tls",)}),
    ]


def measure(
    name: str, work: Path, megabytes: int, *, encoder: str = "compiled", codec: str = "zstd",
    routes: tuple[RouteSettings, ...] = (),
    target: Callable[[ChildContext, Path | None, str], None] = run_sender, generator: dict[str, Any] | None = None,
    hec_options: tuple[str, ...] = (), **hec: Any,
) -> list[str]:  # fmt: skip
    """CPU of the sender's process to the last ack, without its start: what another takes that finds nothing to do."""
    os.environ.update(MALLOC)
    os.environ["SLS_SIEM_ENCODER"] = encoder
    folder = work / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    remote = Remote("tests.emulators.hec", *hec_options, log=folder / "hec.log")
    if remote.ready["ca_file"]:
        hec["ca_file"] = Path(remote.ready["ca_file"])
    sending = Sending(folder, [remote.ready["url"]], remote.ready["token"], routes=routes, **hec)
    sending.target = target
    try:
        started = cpu_of_start(sending)
        raw = 0
        for pull in pulls(megabytes * 1_000_000, codec, generator or {}):
            sending.writer.put([pull])
            raw += pull.raw_size
        began = time.monotonic()
        sending.start()
        poll(lambda: sending.waiting() == 0, f"drained: {sending.holds()}", 600, 0.1)
        wall = time.monotonic() - began
        spent = cpu_seconds([sending.process.pid]) - started
        sending.stop()
        stats = look(remote)
    finally:
        sending.close()
        remote.stop()
        del os.environ["SLS_SIEM_ENCODER"]
    requests = sum(stats["answers"].values())
    return [
        name, f"{raw / MB:.0f}", f"{wall:.1f}", f"{spent:.2f}", f"{raw / MB / spent:.0f}", f"{requests}",
        f"{stats['bytes'] / MB:.0f}",
    ]  # fmt: skip


def cpu_of_start(sending: Sending) -> float:
    """Seconds, until it has told for the first time that it lives."""
    told = sending.spool.run_directory / "sender-0.json"
    sending.start()
    poll(told.exists, "a sender starts", 30, 0.02)
    spent = cpu_seconds([sending.process.pid])
    sending.stop()
    return spent


def look(remote: Remote) -> dict[str, Any]:
    """Its statistics, whatever it speaks."""
    context = ssl.create_default_context(cafile=remote.ready["ca_file"] or None)
    with urllib.request.urlopen(remote.ready["url"] + "/_control/stats", timeout=60, context=context) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def run_with_zlib(context: ChildContext, hosts: Path | None, name_server: str) -> None:
    """A sender's process where ISA-L is missing."""
    from worker import hec

    hec.fast_zlib = None
    run_sender(context, hosts, name_server)


def pulls(size: int, codec: str, options: dict[str, Any]) -> Iterator[Pull]:
    """Pulls of the generator's mix, as SLS would answer them."""
    made, cursor, generator = 0, 10**18, Generator(1, **options)
    key = ShardKey("p", "l", "g", "", 0, 1)
    while made < size:
        groups = generator.data(max_bytes=min(PULL, size - made))
        raw = b"".join(map(frame, groups))
        body = COMPRESS[codec](raw)
        now = time.time()
        yield Pull(
            key, 1, "s", codec, len(raw), cursor, cursor + len(groups), len(groups), False, False, now, now, body
        )
        cursor += len(groups)
        made += len(raw)
