"""What the spool is doing when the power goes: put, ack, bury, park, release, resend, replay and purge of dead letters, new
epochs, checkpoints, a replayed time range, another spool's lane taken over.

    python -m tests.buffer.power.workload JOURNAL_MODE SEED PUTS [--tolerant] DIRECTORY MARKS

`--tolerant` goes on after errors of the spool's, as consumers and senders do, and ends well after a few. A writer thread and
a reader thread, each on its own handle as in life. Every step is marked before and after, so that the checker knows what had
been promised (`did`) and what may or may not have happened (`will`).
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from buffer.adopt import adopt
from buffer.errors import SpoolError
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Batch, DeadLetter, Position, Pull, ShardKey, Tally
from buffer.writer import LaneWriter

GROUPS = 3
SHARDS = 3
#: Shards of the lane `replay`, which has no positions, and of the other host's spool.
REPLAYED, ADOPTED = 50, 70
#: Errors after which a tolerant side gives up.
PATIENCE = 8


def settings(directory: Path) -> SpoolSettings:
    """Small enough for a small disk."""
    return SpoolSettings(
        directory=directory, max_bytes=100 << 20, min_free_bytes=1 << 20, dead_letter_max_bytes=8 << 20
    )


def key(shard: int) -> ShardKey:
    """One of the workload's shards."""
    return ShardKey("p", "l", "g", "", shard, 1)


def body(shard: int, begin: int, epoch: int) -> bytes:
    """Bytes that tell where they belong; sizes from a few bytes to 200 KB."""
    text = f"{shard}/{begin}/{epoch};".encode()
    return text * (1 + random.Random(begin * 7 + shard).choice((1, 20, 600, 12_000)))


def pull(shard: int, begin: int, epoch: int) -> Pull:
    """The pull that begins there."""
    data = body(shard, begin, epoch)
    return Pull(
        key=key(shard), epoch=epoch, source="s", codec="none", raw_size=len(data), begin=begin, next=begin + GROUPS,
        groups=GROUPS, sparse=False, suspect=False, arrived=1.0, pulled=2.0, body=data,
    )  # fmt: skip


def letter(sls_id: str, state: str, tries: int = 1) -> DeadLetter:
    """An event that Splunk refused."""
    return DeadLetter(
        sls_id=sls_id, log=sls_id.encode() * 40, source="s", project="p", logstore="l", shard=0, cursor="1", place=0,
        topic="t", status=400, code=6, text="Invalid data format", index="i", sourcetype="st", time=3.0, tries=tries,
        state=state, hold="index:i" if state == "parked" else "",
    )  # fmt: skip


class Marks:
    """Lines in the recorder's own log, in order with the disk's writes; or in a file, one after the other."""

    def __init__(self, path: str, *, append: bool = False) -> None:
        self._fd = os.open(path, os.O_WRONLY | (os.O_APPEND if append else 0))

    def __call__(self, *words: object) -> None:
        # Always at offset 0: a write that crosses a page would reach the recorder in two pieces. (A file opened to append
        # appends all the same.)
        # By a system call that the spool never makes, so that an error injected into the spool's does not hit this one.
        os.pwritev(self._fd, [(" ".join(map(str, words)) + "\n").encode()], 0)


class Sides:
    """The spool, both sides of its lane, and the lane that `replay` writes."""

    def __init__(self, where: Path) -> None:
        self.settings = settings(where)
        self.spool = Spool.open(self.settings)
        lane = lane_directory(self.spool.directory, self.spool.id, 0)
        self.writer = LaneWriter.open(lane, self.settings)
        self.reader = LaneReader.open(lane, self.settings)
        self.replay = LaneWriter.open(lane.with_name(f"{self.spool.id}-replay"), self.settings)
        self.replayed = 1000


def write(lane: LaneWriter, puts: int, chance: random.Random, mark: Marks, sides: Sides | None = None) -> None:
    """Puts of one to four pulls; now and then a checkpoint, a re-pull, a new epoch, a replayed range."""
    known = {shard: lane.position(key(shard)) for shard in range(SHARDS)}
    epoch = {shard: found.epoch if found else 1 for shard, found in known.items()}
    position = {shard: _goes_on_at(found) for shard, found in known.items()}
    for number in range(puts):
        pulls: list[Pull] = []
        for shard in chance.sample(range(SHARDS), chance.randint(1, SHARDS)):
            pulls.append(pull(shard, position[shard], epoch[shard]))
            position[shard] += GROUPS
        put(lane, pulls, mark)
        if chance.random() < 0.2:
            lane.put(pulls[:1])  # a re-pull: nothing may come of it
        if chance.random() < 0.2:
            shard = pulls[0].key.shard
            mark("will", "checkpoint", shard, epoch[shard], position[shard])
            lane.note_checkpoints({key(shard): (epoch[shard], position[shard])})
            mark("did", "checkpoint", shard, epoch[shard], position[shard])
        if number % 25 == 24:
            shard = chance.randrange(SHARDS)
            epoch[shard] += 1
            position[shard] -= 6 * GROUPS
            mark("will", "epoch", shard, epoch[shard], position[shard])
            lane.start_epoch(key(shard), epoch[shard], position[shard])
            mark("did", "epoch", shard, epoch[shard], position[shard])
        if sides and chance.random() < 0.1:
            put(sides.replay, [replace(pull(REPLAYED, sides.replayed, 1), first=True)], mark)
            sides.replayed += GROUPS


