"""`scripts/soak consumer`: one chaos run after another, `start = "begin"` and `"end"` in turn, each from its own seed, until the
hours are over or something is lost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.worker import chaos


def main() -> int:
    """0: nothing was lost, repeated by a kill, or miscounted."""
    asked = argparse.ArgumentParser(prog="scripts/soak consumer", description=__doc__)
    asked.add_argument("--hours", type=float, default=1.0)
    asked.add_argument("--seed", type=int, default=1, help="of the first run")
    asked.add_argument("--rounds", type=int, default=5, help="of every trouble a run")
    asked.add_argument("--rate", type=int, default=1500, help="logs that come in a second")
    asked.add_argument("--step", type=int, default=500, help="LogGroups of four logs between two troubles")
    given = asked.parse_args()
    with tempfile.NamedTemporaryFile(prefix="sls-siem-chaos-", suffix=".log") as log:
        os.dup2(log.fileno(), 2)  # what the consumers say
        return soak(given, Path(log.name))


def soak(given: argparse.Namespace, log: Path) -> int:
    """Run after run."""
    until, seed = time.monotonic() + given.hours * 3600, given.seed
    while time.monotonic() < until:
        work = Path(tempfile.mkdtemp(prefix=f"sls-siem-chaos-{seed}-"))
        start = ("end", "begin")[seed % 2]
        try:
            said = chaos.live(work, seed, start, rounds=given.rounds, rate=given.rate, step=given.step)
        except AssertionError as error:
            shutil.copy(log, work / "consumers.log")
            print(f"seed {seed} FAILED, see {work}: {error}", flush=True)
            return 1
        print(said, flush=True)
        shutil.rmtree(work)
        seed += 1
    print(f"{seed - given.seed} runs, nothing lost")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
