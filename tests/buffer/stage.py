"""Scenes for the crash tests: each prepares a spool, then does one thing to it, and may be killed or fed errors meanwhile.

    python -m tests.buffer.stage JOURNAL_MODE

reads commands from its standard input and answers on its standard output, one line each. It forks for each, because a
fresh interpreter costs fifty times as much.

    prepare SCENE DIRECTORY   -> ready PID      the scene is set; the process waits
    go                        -> done STATUS    the scene is played to its end, or the process died (a negative signal)
    check SCENE DIRECTORY     -> a JSON list    what is not as promised, from a process that knows only the disk
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from buffer import budget
from buffer.adopt import adopt
from buffer.errors import SpoolBroken, SpoolError
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Batch, Tally
from buffer.writer import LaneWriter
from tests.buffer.power import promise, workload

#: The standard output as it was given; what logs print goes to the standard error.
ANSWERS = os.dup(1)
#: What a process ends with that met an exception which is not the spool's.
RAW = 3


class House:
    """A spool below `directory`, its lane, and the marks of what was promised."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "marks").touch()
        self.mark = workload.Marks(str(directory / "marks"), append=True)
        self.settings = settings(directory / "spool")
        self.at = dict.fromkeys(range(workload.SHARDS), 1000)
        self.letters = 0

    @contextmanager
    def sides(self) -> Iterator[tuple[LaneWriter, LaneReader]]:
        spool = Spool.open(self.settings)
        lane = lane_directory(spool.directory, spool.id, 0)
        writer, reader = LaneWriter.open(lane, self.settings), LaneReader.open(lane, self.settings)
        try:
            yield writer, reader
        finally:
            reader.close()
            writer.close()
            spool.close()

    def put(self, writer: LaneWriter, *shards: int) -> None:
        pulls = [workload.pull(shard, self.at[shard], 1) for shard in shards]
        names = [f"{p.key.shard}/{p.begin}/{p.epoch}" for p in pulls]
        self.mark("will", "put", *names)
        writer.put(pulls)
        self.mark("did", "put", *names)
        for shard in shards:
            self.at[shard] += workload.GROUPS

    def ack(self, reader: LaneReader, batches: list[Batch], *states: str) -> None:
        letters = []
        for state in states:
            self.letters += 1
            letters.append(workload.letter(f"id{self.letters}", state))
        names = [f"{p.key.shard}/{p.begin}/{p.epoch}" for b in batches for p in b.pulls]
        words = [*names, "|", *(f"{d.sls_id}:{d.state}:{d.tries}" for d in letters)]
        self.mark("will", "ack", *words)
        reader.ack(batches, letters, Tally({"r": 9}, {"r": 9 - len(letters)}, {}))
        self.mark("did", "ack", *words)

    def ack_some(self, reader: LaneReader, *states: str) -> None:
        self.ack(reader, reader.read(0, 2, 1 << 20), *states)

    def release(self, reader: LaneReader) -> None:
        self.mark("will", "release")
        reader.release("index:i")
        self.mark("did", "release")

    def resend(self, reader: LaneReader) -> None:
        due = reader.due(4, 1 << 20)
        delivered, refused = due[::2], [workload.letter(d.sls_id, "dead", d.tries + 1) for d in due[1::2]]
        words = [*(d.sls_id for d in delivered), "|", *(f"{d.sls_id}:dead:{d.tries}" for d in refused)]
        self.mark("will", "settle", *words)
        reader.settle_dead(delivered, refused)
        self.mark("did", "settle", *words)

    def fill(self, writer: LaneWriter, reader: LaneReader) -> None:
        """Batches that wait, letters in every state."""
        for shards in ((0, 1), (1, 2), (0,), (0, 1, 2), (2,)):
            self.put(writer, *shards)
        self.ack(reader, reader.read(0, 1, 1), "parked", "parked", "dead")
        self.release(reader)
        self.ack(reader, reader.read(0, 1, 1), "parked", "dead")
        self.resend(reader)


def settings(directory: Path) -> SpoolSettings:
    """On a tmpfs: what SIGKILL leaves does not depend on the file system."""
    made = workload.settings(directory)
    return SpoolSettings(
        directory=directory, max_bytes=made.max_bytes, min_free_bytes=made.min_free_bytes,
        dead_letter_max_bytes=made.dead_letter_max_bytes, force_file_system=True,
    )  # fmt: skip


Act = Callable[[], None]
Prepare = Callable[[House], Iterator[Act]]


def put(house: House) -> Iterator[Act]:
    with house.sides() as (writer, reader):
        house.fill(writer, reader)

        def act() -> None:
            house.put(writer, 0, 1)
            house.put(writer, 2)

        yield act


def ack(house: House) -> Iterator[Act]:
    with house.sides() as (writer, reader):
        house.fill(writer, reader)

        def act() -> None:
            house.ack(reader, reader.read(0, 2, 1 << 20), "dead", "parked")
            house.ack(reader, reader.read(0, 1, 1 << 20))

        yield act


def letters(house: House) -> Iterator[Act]:
    with house.sides() as (writer, reader):
        house.fill(writer, reader)

        def act() -> None:
            house.release(reader)
            house.resend(reader)

        yield act


