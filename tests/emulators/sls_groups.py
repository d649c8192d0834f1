"""The server's side of a consumer group: who holds which shard, who may save a checkpoint, who has gone silent.

A state machine over values and `now`, without clock, lock or network. The states of a shard are those of the service:
`not_alloc`, `already_alloc`, `wait` (in-order, an ancestor is not done), `transfer` (its holder must stop listing it
before the next one gets it) and `over` (read-only and checkpointed at its end).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


class Refused(Exception):
    """An answer of the service's that is not 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class ShardView:
    """What the group must know of a shard of the logstore."""

    parents: tuple[int, ...]
    readonly: bool
    end: int


@dataclass(slots=True)
class Assignment:
    state: str = "not_alloc"
    owner: str = ""
    next: str = ""
    checkpoint: int | None = None
    saved_at: float = 0.0
    saved_by: str = ""


@dataclass(slots=True)
class ConsumerGroup:
    name: str
    timeout: float
    order: bool
    mismatch_status: int = 404
    forgotten: tuple[int, str] = 400, "NotExistConsumerWithBody"
    """What a consumer hears that the group does not know and that lists shards."""
    shards: dict[int, Assignment] = field(default_factory=dict)
    consumers: dict[str, float] = field(default_factory=dict)

    def heartbeat(self, consumer: str, held: Iterable[int], shards: Mapping[int, ShardView], now: float) -> list[int]:
        """The shards `consumer` has from now on."""
        self.tend(shards, now)
        listed = set(held)
        if consumer not in self.consumers and listed:
            raise Refused(*self.forgotten, f"consumer {consumer} does not exist, but its heartbeat lists shards")
        self.consumers[consumer] = now
        for shard, assigned in self.shards.items():
            if assigned.state == "transfer" and assigned.owner == consumer and shard not in listed:
                self._give(assigned, assigned.next)
        self._balance()
        return sorted(n for n, a in self.shards.items() if a.state == "already_alloc" and a.owner == consumer)

    def tend(self, shards: Mapping[int, ShardView], now: float) -> None:
        """Follow the logstore's shards, forget silent consumers, let children go when their parents are over."""
        for gone in self.shards.keys() - shards.keys():
            del self.shards[gone]
        for number, view in shards.items():
            if number not in self.shards:
                self.shards[number] = Assignment("wait" if self._must_wait(view, shards) else "not_alloc")
        for name in [name for name, beat in self.consumers.items() if now - beat > self.timeout]:
            self._forget(name)
        for number, assigned in self.shards.items():
            if assigned.state == "wait" and not self._must_wait(shards[number], shards):
                assigned.state = "not_alloc"
        self._balance()

    def save(
        self, consumer: str, shard: int, cursor: int, shards: Mapping[int, ShardView], now: float, *, force: bool
    ) -> None:
        """Move a checkpoint; without `force` only the holder may."""
        self.tend(shards, now)
        assigned = self.shards.get(shard)
        if assigned is None:
            raise Refused(404, "ShardNotExist", f"shard {shard} does not exist")
        if not force:
            self._must_hold(consumer, assigned)
        assigned.checkpoint, assigned.saved_at, assigned.saved_by = cursor, now, consumer
        at_end = shards[shard].readonly and cursor >= shards[shard].end
        if at_end:
            assigned.state, assigned.owner, assigned.next = "over", "", ""
        elif assigned.state == "over":
            assigned.state = "not_alloc"
        self.tend(shards, now)

    def set_order(self, order: bool) -> None:
        """true to false releases what waits; false to true is for shards still to come."""
        self.order = order
        if not order:
            for assigned in self.shards.values():
                if assigned.state == "wait":
                    assigned.state = "not_alloc"

    def _must_hold(self, consumer: str, assigned: Assignment) -> None:
        if consumer not in self.consumers:
            raise Refused(self.mismatch_status, "ConsumerNotExist", f"consumer {consumer} does not exist")
        if assigned.owner != consumer:
            raise Refused(self.mismatch_status, "ConsumerNotMatch", f"consumer {consumer} does not hold the shard")

    def _must_wait(self, view: ShardView, shards: Mapping[int, ShardView]) -> bool:
        """Ancestors that are gone are over."""
        return self.order and any(self._open(parent, shards) for parent in view.parents)

    def _open(self, number: int, shards: Mapping[int, ShardView]) -> bool:
        if number not in shards:
            return False
        assigned = self.shards.get(number)
        return (
            assigned is None
            or assigned.state != "over"
            or any(self._open(one, shards) for one in shards[number].parents)
        )

    def _forget(self, name: str) -> None:
        del self.consumers[name]
        for assigned in self.shards.values():
            if assigned.state == "transfer" and assigned.next == name:
                self._give(assigned, assigned.owner)
            if assigned.owner == name and assigned.state in {"already_alloc", "transfer"}:
                assigned.state, assigned.owner, assigned.next = "not_alloc", "", ""

    @staticmethod
    def _give(assigned: Assignment, consumer: str) -> None:
        assigned.state, assigned.owner, assigned.next = "already_alloc", consumer, ""

    def _load(self) -> dict[str, list[int]]:
        load: dict[str, list[int]] = {name: [] for name in self.consumers}
        for number, assigned in sorted(self.shards.items()):
            if assigned.state in {"already_alloc", "transfer"}:
                load[assigned.next or assigned.owner].append(number)
        return load

    def _balance(self) -> None:
        """Any two live consumers differ by one shard at most."""
        if not self.consumers:
            return
        load = self._load()
        for number, assigned in sorted(self.shards.items()):
            if assigned.state == "not_alloc":
                lightest = min(load, key=lambda name: (len(load[name]), name))
                self._give(assigned, lightest)
                load[lightest].append(number)
        while self._move_one(load):
            pass

    def _move_one(self, load: dict[str, list[int]]) -> bool:
        heaviest = max(load, key=lambda name: (len(load[name]), name))
        lightest = min(load, key=lambda name: (len(load[name]), name))
        movable = [n for n in load[heaviest] if self.shards[n].state == "already_alloc"]
        if len(load[heaviest]) - len(load[lightest]) <= 1 or not movable:
            return False
        self.shards[movable[-1]].state, self.shards[movable[-1]].next = "transfer", lightest
        load[heaviest].remove(movable[-1])
        load[lightest].append(movable[-1])
        return True
