"""The books of a house, each term against a witness that is not ours: LogGroups with SLS's own record, events with the ids that
Splunk has, what waits, what is dead and what was set aside with the files on disk, read here by their format alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Protocol

import lz4.block
import zstd

from tests.emulators.generator_wire import count_logs, parse_list
from tests.end_to_end.house import House


class Kept(Protocol):
    """Whatever has a spool, and `sls-siem` with its settings."""

    @property
    def spool(self) -> Path: ...

    def run(self, *command: str) -> CompletedProcess[str]: ...


_HEAD = struct.Struct("<8sHHQdIQ")
_SPARE = b"SLSSPARE"
"""All that is in a file that waits for its body: a host that is killed leaves some."""
_BATCH, _DEAD, _STATES = 1, 2, 3


@dataclass
class Files:
    """What lies in the lanes."""

    waiting: int = 0
    """LogGroups."""
    waiting_events: int = 0
    set_aside: int = 0
    """LogGroups."""
    dead: set[str] = field(default_factory=set)
    """Ids of letters, whatever their state."""


def look(spool: Path) -> Files:
    """Of a spool that nobody writes to just now."""
    found = Files()
    for lane in sorted(spool.glob("lanes/*")):
        paths = [path for path in (lane / "v").glob("*.val") if path.read_bytes() != _SPARE]
        bodies = sorted(map(_read, paths), key=lambda one: one[1])
        for kind, _, meta, payloads in bodies:
            if kind == _BATCH:
                found.waiting += sum(pull["groups"] for pull in meta)
                found.waiting_events += sum(map(_count, meta, payloads))
            elif kind == _DEAD:
                found.dead |= {letter["sls_id"] for letter in meta}
            elif kind == _STATES:
                for change in meta:
                    found.dead -= set(change.get("gone", ()))
                    found.dead &= set(change.get("only", found.dead))
        for path in (lane / "damaged").glob("*.val"):
            found.set_aside += sum(pull.get("groups", 0) for pull in _read(path)[2])
    return found


def _read(path: Path) -> tuple[int, int, list[dict[str, Any]], list[bytes]]:
    """Kind, sequence, what is described, its bytes."""
    data = path.read_bytes()
    _, _, kind, sequence, _, length, _ = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    meta = json.loads(data[_HEAD.size : at])
    payloads = []
    for one in meta:
        payloads.append(data[at : at + one["size"]])
        at += one["size"]
    return kind, sequence, meta, payloads


def _count(pull: dict[str, Any], body: bytes) -> int:
    raw = body
    if pull["codec"] == "lz4":
        raw = lz4.block.decompress(body, uncompressed_size=pull["raw_size"])
    elif pull["codec"] == "zstd":
        raw = zstd.decompress(body)
    return sum(map(count_logs, parse_list(raw)))


def books(house: Kept) -> dict[str, int]:
    """As the program tells them, out of the lanes."""
    done = house.run("spool", "stats", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)["books"]
    return found


def assert_balanced(house: Kept, *, purged: int = 0) -> tuple[dict[str, int], Files]:
    """What one spool that stands still can tell of itself: its books against its files. Both."""
    told, files = books(house), look(house.spool)
    assert told["waiting"] == files.waiting
    assert told["set_aside"] == files.set_aside
    assert told["purged"] == purged
    assert told["put"] == told["settled"] + files.waiting + files.set_aside + purged
    assert told["buried"] - told["delivered_later"] - told["dead_purged"] == len(files.dead)
    assert told["decoded"] == told["delivered"] + told["filtered"] + told["buried"]
    return told, files


def assert_books(
    house: House, *, filtered: AbstractSet[str] = frozenset(), purged: int = 0, unread: bool = False
) -> None:
    """Of a house that stands still. `filtered`: ids of the events of routes that drop; `purged`: LogGroups, by an operator;
    `unread`: SLS lets us have nothing."""
    told, files = assert_balanced(house, purged=purged)
    groups = 0 if unread else sum(shard["end"] - shard["first"] for shard in house.sls.get("shards"))
    assert told["put"] == groups, "none twice on the way in, and none missing"

    expected = set() if unread else house.expected()
    stored = {one for one in house.delivered() if not one.startswith("without-id-")}  # probes of `check`
    if files.set_aside or purged:
        assert told["decoded"] <= len(expected) - files.waiting_events
    else:
        assert told["decoded"] == len(expected) - files.waiting_events
    assert told["filtered"] == len(filtered)
    assert not stored - expected, "made up"
    if not (files.waiting or files.set_aside or purged):
        assert expected - stored == files.dead | filtered, "lost"
