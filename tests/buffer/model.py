"""The plainest store that keeps the contract of `buffer/storage.py`, in memory: it shows that the contract's test asks for nothing
that only diskcache can do.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from buffer.errors import SpoolDamaged, SpoolLocked
from buffer.judge import judge_all
from buffer.settings import SpoolSettings
from buffer.values import Answer, Batch, DeadLetter, Position, Pull, ShardKey, Tally


@dataclass
class Memory:
    """What would lie on disk."""

    settings: SpoolSettings
    batches: dict[int, Batch] = field(default_factory=dict)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    positions: dict[ShardKey, Position] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    last: int = 0
    taken: set[str] = field(default_factory=set)
    ringing: tuple[int, int] = field(default_factory=os.pipe)


class Side:
    """One side; a second one of its kind is refused."""

    kind = ""

    def __init__(self, memory: Memory) -> None:
        if self.kind in memory.taken:
            raise SpoolLocked(f"there is a {self.kind} already")
        memory.taken.add(self.kind)
        self.memory = memory

    def close(self) -> None:
        self.memory.taken.discard(self.kind)


class MemoryIntake(Side):
    """See `buffer.storage.Intake`."""

    kind = "intake"

    def put(self, pulls: Sequence[Pull]) -> list[Answer]:
        answers, changed, stored = judge_all(pulls, {p.key: self.position(p.key) for p in pulls})
        if stored:
            self.memory.last += 1
            plain = tuple(dataclasses.replace(pull, first=False) for pull in stored)
            size = sum(len(pull.body) for pull in stored)
            self.memory.batches[self.memory.last] = Batch(self.memory.last, plain, time.time(), size)
            self.memory.positions.update(changed)
            os.write(self.memory.ringing[1], b".")
        return answers

    def position(self, key: ShardKey) -> Position | None:
        return self.memory.positions.get(key)

    def start_epoch(self, key: ShardKey, epoch: int, checkpoint: int | None) -> None:
        self.memory.positions[key] = Position(epoch, None, checkpoint)

    def note_checkpoints(self, rows: Mapping[ShardKey, tuple[int, int]]) -> None:
        for key, (epoch, cursor) in rows.items():
            known = self.position(key)
            if known is None or known.epoch < epoch:
                self.memory.positions[key] = Position(epoch, None, cursor)
            elif known.epoch == epoch:
                self.memory.positions[key] = Position(epoch, known.put, cursor)

    def skip_lost(self, key: ShardKey, epoch: int, cursor: int, source: str, groups: int) -> None:
        del source, groups
        known = self.position(key)
        self.memory.positions[key] = Position(
            epoch, cursor, known.checkpoint if known and known.epoch == epoch else None
        )

    def backlog_age(self) -> float:
        times = [batch.time for batch in self.memory.batches.values()]
        return max(0.0, time.time() - min(times)) if times else 0.0


class MemoryOutlet(Side):
    """See `buffer.storage.Outlet`."""

    kind = "outlet"

    def read(self, after: int, limit: int, max_bytes: int) -> list[Batch]:
        found: list[Batch] = []
        for number, batch in sorted(self.memory.batches.items()):
            if number > after and len(found) < limit:
                if found and sum(b.bytes for b in found) + batch.bytes > max_bytes:
                    break
                found.append(batch)
        return found

    def ack(
        self,
        batches: Sequence[Batch],
        buried: Sequence[DeadLetter] = (),
        tally: Tally | None = None,
        set_aside: Sequence[tuple[Batch, int, str]] = (),
    ) -> None:
        del tally, set_aside
        if any(batch.id not in self.memory.batches for batch in batches):
            raise SpoolDamaged("acked twice")
        for batch in batches:
            del self.memory.batches[batch.id]
        self.memory.letters.update({letter.sls_id: letter for letter in buried})

    def may_bury(self) -> bool:
        return sum(4096 for _ in self.memory.letters) < self.memory.settings.dead_letter_quota

    def due(self, limit: int, max_bytes: int) -> list[DeadLetter]:
        del max_bytes
        return [letter for letter in self.memory.letters.values() if letter.state == "due"][:limit]

    def parked(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for letter in self.memory.letters.values():
            if letter.state == "parked":
                found[letter.hold] = found.get(letter.hold, 0) + 1
        return found

    def oldest_parked(self, hold: str, after: str = "") -> DeadLetter | None:
        letters = list(self.memory.letters.values())
        first = next((place for place, one in enumerate(letters, 1) if one.sls_id == after), 0)
        return next((one for one in letters[first:] if one.state == "parked" and one.hold == hold), None)

    def release(self, hold: str) -> int:
        chosen = [one for one in self.memory.letters.values() if one.state == "parked" and one.hold == hold]
        for one in chosen:
            self.memory.letters[one.sls_id] = dataclasses.replace(one, state="due", hold="")
        return len(chosen)

    def settle_dead(self, delivered: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> None:
        for letter in delivered:
            del self.memory.letters[letter.sls_id]
        self.memory.letters.update({letter.sls_id: letter for letter in refused})

    def remember(self, name: str, value: str) -> None:
        self.memory.facts[name] = value

    def recall(self, name: str) -> str | None:
        return self.memory.facts.get(name)

    def bell(self) -> int:
        return self.memory.ringing[0]

    def quiet(self) -> None:
        os.set_blocking(self.memory.ringing[0], False)
        try:
            os.read(self.memory.ringing[0], 4096)
        except BlockingIOError:
            return