def sweep(house: House) -> Iterator[Act]:
    """Opening, with what puts and unlinks that never came about have left."""
    with house.sides() as (writer, reader):
        house.fill(writer, reader)
        folder = writer.directory / "v"
    for number in range(3):
        (folder / f"orphan{number}.val").write_bytes(b"half of a body")

    def act() -> None:
        with house.sides():
            pass

    yield act


def rebuild(house: House) -> Iterator[Act]:
    with house.sides() as (writer, reader):
        house.fill(writer, reader)
        lane = writer.directory
    for path in lane.glob("cache.db*"):
        path.unlink()

    def act() -> None:
        spool = Spool.open(house.settings)
        spool.recover()
        spool.close()

    yield act


def take_over(house: House) -> Iterator[Act]:
    """`spool` is the dead host's; `ours` takes it over."""
    with house.sides() as (writer, reader):
        house.fill(writer, reader)
    Spool.open(settings(house.directory / "ours")).close()

    def act() -> None:
        adopt(settings(house.directory / "ours"), house.settings.directory)

    yield act


def come_home(house: House) -> Iterator[Act]:
    """The host whose lanes were taken over is there again."""
    for act in take_over(house):
        act()

    def open_again() -> None:
        spool = Spool.open(house.settings)
        spool.recover()
        spool.close()

    yield open_again


def work(house: House) -> Iterator[Act]:
    """Everything, by somebody who goes on after every error of the spool's as consumers and senders do."""
    with house.sides() as (writer, reader):
        house.fill(writer, reader)

        def act() -> None:
            for round_ in range(3):
                _try(lambda: house.put(writer, 0, 1), lambda: house.put(writer, 0, 1))
                _try(lambda: house.put(writer, 2), lambda: house.put(writer, 2))
                states = ("dead", "parked")[: round_ + 1]
                _try(partial(house.ack_some, reader, *states))
                _try(lambda: house.release(reader), lambda: house.resend(reader))

        yield act

    def again() -> None:
        with house.sides():
            pass

    _try(again)


def _try(*steps: Act) -> None:
    for step in steps:
        try:
            step()
        except SpoolBroken:
            return
        except SpoolError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)


SCENES: dict[str, Prepare] = {
    "put": put, "ack": ack, "letters": letters, "sweep": sweep, "rebuild": rebuild, "adopt": take_over, "return": come_home,
    "work": work,
}  # fmt: skip


def check(scene: str, directory: Path) -> list[str]:
    """What is not as promised."""
    marks = (directory / "marks").read_text().splitlines()
    if scene == "adopt":
        adopt(settings(directory / "ours"), directory / "spool")  # run again until it ends well
    if scene in {"adopt", "return"}:
        return _adopted(directory, marks)
    return promise.faults(directory, marks, rebuilt=scene == "rebuild", settings_of=settings)


def _adopted(directory: Path, marks: list[str]) -> list[str]:
    """All is in the spool that took over, once; nothing is at home any more, but the positions are."""
    promised = promise.promised(marks)
    theirs, ours = Spool.open(settings(directory / "spool")), Spool.open(settings(directory / "ours"))
    try:
        theirs.recover()
        found = [str(fault) for fault in ours.recover()]
        lane = lane_directory(theirs.directory, theirs.id, 0)
        reader = LaneReader.open(ours.directory / "lanes" / lane.name, ours.settings)
        found += promise.batches(reader, promised) + promise.letters(ours.directory, promised)
        reader.close()
        there = theirs.lanes()
        if sum(one.batches + one.dead + one.due + one.parked for one in there) or any((lane / "v").iterdir()):
            found.append(f"still at home: {there}")
        writer = LaneWriter.open(lane, theirs.settings)
        known = [writer.position(workload.key(shard)) for shard in range(workload.SHARDS)]
        writer.close()
        return found + [f"position forgotten: {p}" for p in known if p is None or p.put is None]
    finally:
        theirs.close()
        ours.close()


def _answer(*words: object) -> None:
    os.write(ANSWERS, (" ".join(map(str, words)) + "\n").encode())


def forked(what: Callable[..., None], *arguments: object) -> int:
    """Runs it in a child of its own; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        what(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(RAW)


def _play(scene: str, directory: Path, ready: int, start: int) -> None:
    for act in SCENES[scene](House(directory)):
        os.write(ready, b".")
        os.read(start, 1)
        act()


def _check(scene: str, directory: Path) -> None:
    try:
        found = check(scene, directory)
    except Exception:
        found = [traceback.format_exc()]
    _answer(json.dumps(found))


def serve() -> None:
    """Until the standard input ends."""
    for line in sys.stdin:
        command, *words = line.split()
        if command == "prepare":
            (ready, is_ready), (start, go) = os.pipe(), os.pipe()
            child = forked(_play, words[0], Path(words[1]), is_ready, start)
            os.close(is_ready)
            alive = os.read(ready, 1)
            _answer("ready" if alive else "failed", child)
            os.close(ready)
            os.close(start)
        elif command == "go":
            os.write(go, b".")
            os.close(go)
            _answer("done", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        elif command == "check":
            os.waitpid(forked(_check, words[0], Path(words[1])), 0)


if __name__ == "__main__":
    os.environ["SLS_SIEM_JOURNAL_MODE"] = sys.argv[1]
    os.dup2(2, 1)
    budget.BALLAST = 1 << 16  # the real one costs a memory file system more than all the rest
    serve()
