"""`scripts/bench`: raw MB per CPU-second, against something in the same run. Never a test: machines differ.

    scripts/bench                     every part, and one last table with the targets
    scripts/bench whole drain ...     only these

whole     end to end, both encoders, against the founding document's program and the SDK's ConsumerWorker, same emulators;
          and through one core that we fill
variety   end to end with other shapes: tiny groups, small and large logs, 20 sources, unfolded JSON
stages    what each step costs, one after the other
catchup   one shard far behind: a consumer alone, against the SDK's ConsumerWorker
drain     a sender alone on a full lane; gzip, request sizes, TLS
latency   from arrival in SLS to acceptance by HEC, idle and at half of what the same run carries
memory    PSS of 8 + 8 children, idle, loaded (--minutes, --rate), with a backlog
start     start-up times, CPU and memory of an idle house with 64 shards
encode    the encoders against the SDK's walk and upb + orjson
spool     a durable put against append + fdatasync of the same bytes
backlog   a lane with 10 GB, and with a million batches, against an empty one
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from scripts.bench_tools import Figure, Given, machine, table
from worker.process import MALLOC

#: In the order of the report. Each module has `run(given) -> list[Figure]`.
PARTS = {
    "whole": "scripts.bench_whole",
    "variety": "scripts.bench_variety",
    "stages": "scripts.bench_stages",
    "catchup": "scripts.bench_catchup",
    "drain": "scripts.bench_drain",
    "latency": "scripts.bench_latency",
    "memory": "scripts.bench_memory",
    "start": "scripts.bench_start",
    "encode": "scripts.bench_encode",
    "spool": "scripts.bench_spool",
    "backlog": "scripts.bench_backlog",
}


def main() -> None:
    """Parse, name the machine, run the parts, sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", default=list(PARTS), metavar="part", help=f"of {', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--megabytes", type=int, default=1024, help="raw, for the parts that move much (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of what is short (default 3)")
    parser.add_argument("--gigabytes", type=int, default=10, help="of backlog (default 10)")
    parser.add_argument("--batches", type=int, default=1_000_000, help="of backlog (default a million)")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="of load, for memory (default 1; the target is for 10)"
    )
    parser.add_argument("--rate", type=float, default=13.0, help="of that load, raw MB a second (default 13)")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not MALLOC.keys() <= os.environ.keys():  # the same malloc for what we run and for what it is compared with
        os.execve(sys.executable, [sys.executable, "-m", "scripts.bench_run", *sys.argv[1:]], os.environ | MALLOC)
    sys.stdout.write(f"{machine()}, {' '.join(sys.argv[1:]) or 'every part'}\n")
    os.environ.setdefault("TMPDIR", "/var/tmp")
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="sls-siem-bench-", dir=os.environ["TMPDIR"]) as directory:
        given = Given(
            Path(directory), asked.megabytes, asked.gigabytes, asked.batches, asked.rounds, asked.minutes, asked.rate
        )
        for part in asked.parts:
            work = given.work / part
            work.mkdir()
            found += importlib.import_module(PARTS[part]).run(replace(given, work=work))
    sum_up(found)


def sum_up(found: list[Figure]) -> None:
    """Every figure beside its target."""
    rows = [
        (f.what, f"{f.value:.3g}" if abs(f.value) < 1000 else f"{f.value:.0f}", f.unit, *map(f.words, (f.must, f.aim)), f.verdict)
        for f in found
    ]  # fmt: skip
    table("All of it", ("what", "is", "unit", "must", "aim", ""), rows)


if __name__ == "__main__":
    main()
