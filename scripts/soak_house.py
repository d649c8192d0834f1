"""`scripts/soak house`: one day after another, each from its own seed, until the hours are over or something is lost."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.end_to_end import day


def main() -> int:
    """0: all days went well."""
    asked = argparse.ArgumentParser(prog="scripts/soak house", description=__doc__)
    asked.add_argument("--hours", type=float, default=8.0)
    asked.add_argument("--seed", type=int, default=1, help="of the first day")
    asked.add_argument("--rounds", type=int, default=3, help="of every disturbance a day")
    asked.add_argument("--rate", type=int, default=1000, help="logs that come in a second")
    asked.add_argument("--step", type=int, default=3000, help="logs between two disturbances")
    given = asked.parse_args()
    until, seed = time.monotonic() + given.hours * 3600, given.seed
    while time.monotonic() < until:
        work = Path(tempfile.mkdtemp(prefix=f"sls-siem-soak-{seed}-"))
        try:
            said = day.live(work, seed, rounds=given.rounds, rate=given.rate, step=given.step)
        except AssertionError as error:
            print(f"seed {seed} FAILED, see {work}: {error}", flush=True)
            return 1
        print(said, flush=True)
        shutil.rmtree(work)
        seed += 1
    print(f"{seed - given.seed} days, nothing lost, nothing left behind")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
