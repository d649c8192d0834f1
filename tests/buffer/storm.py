"""A writer and a reader that are killed at random, over and over, and a third process that looks on.

    python -m tests.buffer.storm JOURNAL_MODE KILLS

prints as JSON what was not as promised, and how much was done meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from buffer import outside
from buffer.audit import verify
from buffer.reader import LaneReader
from buffer.spool import Spool, lane_directory
from buffer.writer import LaneWriter
from tests.buffer.power import promise, workload
from tests.buffer.stage import forked, settings

#: The standard output as it was given; what logs print goes to the standard error.
ANSWER = os.dup(1)


def write(home: Path, seed: int) -> None:
    """Puts, re-pulls, checkpoints and new epochs, from where the lane is."""
    lane, mark = _lane(home), workload.Marks(str(home / "marks"), append=True)
    writer = LaneWriter.open(lane, settings(home / "spool"))
    workload.write(writer, 1 << 60, random.Random(seed), mark)


def read(home: Path, seed: int) -> None:
    """Acks, burials, releases and resends."""
    lane, mark = _lane(home), workload.Marks(str(home / "marks"), append=True)
    reader = LaneReader.open(lane, settings(home / "spool"))
    workload.drain(reader, random.Random(seed), mark, threading.Event(), 3, prefix=f"{os.getpid()}-")


def look(home: Path) -> None:
    """From outside, at any moment: the books balance, and every body that a row names is sound."""
    directory = home / "spool"
    while True:
        lanes = [outside.lane_stats(lane) for lane in outside.lane_directories(directory)]
        books = outside.books(lanes)
        if books["put"] != books["settled"] + books["waiting"] + books["set_aside"] + books["purged"]:
            _say(home, f"books: {books}")
        for one in verify(directory, live=True):
            if one["fault"] and _is_named(directory, one["file"]):
                _say(home, f"{one['file']}: {one['fault']}")
        _say(home, "looked")


def _is_named(directory: Path, file: str) -> bool:
    """An ack may come between the row and its file."""
    return any(batch["file"] == file for batch in outside.batches(directory))


def _say(home: Path, text: str) -> None:
    with (home / "looks").open("a") as file:
        file.write(text + "\n")


def _lane(home: Path) -> Path:
    return lane_directory(home / "spool", (home / "spool" / "id").read_text(), 0)


def storm(home: Path, kills: int, seed: int) -> list[str]:
    """Kill one of them, or both, after 2 to 60 ms of their work; start them again."""
    chance = random.Random(seed)
    faults: list[str] = []
    looking = forked(look, home)
    running: dict[str, int] = {}
    doing: dict[str, Callable[[Path, int], None]] = {"writer": write, "reader": read}
    for number in range(kills):
        for name, what in doing.items():
            if name not in running:
                running[name] = forked(what, home, chance.getrandbits(30))
        time.sleep(chance.uniform(0.002, 0.12))  # not a wait: the moment of the kill is the chance
        chosen = list(doing) if number % 5 == 4 else [chance.choice(list(doing))]
        for name in chosen:
            os.kill(running[name], signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(running.pop(name), 0)[1])
            if status != -signal.SIGKILL:
                faults.append(f"{name} ended with {status} before it was killed")
    for child in [*running.values(), looking]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return faults


def main(kills: int) -> None:
    """Print what was found."""
    home = Path(tempfile.mkdtemp(prefix="sls-siem-storm-", dir="/dev/shm"))
    try:
        (home / "marks").touch()
        (home / "looks").touch()
        Spool.open(settings(home / "spool")).close()
        faults = storm(home, kills, 1)
        marks = (home / "marks").read_text().splitlines()
        looks = (home / "looks").read_text().splitlines()
        faults += [line for line in looks if line != "looked"]
        faults += promise.faults(home, marks, settings_of=settings)
        done = {
            "faults": faults[:50], "kills": kills, "looks": len(looks),
            "puts": sum(line.startswith("did put") for line in marks),
            "acks": sum(line.startswith("did ack") for line in marks),
        }  # fmt: skip
        os.write(ANSWER, json.dumps(done).encode())
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    os.environ["SLS_SIEM_JOURNAL_MODE"] = sys.argv[1]
    os.dup2(2, 1)
    main(int(sys.argv[2]))
