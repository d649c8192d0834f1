"""The live picture: what the children report, what the lanes say and how the supervisor sees it, in one document."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from buffer.outside import LaneStats, document
from supervisor.child import Child, State

#: Seconds over which rates are reckoned.
WINDOW = 60.0
STALE_AFTER = 10.0


def iso(when: float | None) -> str | None:
    """Unix seconds as ISO 8601 UTC."""
    return (
        None
        if when is None
        else datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def read_reports(run: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """child → what it last wrote; a missing or torn file is left out."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            found[name] = orjson.loads((run / f"{name}.json").read_bytes())
    return found


@dataclass(slots=True)
class Rates:
    """How fast the spool grows and drains, over the last minute."""

    samples: deque[tuple[float, int, int, int]] = field(default_factory=deque)
    """(monotonic, bytes waiting, groups put, groups settled)."""

    def note(self, now: float, waiting: int, put: int, settled: int) -> None:
        """Add a sample."""
        self.samples.append((now, waiting, put, settled))
        while now - self.samples[0][0] > WINDOW:
            self.samples.popleft()

    def full_in(self, room: int) -> float | None:
        """Seconds until the room is used up at this rate; None when it does not grow."""
        growth = self._slope(1)
        return room / growth if growth > 0 else None

    def drained_in(self, groups: int) -> float | None:
        """Seconds until the backlog is gone at this rate; None when it does not shrink."""
        if not groups:
            return 0.0
        net = self._slope(3) - self._slope(2)
        return groups / net if net > 0 else None

    def _slope(self, column: int) -> float:
        if len(self.samples) < 2:
            return 0.0
        first, last = self.samples[0], self.samples[-1]
        took = last[0] - first[0]
        return float(last[column] - first[column]) / took if took > 0 else 0.0


def state_of(
    children: Sequence[Child], holds: Sequence[dict[str, Any]], *, stopping: bool, spool_level: int, memory_level: int
) -> tuple[str, str]:
    """One word and its reason."""
    if stopping:
        return "stopping", "asked to stop"
    waiting = [c.name for c in children if c.state is State.STARTING or (c.state is State.BACKOFF and not c.restarts)]
    if waiting and not all(c.first_beat for c in children if c.state is State.RUNNING):
        return "starting", f"waiting for {', '.join(waiting[:4])}"
    if any(not c.restarts and c.state is State.STARTING for c in children):
        return "starting", f"waiting for {', '.join(waiting[:4])}"
    if spool_level:
        return "paused", "the spool is full or the disk is: pulling stops, draining goes on"
    if memory_level >= 2:
        return "paused", "the memory budget is nearly used: pulling stops"
    if holds:
        worst = holds[0]
        return "degraded", f"{worst['kind']} {worst['name']}: {worst['error']}"
    down = [c.name for c in children if c.state is not State.RUNNING]
    if down:
        return "degraded", f"{', '.join(down[:4])} not running"
    return "running", "all is well"


def merge_holds(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of all children: the same hold once, with its oldest start and all its events."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for hold in report.get("holds", []):
            key = hold["kind"], hold["name"]
            known = merged.setdefault(key, {**hold, "events": 0})
            known["since"] = min(known["since"], hold["since"])
            known["events"] += hold["events"]
    found = sorted(merged.values(), key=lambda h: h["since"])
    return [{**h, "since": iso(h["since"]), "next_probe": iso(h["next_probe"])} for h in found]


def merge_sources(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """source → its shards, with who holds them."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for shard in report.get("facts", {}).get("shards", []):
            shown = {key: value for key, value in shard.items() if key != "source"}
            sources.setdefault(shard["source"], []).append({"child": report["child"], **shown})
    return [{"name": name, "shards": sorted(s, key=lambda x: x["shard"])} for name, s in sorted(sources.items())]


def dead_letters(lanes: Iterable[LaneStats]) -> dict[str, Any]:
    """How many, how large, and why."""
    found: dict[str, Any] = {"count": 0, "bytes": 0, "reasons": {}}
    for lane in lanes:
        found["count"] += lane.dead + lane.due + lane.parked
        found["bytes"] += lane.dead_bytes
        for reason, events in lane.reasons.items():
            found["reasons"][reason] = found["reasons"].get(reason, 0) + events
    return found


def spool_document(
    directory: Path, lanes: list[LaneStats], rates: Rates, *, max_bytes: int, level: int, ballast: bool
) -> dict[str, Any]:
    """`spool stats`, with what only a running supervisor knows."""
    shown = document(directory, lanes, max_bytes, level, ballast)
    rates.note(time.monotonic(), shown["bytes"], shown["books"]["put"], shown["books"]["settled"])
    shown["full_in_seconds"] = rates.full_in(max(0, max_bytes - shown["bytes"]))
    shown["drained_in_seconds"] = rates.drained_in(shown["groups"])
    return shown


def is_stale(status: dict[str, Any], now: float) -> bool:
    """Nobody has written it for a while: the supervisor is gone."""
    try:
        return now - datetime.fromisoformat(status["time"]).timestamp() > STALE_AFTER
    except (KeyError, ValueError):
        return True
