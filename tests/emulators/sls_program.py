"""The emulator as a process: `python -m tests.emulators.sls --port 8000 --shards 8 --fill 100000`.

Prints one JSON line when it is ready ({"endpoint": ..., "port": ..., "ca_file": ...}) and serves until TERM, INT or
`POST /_control/stop`.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from tests.emulators.generator import Generator
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_store import DAY

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_fill(text: str) -> tuple[int | None, int | None]:
    """`100000` is logs, `500MB` raw bytes: (logs, bytes)."""
    found = re.fullmatch(r"([\d_.]+)\s*([kmg]i?)?(b)?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"not a number of logs or bytes: {text}")
    number = int(float(found[1].replace("_", "")) * _UNITS[found[2] or ""])
    return (None, number) if found[3] else (number, None)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.emulators.sls", description="An SLS for tests.")
    made.add_argument("--port", type=int, default=0)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--project", default="p")
    made.add_argument("--logstore", default="l")
    made.add_argument("--shards", type=int, default=8)
    made.add_argument("--ak", default="ak")
    made.add_argument("--sk", default="sk")
    made.add_argument("--tls", action="store_true")
    made.add_argument("--ttl-days", type=float, default=30.0)
    made.add_argument("--fill", type=parse_fill, default=(0, None), help="100000 logs, or 500MB of raw bytes")
    made.add_argument("--repeat", type=int, default=1, help="store the fill so many times, by reference")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--log-bytes", type=int, default=None)
    made.add_argument("--logs-per-group", type=int, default=40)
    made.add_argument("--nasty", type=float, default=0.0, help="share of LogGroups that are nasty")
    made.add_argument("--shard", type=int, default=None, help="fill only this shard")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    sls = SlsEmulator(
        project=given.project,
        logstore=given.logstore,
        shards=given.shards,
        port=given.port,
        host=given.host,
        tls=given.tls,
        keys=[AccessKey(given.ak, given.sk)],
        ttl=given.ttl_days * DAY,
    )

    def on_signal(number: int, frame: FrameType | None) -> None:
        sls.asked_to_stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    _fill(sls, given)
    with sls:
        ca_file = str(sls.ca_file) if sls.tls else None
        sys.stdout.write(json.dumps({"endpoint": sls.endpoint, "port": sls.port, "ca_file": ca_file}) + "\n")
        sys.stdout.flush()
        while not sls.asked_to_stop.wait(1.0):
            pass
    return 0


def _fill(sls: SlsEmulator, given: argparse.Namespace) -> None:
    generator = Generator(given.seed, logs_per_group=given.logs_per_group, log_bytes=given.log_bytes, nasty=given.nasty)
    sls.generators[sls.project, sls.logstore] = generator
    logs, max_bytes = given.fill
    if logs == 0 and max_bytes is None:
        return
    sls.fill(logs, max_bytes=max_bytes, shard=given.shard, generator=generator)
    for shard in sls.store().shards.values():
        stored = list(shard.framed)
        for _ in range(given.repeat - 1):
            shard.append_framed(stored, sls.clock.now())
