"""`scripts/bench variety`: end to end with more than big equal batches, against the plain mix of the same run."""

from __future__ import annotations

from scripts.bench_tools import Figure, Given, table
from scripts.bench_whole import HEAD, Case, Spent, measure

TAIL = """
[[route]]
topic = "actiontrail*"
sourcetype = "aliyun:actiontrail"
json_fields = ["event", "event.requestParameterJson"]
"""


def cases(megabytes: int) -> list[Case]:
    """A part of what `whole` moves, each."""
    some = max(32, megabytes // 4)
    trail = {"topics": ["actiontrail_audit_event", "actiontrail_event"]}
    return [
        Case("the mix", some),
        Case("a million LogGroups of one log", 0, append={"logs_per_group": 1}, logs=1_000_000),
        Case("logs of 200 B", some, append={"log_bytes": 200}),
        Case("logs of 100 KB", some, append={"log_bytes": 100_000}),
        Case("20 sources of one shard", some, house={"shards": 1}, sources=20),
        Case("ActionTrail, plain", some, append=trail),
        Case("ActionTrail, json_fields unfolded", some, append=trail, house={"toml": TAIL}),
    ]


def run(given: Given) -> list[Figure]:
    """One after the other."""
    found: dict[str, Spent] = {}
    for case in cases(given.megabytes):
        found[case.name] = measure(case, given.work / str(len(found)))
    table("End to end, other shapes", ("what", *HEAD), [(name, *spent.cells()) for name, spent in found.items()])
    return [Figure(f"end to end, {name}", spent.rate, "raw MB per CPU-second") for name, spent in found.items()]
