"""The document of `status` in words: pure functions from it to lines and tables, most important first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from supervisor.cli_output import size, span

#: Kinds of hold that do not end by themselves, or stop all reading.
HUMAN = {"token", "source", "disk", "dead"}
#: Seconds to a full spool that are too few to wait and see.
SOON_FULL = 7200.0
ALL_IS_WELL = "all is well"
#: Seconds of lag, and of age in the spool, that are worth a word: those of the alarms.
LAGGING, OLD = 300.0, 900.0
#: What is drained within so many seconds is no backlog.
FLOWS = 10.0


@dataclass(frozen=True, slots=True)
class Block:
    """A table, with or without a head."""

    rows: list[list[Any]]
    head: bool = True


def blocks(found: dict[str, Any], now: float) -> list[Block]:
    """The whole picture. Without a spool in the document there is only its first line."""
    title: list[list[Any]] = [["sls-siem", found["state"].upper(), found["reason"]]]
    if "spool" not in found:
        return [Block(title, head=False)]
    title.append(["", "", about(found, now)])
    made = [Block(title, head=False), Block(flow(found), head=False)]
    made += [Block(hold(one), head=False) for one in found["holds"]]
    return [*made, Block(sources(found)), Block(children(found))]


def about(found: dict[str, Any], now: float) -> str:
    """Where, since when, and of when the picture is."""
    us = found["supervisor"]
    at, since = datetime.fromisoformat(found["time"]), datetime.fromisoformat(us["since"])
    facts = [us.get("host", "-"), us["version"], f"pid {us['pid']}", f"up {span(at.timestamp() - since.timestamp())}"]
    if now - at.timestamp() > 10:
        facts.append(f"as of {at:%Y-%m-%d %H:%M:%S} UTC, {span(now - at.timestamp())} ago")
    return ", ".join(facts)


def is_live(found: dict[str, Any]) -> bool:
    """Whether a supervisor is there to go on with it."""
    return found["state"] not in {"stale", "down"}


def flow(found: dict[str, Any]) -> list[list[Any]]:
    """SLS → spool → Splunk, and what else counts."""
    spool, memory, letters = found["spool"], found["memory"], found["dead_letters"]
    live = is_live(found)
    rates = (
        found["rates"]
        if live and "rates" in found
        else {"fetched_bytes_per_second": 0, "delivered_events_per_second": 0}
    )
    shards = all_shards(found)
    lag, left = worst(shards)
    sls = [f"{many(len(shards), 'shard')} of {many(len(found['sources']), 'source')}"]
    sls += [f"{size(rates['fetched_bytes_per_second'])}/s come"] if live else []
    sls += [f"the newest log came {span(newest(shards))} ago"] if live and newest(shards) is not None else []
    sls += [f"SLS keeps the rest for {span(left)}"] if left is not None else []
    delivered = spool["books"]["delivered"] + spool["books"]["delivered_later"]
    reasons = ", ".join(f"{reason}: {n}" for reason, n in letters["reasons"].items()) or "parked until their hold ends"
    used = f"{100 * memory['used'] / memory['budget']:.0f} %" if memory["budget"] else "-"
    return [
        ["SLS", f"{span(lag)} behind" if lag is not None else "-", "; ".join(sls)],
        ["spool", size(max(0, spool["bytes"] - letters["bytes"])), "; ".join(waiting(spool, live=live))],
        ["Splunk", f"{rates['delivered_events_per_second']:,.0f} events/s", f"{delivered:,} accepted so far"],
        ["dead letters", f"{letters['count']:,}", f"{reasons}; {size(letters['bytes'])}" if letters["count"] else "none"],
        ["memory", size(memory["used"]), f"{used} of {size(memory['budget'])}, level {memory['level']} of 3"],
    ]  # fmt: skip


def many(number: int, thing: str) -> str:
    """1 shard, 2 shards, 3 batches."""
    return f"{number:,} {thing}{'' if number == 1 else 'es' if thing.endswith('ch') else 's'}"


def waiting(spool: dict[str, Any], *, live: bool = True) -> list[str]:
    """How much, how old, and how it goes on: full in, drained in, live again in."""
    said = [f"of {size(spool['max_bytes'])}"]
    if spool["batches"]:
        said.append(f"{many(spool['batches'], 'batch')}, the oldest {span(spool['oldest_seconds'])} old")
    if not live:
        return said if spool["batches"] else [*said, "nothing waits"]
    drained = spool["drained_in_seconds"]
    flows = drained is not None and drained < FLOWS
    if spool["level"]:
        said.append("pulling is stopped")
    elif spool["full_in_seconds"] is not None and not flows:
        said.append(f"full in {span(spool['full_in_seconds'])} at this rate")
    if not spool["batches"]:
        return [*said, "nothing waits"]
    if drained is None:
        return [*said, "not draining"]
    said.append(f"drained in {span(drained)}")
    again = spool.get("live_again_in_seconds")
    return (
        said if flows else [*said, "gaining nothing on new logs" if again is None else f"live again in {span(again)}"]
    )


def hold(one: dict[str, Any]) -> list[list[Any]]:
    """One trouble: whose, what, since when, and what to do."""
    facts = [f"for {span(one.get('age_seconds'))}"]
    if one["events"]:
        facts.append(f"{many(one['events'], 'event')} waiting")
    if one["next_probe"]:
        facts.append(f"next try at {one['next_probe'][11:19]} UTC")
    return [
        ["HOLD", f"{one.get('title') or one['kind']}: {one['kind']} {one['name']}"],
        ["", one["error"]],
        ["do", one["hint"]],
        ["", ", ".join(facts)],
    ]


def sources(found: dict[str, Any]) -> list[list[Any]]:
    """A line a source."""
    rows: list[list[Any]] = [["source", "shards", "lag", "newest log", "retention left", "checkpoint saved"]]
    for source in found["sources"]:
        lag, left = worst(source["shards"])
        ages = [s["checkpoint_age_seconds"] for s in source["shards"] if s["checkpoint_age_seconds"] is not None]
        saved = f"{span(max(ages))} ago" if ages else None
        came = newest(source["shards"])
        ago = None if came is None else f"{span(came)} ago"
        rows.append([source["name"], len(source["shards"]), span(lag), ago, span(left), saved])
    return rows


def children(found: dict[str, Any]) -> list[list[Any]]:
    """A line a process."""
    rows: list[list[Any]] = [["child", "state", "pid", "memory", "last beat", "restarts"]]
    for child in found["children"]:
        beat = None if child["beat_age"] is None else f"{span(child['beat_age'])} ago"
        rows.append([child["name"], child["state"], child["pid"], size(child["rss"]), beat, child["restarts"]])
    return rows


def all_shards(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all sources."""
    return [shard for source in found["sources"] for shard in source["shards"]]


