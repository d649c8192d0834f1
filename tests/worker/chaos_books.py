"""The books of a chaos run, by (shard, cursor, index in the LogGroup). Pure: what SLS had, what lies in the spools, the verdict.

The witness is the emulator's own store: each body in a spool must be what was stored under its cursors, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.emulators.generator_wire import count_logs, parse_list
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_store import CheckpointRecord
from tests.worker.consuming import House, body_of

#: (shard, cursor of the LogGroup)
Group = tuple[int, int]
#: (shard, cursor of the LogGroup, the log's place in it)
Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Spooled:
    """One pull as it lies in a spool."""

    lane: tuple[str, int]
    """(host, slot)"""
    shard: int
    begin: int
    groups: tuple[bytes | None, ...]
    """None: the same wrong bytes came three times, and are kept as they came."""


@dataclass
class Account:
    """What became of everything."""

    logs: int = 0
    lost: set[Group] = field(default_factory=set)
    """In no spool, and not taken by retention."""
    taken: set[Group] = field(default_factory=set)
    """In no spool, and gone from SLS too."""
    invented: set[Group] = field(default_factory=set)
    """In a spool, and not what SLS had there."""
    suspect: set[Group] = field(default_factory=set)
    """Kept as the wrong bytes that SLS insisted on; the cursors are known."""
    copies: dict[Place, list[tuple[str, int]]] = field(default_factory=dict)
    """In more than one place: where."""

    def in_one_spool(self) -> dict[Place, list[tuple[str, int]]]:
        """Those that one host's spool has twice."""
        return {
            place: lanes for place, lanes in self.copies.items() if max(Counter(host for host, _ in lanes).values()) > 1
        }

    def unexplained(self, stood_still: set[tuple[str, int]]) -> set[Place]:
        """Twice in one spool, though none of the two processes had been stopped and woken. A kill makes none."""
        return {place for place, lanes in self.in_one_spool().items() if not stood_still & set(lanes)}


def reckon(had: Mapping[Group, bytes], gone: Mapping[int, int], spooled: Iterable[Spooled]) -> Account:
    """`had`: every LogGroup that must arrive; `gone`: shard → the first cursor that retention has left."""
    found, lanes = Account(), dict[Group, list[tuple[str, int]]]()
    for one in spooled:
        for at, group in enumerate(one.groups, one.begin):
            lanes.setdefault((one.shard, at), []).append(one.lane)
            if group is None:
                found.suspect.add((one.shard, at))
            elif had.get((one.shard, at)) != group:
                found.invented.add((one.shard, at))
    for here, data in had.items():
        logs = count_logs(data)
        found.logs += logs
        where = lanes.get(here, [])
        if not where:
            (found.taken if here[1] < gone.get(here[0], 0) else found.lost).add(here)
        if len(where) > 1:
            found.copies |= {(*here, place): where for place in range(logs)}
    return found


def stored_since(sls: SlsEmulator, starts: Mapping[int, int]) -> dict[Group, bytes]:
    """What the emulator stored at or after each shard's start; a shard without one was born later and counts whole."""
    return {
        (number, at): parse_list(framed)[0]
        for number, shard in sls.store().shards.items()
        for at, framed in enumerate(shard.framed, shard.first)
        if at >= starts.get(number, 0)
    }


def spooled_by(host: str, house: House) -> list[Spooled]:
    """All lanes of a host that has stopped."""
    return [
        Spooled(
            (host, slot),
            pull.key.shard,
            pull.begin,
            (None,) * pull.groups if pull.suspect else tuple(parse_list(body_of(pull))),
        )
        for slot in range(house.context.consumers)
        for batch in house.batches(slot)
        for pull in batch.pulls
    ]


def rewound(saved: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
    """Checkpoints that SLS accepted though a higher one had been."""
    highest: dict[int, int] = {}
    found = []
    for one in saved:
        if one.error:
            continue
        if one.cursor < highest.get(one.shard, 0):
            found.append(one)
        highest[one.shard] = max(one.cursor, highest.get(one.shard, 0))
    return found
