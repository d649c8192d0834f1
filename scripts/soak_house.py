"""`scripts/soak house`: one day after another, each from its own seed, until the hours are over or something is lost."""

from __future__ import annotations

import argparse

from scripts.soak_runs import in_turn
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
    days = in_turn(
        "soak", given.hours, given.seed,
        lambda work, seed: day.live(work, seed, rounds=given.rounds, rate=given.rate, step=given.step),
    )  # fmt: skip
    print(f"{days} days, nothing lost, nothing left behind")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
