"""`scripts/bench stages`: what each step of the way costs, one after the other in one process; CPU of this process only.

The sum is what a core could do were there no threads, loops and processes around the steps; the difference to `whole` is
what those cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from scripts.bench_tools import MB, Figure, Given, table
from tests.end_to_end.house import ROOT, Remote
from worker import sls
from worker.credentials import Credentials
from worker.decode import open_pull
from worker.encode import Encoder
from worker.hec import HecClient, gzip
from worker.intake import Intake
from worker.pack import Piece, Request, cut
from worker.process import MALLOC
from worker.routes import Router
from worker.settings import HecSettings, SourceSettings
from worker.settle import BatchWork


class Clock:
    """CPU seconds of this process by step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def __call__(self, name: str, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        began = time.process_time()
        found = work(*given, **named)
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
        self.calls[name] = self.calls.get(name, 0) + 1
        return found


def run(given: Given) -> list[Figure]:
    """In a process of its own, with the malloc of the children."""
    command = [sys.executable, "-m", "scripts.bench_stages", str(given.work), str(given.megabytes)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **MALLOC})
    return []


def main() -> None:
    """The steps."""
    work, megabytes = Path(sys.argv[1]), int(sys.argv[2])
    emulated_sls = Remote("tests.emulators.sls", "--shards", "1", "--fill", f"{megabytes}MB", log=work / "sls.log")
    emulated_hec = Remote("tests.emulators.hec", log=work / "hec.log")
    try:
        clock, raw = steps(work, emulated_sls, emulated_hec)
    finally:
        emulated_sls.stop()
        emulated_hec.stop()
    total = sum(clock.spent.values())
    rows = [
        (name, clock.calls[name], f"{1000 * spent / clock.calls[name]:.2f}", f"{1e9 * spent / raw:.3f}")
        for name, spent in clock.spent.items()
    ]
    table("The steps, one after the other", ("step", "calls", "ms a call", "ms a raw MB"), [
        *rows, ("**sum**", "", "", f"**{1e9 * total / raw:.3f}** ({raw / MB / total:.0f} raw MB per CPU-second)"),
    ])  # fmt: skip


def steps(work: Path, emulated_sls: Remote, emulated_hec: Remote) -> tuple[Clock, int]:
    """Everything of one shard, from SLS to Splunk."""
    clock = Clock()
    source = SourceSettings(
        name="s", project="p", logstore="l", endpoint=f"http://127.0.0.1:{emulated_sls.port}", consumer_group="g",
        start="begin", access_key_id="ak", access_key_secret="sk",
    )  # fmt: skip
    hec = HecSettings(urls=(f"http://127.0.0.1:{emulated_hec.port}",), token=emulated_hec.ready["token"])
    settings = SpoolSettings(directory=work / "spool", min_free_bytes=1 << 20)
    spool = Spool.open(settings)
    lane = lane_directory(spool.directory, spool.id, 0)
    writer, reader = LaneWriter.open(lane, settings), LaneReader.open(lane, settings)
    client, post = sls.SlsClient(source, Credentials(source)), HecClient(hec)
    encoder, key = Encoder(Router((), hec)), ShardKey("p", "l", "g", "", 0, 1)
    intake, cursor, raw = Intake(key, "s"), client.get_cursor_at(0, "begin"), 0
    while True:
        pulled = clock("pull", client.pull_raw, 0, cursor, 1000, codec="zstd")
        if not pulled.groups:
            break
        pull: Pull = clock("verify", intake.accept, pulled, cursor, 1, first=True)
        cursor = pulled.next
        raw += pull.raw_size
        clock("put", writer.put, [pull])
        (batch,) = clock("read", reader.read, 0, 64, 8 << 20)
        plain = clock("decompress", open_pull, batch.pulls[0])
        encoded = clock("encode", encoder.encode, batch.pulls[0], plain)
        whole = Piece(BatchWork(lane.name, batch), encoded, 0, 0, len(encoded))
        for request in clock("pack", pack, whole, hec.max_request_bytes):
            body = clock("gzip", gzip, [piece.view for piece in request.pieces])
            sent = clock("post", post.send, hec.urls[0], hec.token, body, compressed=True)
            if sent.status != 200:
                raise RuntimeError(f"the emulator refuses: {sent}")
            clock("settle", settle, request)
        clock("ack", reader.ack, [batch])
    for one in (reader, writer, spool, client):
        one.close()
    return clock, raw


def settle(request: Request) -> None:
    """Splunk has them."""
    for piece in request.pieces:
        piece.work.accept(piece.encoded, piece.first, piece.count)


def pack(piece: Piece, limit: int) -> list[Request]:
    """As the sender does, without what other pulls bring."""
    found = []
    for part in cut(piece, limit):
        request = Request("")
        request.add(part)
        found.append(request)
    return found


if __name__ == "__main__":
    main()
