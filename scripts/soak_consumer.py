"""`scripts/soak consumer`: one chaos run after another, `start = "begin"` and `"end"` in turn, each from its own seed, until the
hours are over or something is lost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from scripts.soak_runs import in_turn
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

    def live(work: Path, seed: int) -> str:
        start = ("end", "begin")[seed % 2]
        return chaos.live(work, seed, start, rounds=given.rounds, rate=given.rate, step=given.step)

    runs = in_turn("chaos", given.hours, given.seed, live, lambda work: shutil.copy(log, work / "consumers.log"))
    print(f"{runs} runs, nothing lost")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
