"""Which consumer slots join a source. Decided once per run of the supervisor, by whoever comes first, for all.

A source with fewer shards than there are slots is not joined by all of them: idle members cost heartbeats and make
SLS move shards about. The decision stands in `<run>/slots.json` under a lock until the supervisor starts again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from worker.report import write_atomically


@dataclass(frozen=True, slots=True)
class Joined:
    """A source's slots."""

    slots: tuple[int, ...]
    shards: int
    spare: int | None = None
    """The one of them that stands by: it joins last, so that SLS gives it no shard while the others live."""

    @property
    def reading(self) -> tuple[int, ...]:
        """Those among which SLS will share the shards."""
        return tuple(slot for slot in self.slots if slot != self.spare)


def choose(source: str, shards: int, slots: int, decided: Mapping[str, Joined]) -> Joined:
    """min(slots, shards + 1) of them: those with the fewest shards so far, ties by rendezvous hash."""
    load = dict.fromkeys(range(slots), 0.0)
    spares = dict.fromkeys(range(slots), 0)
    for other in decided.values():
        for slot in other.reading:
            load[slot] = load.get(slot, 0.0) + other.shards / len(other.reading)
        if other.spare is not None:
            spares[other.spare] = spares.get(other.spare, 0) + 1
    reading = sorted(range(slots), key=lambda slot: (load[slot], _weight(source, slot)))[: min(slots, max(shards, 1))]
    rest = [slot for slot in range(slots) if slot not in reading]
    if not rest or not shards:
        return Joined(tuple(sorted(reading)), shards)
    spare = min(rest, key=lambda slot: (load[slot], spares[slot], _weight(source, slot)))
    return Joined(tuple(sorted([*reading, spare])), shards, spare)


def _weight(source: str, slot: int) -> str:
    return hashlib.sha256(f"{source}\0{slot}".encode()).hexdigest()


def decide(run: Path, boot: str, source: str, shards: int, slots: int) -> Joined:
    """Take the lock, look what stands, decide if nothing does. The network was asked before."""
    with Lock(run / "slots.lock"):
        path = run / "slots.json"
        decided = _read(path, boot, slots)
        if source not in decided:
            decided[source] = choose(source, shards, slots, decided)
            rows = {
                name: {"slots": one.slots, "shards": one.shards, "spare": one.spare} for name, one in decided.items()
            }
            write_atomically(path, orjson.dumps({"boot": boot, "slots": slots, "sources": rows}))
        return decided[source]


def are_decided(run: Path, boot: str, slots: int, sources: Iterable[str]) -> bool:
    """Whether all of these are: a source waits for those in front of it in the file, while they answer."""
    return set(sources) <= _read(run / "slots.json", boot, slots).keys()


def note_beat(run: Path, boot: str, source: str, slot: int) -> None:
    """This slot is in the group of the source."""
    write_atomically(_beat_path(run, source, slot), boot.encode())


def have_beaten(run: Path, boot: str, source: str, slots: Iterable[int]) -> bool:
    """Whether all of these are in the group, in this run of the supervisor."""
    try:
        return all(_beat_path(run, source, slot).read_bytes() == boot.encode() for slot in slots)
    except OSError:
        return False


def _beat_path(run: Path, source: str, slot: int) -> Path:
    return run / f"joined-{hashlib.sha256(source.encode()).hexdigest()[:16]}-{slot}"


def _read(path: Path, boot: str, slots: int) -> dict[str, Joined]:
    try:
        found: Any = orjson.loads(path.read_bytes())
        if found["boot"] != boot or found["slots"] != slots:
            return {}
        return {
            name: Joined(tuple(one["slots"]), one["shards"], one.get("spare")) for name, one in found["sources"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class Lock:
    """An flock for a few lines. The kernel gives it back when we die."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def try_take(self) -> bool:
        """Without waiting; give it back with `release`."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)
