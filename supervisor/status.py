"""The live picture: what the children report, what the lanes say and how the supervisor sees it, in one document."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from buffer.outside import LaneStats
from supervisor.child import HANG_TIMEOUT, Child, State
from supervisor.rates import Sample

#: Seconds without a status.json; seconds for which it may lie ahead of the clock; seconds without a beat, of a child that beats
#: every second or so.
STALE_AFTER, AHEAD, SILENT_AFTER = 10.0, 300.0, 20.0
#: The supervisor's own holds, that stop all pulling.
PAUSING = {"disk": {"room", "stalled"}, "memory": {"budget"}}
#: What a hold of each kind means, in the words of somebody who was woken up for it.
TITLES = {
    "endpoint": "Splunk does not take", "token": "Splunk refuses the token", "index": "Splunk refuses an index",
    "route": "Splunk refuses nearly all events of a route", "payload": "an event is refused while others pass",
    "dead": "the dead letters are full",
    "source": "SLS refuses us or does not answer", "disk": "the disk does not take",
    "disk room": "no room on the disk", "memory": "the memory budget is used up",
}  # fmt: skip
ONE_OF = "a Splunk endpoint does not take, others do"
#: The gravest first: what stops all pulling, what needs a human, what holds up only some events.
GRAVITY = {
    kind: place
    for place, kind in enumerate(("disk", "memory", "token", "source", "endpoint", "dead", "index", "route", "payload"))
}


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


def state_of(
    children: Sequence[Child],
    holds: Sequence[dict[str, Any]],
    silent: Sequence[tuple[str, float]] = (),
    *,
    stopping: bool,
) -> tuple[str, str]:
    """One word and its reason. `silent`: children that should have beaten, and for how many seconds they have not."""
    if stopping:
        return "stopping", "asked to stop"
    waiting = [c.name for c in children if not c.restarts and c.state in {State.STARTING, State.BACKOFF}]
    if waiting:
        return "starting", f"waiting for {', '.join(waiting[:4])}"
    for hold in holds:
        if hold["kind"] in PAUSING and hold.get("name") in PAUSING[hold["kind"]]:
            return "paused", f"{hold['error']}: pulling stops, draining goes on"
    if silent:
        name, seconds = max(silent, key=lambda one: one[1])
        return "degraded", (
            f"{name} hangs: no sign of life for {seconds:.0f} s; it is replaced at {HANG_TIMEOUT:.0f} s, and its stacks"
            " are in the log then"
        )
    if holds:
        worst = holds[0]
        more = f" (and {len(holds) - 1} more)" if len(holds) > 1 else ""
        return (
            "degraded",
            f"{worst.get('title') or title(worst)}: {worst['kind']} {worst['name']}: {worst['error']}{more}",
        )
    down = [c.name for c in children if c.state is not State.RUNNING]
    if down:
        return "degraded", f"{', '.join(down[:4])} not running: started again by itself; the log says why it ended"
    return "running", "all is well"


def title(hold: Mapping[str, Any]) -> str:
    """Whose trouble it is."""
    return TITLES.get(f"{hold['kind']} {hold['name']}") or TITLES.get(hold["kind"], hold["kind"])


def silent(ages: Iterable[tuple[str, float | None]]) -> list[tuple[str, float]]:
    """Of (child, seconds since its last beat): those that hang, as far as one can tell so early."""
    return [(name, seconds) for name, seconds in ages if seconds is not None and seconds > SILENT_AFTER]


def merge_holds(reports: Iterable[dict[str, Any]], endpoints: int = 1) -> list[dict[str, Any]]:
    """Of all children: the same hold once, with its oldest start and all its events; the gravest first.

    `endpoints`: how many URLs there are; while not all of them are held, the others take.
    """
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for hold in report.get("holds", []):
            key = hold["kind"], hold["name"]
            known = merged.setdefault(key, {**hold, "events": 0})
            known["since"] = min(known["since"], hold["since"])
            known["events"] += hold["events"]
    found = sorted(merged.values(), key=lambda h: (GRAVITY.get(h["kind"], len(GRAVITY)), h["since"]))
    others = sum(h["kind"] == "endpoint" for h in found) < endpoints
    return [
        {**h, "title": ONE_OF if others and h["kind"] == "endpoint" else title(h), "since": iso(h["since"]),
         "next_probe": iso(h["next_probe"])}
        for h in found
    ]  # fmt: skip


def merge_sources(reports: Iterable[dict[str, Any]], names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """source → its shards, with who holds them; those of the settings (`names`) are there without any, too."""
    sources: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
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


def sample(lanes: list[LaneStats], counters: Mapping[tuple[str, str], int], now: float) -> Sample:
    """What rates are reckoned from."""

    def total(*names: str) -> int:
        return sum(value for (name, _), value in counters.items() if name in names)

    return Sample(
        now, waiting=sum(lane.bytes - lane.dead_bytes for lane in lanes), put=total("put"), settled=total("settled"),
        fetched=total("fetched_bytes"), delivered=total("delivered", "delivered_later"),
    )  # fmt: skip


def is_stale(status: dict[str, Any], now: float) -> bool:
    """Nobody has written it for a while: the supervisor is gone. One of a time to come is of a clock that was set back since,
    as after a power cut; who lives writes it anew each second."""
    try:
        return not -AHEAD <= now - datetime.fromisoformat(status["time"]).timestamp() <= STALE_AFTER
    except (KeyError, ValueError):
        return True
