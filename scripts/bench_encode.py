"""Encode alone: both encoders against a protobuf + orjson walk and against the SDK's flatten + json.dumps.

    python -m scripts.bench_encode [--megabytes 4] [--rounds 7] [--json]

The same bytes for all of them, in one run, CPU time of this process, the best of the rounds, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import orjson

from buffer.values import Pull, ShardKey
from scripts.bench_tools import Figure, Given, machine, median, table
from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator
from tests.emulators.generator_topics import TOPICS
from worker.encode import ENCODER, Encoder
from worker.loggroup import LogGroupList
from worker.routes import Router
from worker.settings import HecSettings, RouteSettings

HEC = HecSettings(urls=("http://127.0.0.1:1",))
Work = Callable[[], object]


def pull_of(raw: bytes, groups: int) -> Pull:
    return Pull(
        key=ShardKey("project", "store", "group", "", 0, 1), epoch=1, source="store", codec="none", raw_size=len(raw),
        begin=10**18, next=10**18 + groups, groups=groups, sparse=False, suspect=False, arrived=0, pulled=0, body=raw,
    )  # fmt: skip


def walk(raw: bytes) -> list[bytes]:
    """The plain way: parse, a dict for each event, orjson."""
    out = []
    dumps = orjson.dumps
    for group in LogGroupList.FromString(raw).LogGroups:
        constants = {"__topic__": group.Topic} | {f"__tag__:{tag.Key}": tag.Value for tag in group.LogTags}
        for place, log in enumerate(group.Logs):
            event = {content.Key: content.Value for content in log.Contents}
            event.update(constants)
            event["sls_id"] = f"00000000-0-1-{place}"
            time_text = f"{log.Time}.{log.Time_ns:09d}" if log.Time_ns else str(log.Time)
            out.append(
                dumps({"time": time_text, "host": group.Source, "source": "s", "sourcetype": "t", "event": event})
            )
    return out


def sdk(raw: bytes) -> list[str]:
    """The SDK's own decoding, and the standard library's JSON."""
    from aliyun.log import log_logs_raw_pb2
    from aliyun.log.pulllog_response import PullLogResponse

    groups = log_logs_raw_pb2.LogGroupListRaw()  # type: ignore[attr-defined]
    groups.ParseFromString(raw)
    return [json.dumps(log) for log in PullLogResponse.loggroups_to_flattern_list(groups, decode_bytes=True)]


def measure(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Seconds of CPU, the least of the rounds."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def bodies(size: int) -> dict[str, tuple[list[bytes], tuple[RouteSettings, ...]]]:
    """name -> groups and routes."""
    found: dict[str, tuple[list[bytes], tuple[RouteSettings, ...]]] = {"mix": (Generator(1).data(max_bytes=size), ())}
    for topic in TOPICS:
        found[topic.name] = (Generator(1, topics=[topic.name]).data(max_bytes=size), ())
    found["mix, 1 log a group"] = (Generator(1, logs_per_group=1).data(max_bytes=size), ())
    found["mix, 200 B a log"] = (Generator(1, log_bytes=200).data(max_bytes=size), ())
    found["mix, 100 KB a log"] = (Generator(1, log_bytes=100_000).data(max_bytes=size), ())
    unfold = RouteSettings(topic="actiontrail*", json_fields=("event", "event.requestParameterJson"))
    trail = Generator(1, topics=["actiontrail_audit_event"]).data(max_bytes=size)
    found["actiontrail, json_fields"] = (trail, (unfold,))
    deeper = RouteSettings(topic="actiontrail*", json_fields=("event", "event.userIdentity.sessionContext"))
    found["actiontrail, json_fields two steps down"] = (trail, (deeper,))
    audit = Generator(1, topics=["k8s_audit_log"]).data(max_bytes=size)
    found["k8s_audit_log, json_fields"] = (audit, (RouteSettings(json_fields=("user", "objectRef", "requestObject")),))
    return found


def bench(groups: list[bytes], routes: tuple[RouteSettings, ...], rounds: int) -> dict[str, Any]:
    raw = wire.group_list(groups)
    pull = pull_of(raw, len(groups))
    router = Router(routes, HEC)
    works: dict[str, Work] = {"walk": lambda: walk(raw), "sdk": lambda: sdk(raw)}
    for name in ("compiled", "python") if ENCODER == "compiled" else ("python",):
        encoder = Encoder(router, compiled=name == "compiled")
        works[name] = lambda encoder=encoder: encoder.encode(pull, raw)  # type: ignore[misc]
    events = len(Encoder(router).encode(pull, raw))
    rates = {name: len(raw) / 1e6 / seconds for name, seconds in measure(works, rounds).items()}
    return {"bytes": len(raw), "groups": len(groups), "events": events, **rates}


HEAD = ("body", "compiled", "python", "upb + orjson", "SDK + json", "compiled / upb", "python / upb")


def run(given: Given) -> list[Figure]:
    """All bodies; the figures are the middle and the least of the compiled encoder's leads."""
    rows = {name: bench(groups, routes, given.rounds + 2) for name, (groups, routes) in bodies(4_000_000).items()}
    show(rows)
    plain = {name: row for name, row in rows.items() if "compiled" in row and "json_fields" not in name}
    if not plain:
        return []
    leads = {name: row["compiled"] / row["walk"] for name, row in plain.items()}
    worst = min(leads, key=leads.__getitem__)
    unit = "× upb + orjson"
    return [
        Figure("encode alone, compiled, median of the bodies", median(leads.values()), unit, 5, 10),
        Figure(f"encode alone, compiled, the least ({worst})", leads[worst], unit, 5, 10),
    ]


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Raw MB per CPU-second."""
    cells = [
        (
            name, *(f"{row.get(one, float('nan')):.0f}" for one in ("compiled", "python", "walk", "sdk")),
            f"**{row.get('compiled', float('nan')) / row['walk']:.1f}**", f"{row['python'] / row['walk']:.1f}",
        )
        for name, row in rows.items()
    ]  # fmt: skip
    table("Encode alone, raw MB per CPU-second", HEAD, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="a body whose name has this in it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = {
        name: bench(groups, routes, options.rounds)
        for name, (groups, routes) in bodies(int(options.megabytes * 1e6)).items()
        if options.only in name
    }
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(machine())
        show(rows)


if __name__ == "__main__":
    main()
