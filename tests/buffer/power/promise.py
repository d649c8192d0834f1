"""What had been promised when the power went, out of the marks; and whether the disk keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from buffer import outside
from buffer.adopt import adopt
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.writer import LaneWriter
from tests.buffer.power import workload


@dataclass(slots=True)
class Promise:
    """Must and may. A name in `may` is allowed and not required; what is in neither is an invention."""

    waiting: set[str] = field(default_factory=set)
    may_wait: set[str] = field(default_factory=set)
    dead: dict[str, set[str]] = field(default_factory=dict)
    """sls_id -> the states (with tries) that are right; "" among them: it may be absent."""
    epochs: dict[int, tuple[int, int]] = field(default_factory=dict)
    """shard -> epoch and the lowest position that is right for it."""
    checkpoints: dict[int, tuple[int, int]] = field(default_factory=dict)


def promised(marks: list[str]) -> Promise:
    """Fold the marks."""
    promise = Promise()
    for line in marks:
        word, _, rest = line.partition(" ")
        if word in {"will", "did"}:
            what, _, words = rest.partition(" ")
            _FOLD[what](promise, word == "did", words.split())
    return promise


def _put(promise: Promise, did: bool, names: list[str]) -> None:
    if not did:
        promise.may_wait.update(names)
        return
    promise.may_wait.difference_update(names)
    promise.waiting.update(names)
    for name in names:
        shard, begin, epoch = map(int, name.split("/"))
        if shard >= workload.SHARDS:
            continue
        promise.epochs[shard] = (epoch, begin + workload.GROUPS)


def _ack(promise: Promise, did: bool, words: list[str]) -> None:
    cut = words.index("|")
    names, letters = words[:cut], words[cut + 1 :]
    promise.waiting.difference_update(names)
    (promise.may_wait.difference_update if did else promise.may_wait.update)(names)
    for text in letters:
        sls_id, _, state = text.partition(":")
        promise.dead[sls_id] = {state} if did else {state, ""}


#  A letter whose burial failed ("" among its states) may come to light at the next start as it was buried.
def _release(promise: Promise, did: bool, words: list[str]) -> None:
    del words
    for states in promise.dead.values():
        for state in [s for s in states if s.startswith("parked:")]:
            if did and "" not in states:
                states.discard(state)
            states.add(state.replace("parked", "due"))


def _replay(promise: Promise, did: bool, words: list[str]) -> None:
    del words
    for states in promise.dead.values():
        for state in [s for s in states if s.startswith("dead:")]:
            if did and "" not in states:
                states.discard(state)
            states.add(state.replace("dead", "due"))


def _purge(promise: Promise, did: bool, words: list[str]) -> None:
    del words
    for states in promise.dead.values():
        for state in [s for s in states if s.startswith("dead:")]:
            if did and "" not in states:
                states.discard(state)
            states.add("")


def _adopt(promise: Promise, did: bool, words: list[str]) -> None:
    del words, promise, did  # what the other spool had is promised in either case


def _settle(promise: Promise, did: bool, words: list[str]) -> None:
    cut = words.index("|")
    for sls_id in words[:cut]:
        if did:
            promise.dead.pop(sls_id, None)
        else:
            promise.dead[sls_id].add("")
    for text in words[cut + 1 :]:
        sls_id, _, state = text.partition(":")
        promise.dead[sls_id] = {state} if did else promise.dead[sls_id] | {state}


def _epoch(promise: Promise, did: bool, words: list[str]) -> None:
    shard, epoch, checkpoint = map(int, words)
    if did:
        promise.epochs[shard] = (epoch, -1)
        promise.checkpoints[shard] = (epoch, checkpoint)


def _checkpoint(promise: Promise, did: bool, words: list[str]) -> None:
    shard, epoch, cursor = map(int, words)
    if did:
        promise.checkpoints[shard] = (epoch, cursor)


_FOLD = {
    "put": _put, "ack": _ack, "release": _release, "replay": _replay, "purge": _purge, "adopt": _adopt, "settle": _settle,
    "epoch": _epoch, "checkpoint": _checkpoint,
}  # fmt: skip


def faults(
    mounted: Path,
    marks: list[str],
    *,
    rebuilt: bool = False,
    settings_of: Callable[[Path], SpoolSettings] = workload.settings,
) -> list[str]:
    """Open the spool as the next start would, and name everything that is not as promised. `rebuilt`: an index may be."""
    promise = promised(marks)
    where = mounted / "spool"
    settings = settings_of(where)
    if not where.exists() and not promise.waiting:
        return []
    spool = Spool.open(settings)
    try:
        found = [f"recover: {fault}" for fault in spool.recover() if not rebuilt]
        _take_over(settings, mounted / "other")
        lane = lane_directory(spool.directory, spool.id, 0)
        if not lane.exists() and not promise.waiting:
            return found
        writer = LaneWriter.open(lane, settings)
        try:
            found += _batches_of_all(spool, promise) + letters(spool.directory, promise) + _positions(writer, promise)
            found += _books(spool, rebuilt) + _goes_on(writer, promise)
        finally:
            writer.close()
        return found
    finally:
        spool.close()


def _take_over(settings: SpoolSettings, other: Path) -> None:
    """What the other host left: run to its end, from whatever state the power cut left it in."""
    if (other / "id").exists() and (other / "format").exists():
        adopt(settings, other)


def _batches_of_all(spool: Spool, promise: Promise) -> list[str]:
    seen: list[str] = []
    found: list[str] = []
    for directory in outside.lane_directories(spool.directory):
        reader = LaneReader.open(directory, spool.settings)
        try:
            found += _read(reader, seen)
        finally:
            reader.close()
    return found + _compare(seen, promise)


def batches(reader: LaneReader, promise: Promise) -> list[str]:
    """What is wrong with a lane's batches when all that was promised is in it."""
    seen: list[str] = []
    return _read(reader, seen) + _compare(seen, promise)


