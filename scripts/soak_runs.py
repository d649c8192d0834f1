"""One run after another, each from its own seed, until the hours are over or one fails."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def in_turn(
    name: str, hours: float, seed: int, live: Callable[[Path, int], str], keep: Callable[[Path], object] = lambda _: None,
) -> int:  # fmt: skip
    """How many have gone well, from `seed` on; SystemExit(1) at the first that has not, whose directory stays.

    `live` gets the directory and the seed and says in a line what it saw; `keep` may put more into the directory that stays.
    """
    until, first = time.monotonic() + hours * 3600, seed
    while time.monotonic() < until:
        work = Path(tempfile.mkdtemp(prefix=f"sls-siem-{name}-{seed}-"))
        try:
            said = live(work, seed)
        except AssertionError as error:
            keep(work)
            print(f"seed {seed} FAILED, see {work}: {error}", flush=True)
            raise SystemExit(1) from error
        print(said, flush=True)
        shutil.rmtree(work)
        seed += 1
    return seed - first
