"""Misbehaviour on request: rules that say which call goes wrong, how, and how often."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import Any

#: before the call: drop, hang, delay (then goes on), status.
#: after it, so that its effect has happened: drop_after, status_after.
#: to its answer: garbage, flip (one bit), wrong_count, wrong_size, truncate (the connection ends early),
#: cut (a consistent but short body), bomb, no_headers, empty, body (any text), slow (bytes a second).
_BEFORE = {"drop", "hang", "delay", "status"}
_AFTER = {"drop_after", "status_after"}
_ANSWER = {
    "garbage",
    "flip",
    "wrong_count",
    "wrong_size",
    "truncate",
    "cut",
    "bomb",
    "no_headers",
    "empty",
    "body",
    "slow",
}
KINDS = frozenset(_BEFORE | _AFTER | _ANSWER)


@dataclass(slots=True)
class Fault:
    kind: str
    operation: str = "*"  # a glob: pull, heartbeat, checkpoint, get_checkpoint, cursor, ...
    project: str = "*"
    logstore: str = "*"
    shard: int | None = None
    consumer: str = "*"
    probability: float = 1.0
    after: int = 0  # calls that match and are left alone first
    count: int | None = None  # how often it happens, then no more
    seconds: float = 3600.0
    status: int = 500
    code: str = "InternalServerError"
    message: str = "injected"
    text: str | None = None  # instead of the JSON error, or as the body
    headers: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ("x-log-cursor", "x-log-count", "x-log-bodyrawsize")
    amount: int = 1  # how far counts and sizes are off; the bomb's size; bytes a second
    matched: int = 0
    happened: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind}")
        self.names = tuple(self.names)

    def concerns(self, call: Mapping[str, Any]) -> bool:
        return (
            fnmatch.fnmatchcase(call["operation"], self.operation)
            and fnmatch.fnmatchcase(call["project"], self.project)
            and fnmatch.fnmatchcase(call["logstore"], self.logstore)
            and fnmatch.fnmatchcase(call["consumer"], self.consumer)
            and (self.shard is None or self.shard == call["shard"])
        )


class Faults:
    """The rules in force; the first that strikes decides."""

    def __init__(self, seed: int = 1) -> None:
        self._rules: list[Fault] = []
        self._random = Random(seed)
        self._lock = threading.Lock()

    def add(self, kind: str, operation: str = "*", **keys: Any) -> Fault:
        fault = Fault(kind, operation, **keys)
        with self._lock:
            self._rules.append(fault)
        return fault

    def load(self, rules: Iterable[Mapping[str, Any]]) -> None:
        known = {one.name for one in fields(Fault)}
        for rule in rules:
            self.add(**{key: value for key, value in rule.items() if key in known})

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self._rules.remove(fault)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def dump(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._rules]

    def strike(self, call: Mapping[str, Any]) -> Fault | None:
        if not self._rules:
            return None
        with self._lock:
            for fault in self._rules:
                if fault.concerns(call) and self._happens(fault):
                    return fault
        return None

    def _happens(self, fault: Fault) -> bool:
        fault.matched += 1
        if fault.matched <= fault.after or (fault.count is not None and fault.happened >= fault.count):
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        fault.happened += 1
        return True