def put(lane: LaneWriter, pulls: Sequence[Pull], mark: Marks) -> None:
    """One put, with its marks."""
    names = [f"{p.key.shard}/{p.begin}/{p.epoch}" for p in pulls]
    mark("will", "put", *names)
    lane.put(pulls)
    mark("did", "put", *names)


def _goes_on_at(known: Position | None) -> int:
    if known is None:
        return 1000
    return known.put if known.put is not None else known.checkpoint or 1000


def drain(
    lane: LaneReader, chance: random.Random, mark: Marks, done: threading.Event, keep: int, prefix: str = ""
) -> None:
    """Acks, one or several batches at once, leaving the newest; buries and parks; releases and resends."""
    number = 0
    while True:
        finished = done.is_set()
        batches = lane.read(0, 6, 16 << 20)
        if len(batches) > keep:
            number = settle(lane, batches[: chance.randint(1, len(batches) - keep)], number, chance, mark, prefix)
        elif finished:
            return
        else:
            time.sleep(0.001)
        if chance.random() < 0.3:
            resend(lane, chance, mark)
        if chance.random() < 0.1:
            operate(lane, chance, mark)


def settle(
    lane: LaneReader, batches: Sequence[Batch], number: int, chance: random.Random, mark: Marks, prefix: str
) -> int:
    """One ack, with what it buries."""
    letters = []
    for _ in range(chance.choice((0, 0, 1, 3))):
        number += 1
        letters.append(letter(f"{prefix}id{number}", chance.choice(("dead", "parked"))))
    names = [f"{p.key.shard}/{p.begin}/{p.epoch}" for b in batches for p in b.pulls]
    words = [*names, "|", *(f"{d.sls_id}:{d.state}:{d.tries}" for d in letters)]
    mark("will", "ack", *words)
    lane.ack(batches, letters, Tally({"r": 9}, {"r": 9 - len(letters)}, {}))
    mark("did", "ack", *words)
    return number


def resend(lane: LaneReader, chance: random.Random, mark: Marks) -> None:
    """The hold ends; what was parked goes, or is refused for good."""
    if chance.random() < 0.5:
        mark("will", "release")
        lane.release("index:i")
        mark("did", "release")
    due = lane.due(4, 1 << 20)
    if due:
        delivered, refused = due[::2], [letter(d.sls_id, "dead", d.tries + 1) for d in due[1::2]]
        words = [*(d.sls_id for d in delivered), "|", *(f"{d.sls_id}:dead:{d.tries}" for d in refused)]
        mark("will", "settle", *words)
        lane.settle_dead(delivered, refused)
        mark("did", "settle", *words)


def operate(lane: LaneReader, chance: random.Random, mark: Marks) -> None:
    """`dead replay` or `dead purge`."""
    word, act = chance.choice((("replay", lane.make_due), ("purge", lane.remove_dead)))
    mark("will", word)
    act(None)
    mark("did", word)


def leave_a_spool(where: Path, mark: Marks) -> None:
    """Another host's, with batches and letters in it; the host is gone."""
    sides = Sides(where)
    for begin in range(1000, 1000 + 8 * GROUPS, GROUPS):
        put(sides.writer, [pull(ADOPTED, begin, 1), pull(ADOPTED + 1, begin, 1)], mark)
    settle(sides.reader, sides.reader.read(0, 2, 1 << 20), 0, random.Random(4), mark, "other-")
    for one in (sides.reader, sides.writer, sides.replay, sides.spool):
        one.close()


def take_over(ours: Path, other: Path, mark: Marks) -> None:
    """What that host left comes to us."""
    mark("will", "adopt")
    adopt(settings(ours), other)
    mark("did", "adopt")


def patiently(act: Callable[[], None], tolerant: bool, mark: Marks) -> None:
    """Again after errors of the spool's, a few times."""
    for _ in range(PATIENCE):
        try:
            act()
        except SpoolError as error:
            if not tolerant:
                raise
            mark("failed", type(error).__name__, str(error)[:200].replace("\n", " "))
        else:
            return


def main(seed: int, puts: int, tolerant: bool, directory: Path, marks: str) -> None:
    """Run both sides until `puts` are made and all but a few batches are drained."""
    mark = Marks(marks)
    leave_a_spool(directory / "other", mark)
    sides = Sides(directory / "spool")
    done = threading.Event()
    faults: list[BaseException] = []
    chance, theirs = random.Random(seed), random.Random(seed + 1)
    drained = Marks(marks)

    def guarded() -> None:
        try:
            patiently(lambda: drain(sides.reader, theirs, drained, done, 3, f"{theirs.random()}-"), tolerant, drained)
        except BaseException as fault:
            faults.append(fault)
            raise

    other = threading.Thread(target=guarded)
    other.start()
    mark("begins")
    try:
        patiently(lambda: write(sides.writer, puts // 2, chance, mark, sides), tolerant, mark)
        patiently(lambda: take_over(directory / "spool", directory / "other", mark), tolerant, mark)
        patiently(lambda: write(sides.writer, puts // 2, chance, mark, sides), tolerant, mark)
    finally:
        done.set()
        other.join()
    if faults:
        raise SystemExit(f"the reader failed: {faults[0]!r}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    is_tolerant = "--tolerant" in arguments
    if is_tolerant:
        arguments.remove("--tolerant")
    os.environ["SLS_SIEM_JOURNAL_MODE"] = arguments[0]
    main(int(arguments[1]), int(arguments[2]), is_tolerant, Path(arguments[3]), arguments[4])