def worst(shards: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """(greatest lag, least retention left)"""
    lags = [s["lag_seconds"] for s in shards if s["lag_seconds"] is not None]
    left = [s["retention_left_seconds"] for s in shards if s["retention_left_seconds"] is not None]
    return max(lags, default=None), min(left, default=None)


def newest(shards: list[dict[str, Any]]) -> float | None:
    """Seconds since the newest log that was pulled had arrived in SLS; None while nothing has come."""
    return min((s["newest_seconds"] for s in shards if s.get("newest_seconds") is not None), default=None)


def looked_into(found: dict[str, Any]) -> tuple[str, str]:
    """State and reason. `running` is said only with what is not as it should be; what SLS will delete soon is worse."""
    shards, spool, letters = all_shards(found), found["spool"], found["dead_letters"]["count"]
    state, why = found["state"], found["reason"]
    if state not in {"running", "degraded", "paused"}:
        return state, why
    soon = [shard for shard in shards if loses_soon(shard)]
    if soon:
        losing = f"SLS deletes logs that were not pulled in {span(worst(soon)[1])}: raise the logstore's retention"
        return ("degraded", losing) if state == "running" else (state, f"{why}; {losing}")
    if state != "running":
        return state, why
    remarks = [
        f"source {one['name']} is {span(lag)} behind SLS" for one in found["sources"]
        if (lag := worst(one["shards"])[0]) is not None and lag > LAGGING
    ]  # fmt: skip
    if (spool["oldest_seconds"] or 0) > OLD:
        remarks.append(f"Splunk takes too little: what waits is up to {span(spool['oldest_seconds'])} old")
    if letters:
        remarks.append(f"{many(letters, 'dead letter')}: sls-siem dead ls")
    return state, "; ".join(remarks) or ALL_IS_WELL


def loses_soon(shard: dict[str, Any]) -> bool:
    """SLS will delete what was not pulled: under a quarter of the retention, or a day of one that is longer than two."""
    lag, left = shard["lag_seconds"], shard["retention_left_seconds"]
    if lag is None or left is None:
        return False
    retention = lag + left
    return bool(left < retention / 4 or (left < 86400 < retention / 2))


def nagios(found: dict[str, Any]) -> tuple[int, str]:
    """0, 1 or 2 and the plugin's line, with performance data, of a document that was looked into."""
    state, why = found["state"], found["reason"]
    code = {"running": 0, "starting": 1, "stopping": 1, "degraded": 1, "paused": 1}.get(state, 2)
    holds = found.get("holds", [])
    if state in {"running", "degraded", "paused"}:
        full = found["spool"]["full_in_seconds"]
        code = max(code, int(state != "running" or why != ALL_IS_WELL))
        if any(one["kind"] in HUMAN for one in holds) or (holds and full is not None and full < SOON_FULL):
            code = 2
        if any(map(loses_soon, all_shards(found))):
            code = 2
    advice = f" ({holds[0]['hint']})" if holds and state in {"degraded", "paused"} else ""
    word = ("OK", "WARNING", "CRITICAL")[code]
    return code, f"SLS-SIEM {word} - {state}: {why}{advice}{performance(found)}".replace("\n", " ")


def performance(found: dict[str, Any]) -> str:
    """As Nagios wants it, behind a bar."""
    if "spool" not in found:
        return ""
    lag, left = worst(all_shards(found))
    pairs = {
        "lag": (lag, "s"), "retention_left": (left, "s"), "spool": (found["spool"]["bytes"], "B"),
        "oldest": (found["spool"]["oldest_seconds"] or 0, "s"), "dead_letters": (found["dead_letters"]["count"], ""),
        "memory": (found["memory"]["used"], "B"), "holds": (len(found["holds"]), ""),
    }  # fmt: skip
    return " | " + " ".join(f"{name}={value:.0f}{unit}" for name, (value, unit) in pairs.items() if value is not None)