def _read(reader: LaneReader, seen: list[str]) -> list[str]:
    found, after = [], 0
    while there := reader.read(after, 100, 256 << 20):
        after = there[-1].id
        for one in (p for b in there for p in b.pulls):
            name = f"{one.key.shard}/{one.begin}/{one.epoch}"
            seen.append(name)
            if bytes(one.body) != workload.body(one.key.shard, one.begin, one.epoch):
                found.append(f"corrupt: {name}")
    return found


def _compare(seen: list[str], promise: Promise) -> list[str]:
    found = [f"twice: {name}" for name, count in Counter(seen).items() if count > 1]
    found += [f"lost: {name}" for name in promise.waiting.difference(seen)]
    return found + [f"came back or invented: {name}" for name in set(seen) - promise.waiting - promise.may_wait]


def letters(directory: Path, promise: Promise) -> list[str]:
    """What is wrong with a spool's dead letters."""
    there = {d.sls_id: f"{d.state}:{d.tries}" for _, d in outside.dead(directory)}
    found = [f"dead {i}: {there[i]}, not {s}" for i, s in promise.dead.items() if i in there and there[i] not in s]
    found += [f"dead letter lost: {i}" for i, s in promise.dead.items() if i not in there and "" not in s]
    return found + [f"dead letter invented: {i}" for i in there if i not in promise.dead]


def _positions(writer: LaneWriter, promise: Promise) -> list[str]:
    found = []
    for shard, (epoch, lowest) in promise.epochs.items():
        position = writer.position(workload.key(shard))
        if position is None or position.epoch < epoch:
            found.append(f"shard {shard}: epoch {epoch} forgotten: {position}")
        elif position.epoch == epoch and lowest >= 0 and (position.put is None or position.put < lowest):
            found.append(f"shard {shard}: position {position} is behind {lowest}")
    for shard, (epoch, cursor) in promise.checkpoints.items():
        position = writer.position(workload.key(shard))
        if position is None or (position.epoch == epoch and (position.checkpoint or -1) < cursor):
            found.append(f"shard {shard}: checkpoint {cursor} forgotten: {position}")
    return found


def _books(spool: Spool, rebuilt: bool) -> list[str]:
    stats = spool.stats()
    books = stats.books
    balance = books["settled"] + books["waiting"] + books["set_aside"] + books["purged"]
    found = [] if books["put"] == balance else [f"books: put {books['put']} is not {balance}: {books}"]
    return found + [f"damaged: {lane}" for lane in stats.lanes if lane.damaged or (lane.rebuilt and not rebuilt)]


def _goes_on(writer: LaneWriter, promise: Promise) -> list[str]:
    """A re-pull of the last put is recognised, and the next put is stored and read."""
    found = []
    for shard, (epoch, lowest) in promise.epochs.items():
        position = writer.position(workload.key(shard))
        if lowest < 0 or position is None or position.put is None or position.epoch != epoch:
            continue
        again, fresh = writer.put(
            [workload.pull(shard, position.put - workload.GROUPS, epoch), workload.pull(shard, position.put, epoch)]
        )
        if again.outcome.value != "repull" or fresh.outcome.value != "stored":
            found.append(f"shard {shard}: re-pull {again}, next {fresh}")
    return found
