"""The Prometheus exposition, put together from the children's reports and the lanes' books. prometheus_client writes it.

Names are those of docs/metrics.md. Labels are bounded: topics and indexes appear only where the settings name them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

PREFIX = "sls_siem_"
#: From the children: name → (help, labels).
FROM_CHILDREN = {
    "hec_requests_total": ("Requests to Splunk, by what came back.", ("endpoint", "status", "code")),
    "sls_errors_total": ("What SLS refused or could not do, by its error code.", ("source", "code")),
    "hec_possible_duplicates_total": ("Events sent again although they may have been taken.", ()),
    "lag_seconds": ("Age of the oldest log that is not pulled yet.", ("source", "shard")),
    "newest_log_seconds": ("Since the newest log that was pulled had arrived in SLS.", ("source", "shard")),
    "retention_left_seconds": ("Until SLS deletes the oldest log that is not pulled yet.", ("source", "shard")),
    "checkpoint_age_seconds": ("Since the shard's checkpoint was last saved.", ("source", "shard")),
    "certificate_left_seconds": ("Until a certificate ends: an endpoint's, or `client`, ours.", ("endpoint",)),
    "shards_held": ("Shards that SLS has given to the child.", ("child",)),
}
HISTOGRAMS = {
    "hec_request_seconds": "How long Splunk takes to answer.",
    "arrival_to_accepted_seconds": "From arrival in SLS to acceptance by Splunk, of a batch's oldest pull.",
}
#: From the lanes' books: counter of the database → (metric, help, label).
FROM_BOOKS = {
    "fetched_groups": ("fetched_groups_total", "LogGroups put into the spool.", "source"),
    "fetched_bytes": ("fetched_bytes_total", "Bytes put into the spool, compressed as they came.", "source"),
    "fetched_raw_bytes": ("fetched_raw_bytes_total", "The same after decompression.", "source"),
    "lost_to_retention_groups": (
        "lost_to_retention_groups_total", "LogGroups SLS deleted before they were pulled.", "source",
    ),
    "settled": ("settled_groups_total", "LogGroups done with.", ""),
    "set_aside": ("set_aside_groups_total", "LogGroups in damaged bodies, set aside.", ""),
    "purged": ("purged_groups_total", "LogGroups an operator purged.", ""),
    "decoded": ("decoded_events_total", "Events decoded.", "route"),
    "delivered": ("delivered_events_total", "Events Splunk accepted at once.", "route"),
    "filtered": ("filtered_events_total", "Events a route drops.", "route"),
    "buried": ("buried_events_total", "Events put into the dead letters.", "route"),
    "delivered_later": ("delivered_later_events_total", "Dead letters that Splunk took in the end.", ""),
    "dead_purged": ("purged_dead_letters_total", "Dead letters an operator purged.", ""),
    "dead_set_aside": ("set_aside_dead_letters_total", "Dead letters in damaged files.", ""),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """Label values that there will be: their counters stand at 0 from the start, or increase() would miss the first."""

    version: str
    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def render(
    status: dict[str, Any], reports: Iterable[dict[str, Any]], counters: dict[tuple[str, str], int], known: Known
) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    families = [
        *_books(counters, known), *_children(list(reports)), *_spool(status), *_supervisor(status, known.version),
    ]  # fmt: skip

    class Collected:
        """What the registry wants."""

        def collect(self) -> Iterator[Metric]:
            yield from families

    registry.register(Collected())
    return generate_latest(registry)


def _books(counters: dict[tuple[str, str], int], known: Known) -> Iterator[Metric]:
    expected = {"source": known.sources, "route": known.routes, "": ()}
    for counter, (name, text, label) in FROM_BOOKS.items():
        family = CounterMetricFamily(PREFIX + name, text, labels=[label] if label else [])
        rows = dict.fromkeys(expected[label], 0)
        rows |= {found: value for (which, found), value in counters.items() if which == counter}
        if not label:
            family.add_metric([], sum(rows.values()))
        for found, value in sorted(rows.items()) if label else ():
            family.add_metric([found or "all"], value)
        yield family


def _children(reports: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, (text, labels) in FROM_CHILDREN.items():
        sums: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        for report in reports:
            for found, value in report.get("metrics", {}).get(name, []):
                key = tuple(str(found.get(label, "")) for label in labels)
                sums[key] = sums.get(key, 0) + value if name.endswith("_total") else max(sums.get(key, value), value)
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = kind(PREFIX + name, text, labels=labels)
        for key, value in sorted(sums.items()):
            family.add_metric(list(key), value)
        yield family
    for name, text in HISTOGRAMS.items():
        yield _histogram(name, text, reports)


def _histogram(name: str, text: str, reports: list[dict[str, Any]]) -> Metric:
    buckets: dict[float | None, float] = {}
    total = 0.0
    for report in reports:
        for _, row in report.get("histograms", {}).get(name, []):
            total += row["sum"]
            for bound, count in row["buckets"]:
                buckets[bound] = buckets.get(bound, 0) + count
    family = HistogramMetricFamily(PREFIX + name, text, labels=[])
    if buckets:
        shown = [("+Inf" if bound is None else str(bound), count) for bound, count in buckets.items()]
        family.add_metric([], buckets=shown, sum_value=total)
    return family


def _spool(status: dict[str, Any]) -> Iterator[Metric]:
    spool, letters = status["spool"], status["dead_letters"]
    states = {
        "dead": sum(lane["dead"] for lane in spool["lanes"]),
        "parked": sum(lane["parked"] for lane in spool["lanes"]),
    }
    yield _gauge("spool_bytes", "Bytes on disk: what waits, and the dead letters.", spool["bytes"])
    yield _gauge("spool_batches", "Batches that wait.", spool["batches"])
    yield _gauge("spool_groups", "LogGroups that wait.", spool["groups"])
    yield _gauge("spool_oldest_seconds", "Age of the oldest that waits.", spool["oldest_seconds"] or 0)
    yield _gauge("spool_max_bytes", "What may wait.", spool["max_bytes"])
    yield _gauge("spool_level", "1: pulling is stopped because of the spool or the disk.", spool["level"])
    yield _labelled("dead_letters", "Dead letters.", "state", states)
    yield _gauge("dead_letter_bytes", "Bytes of the dead letters.", letters["bytes"])
    holds = GaugeMetricFamily(PREFIX + "hold_seconds", "Age of each hold.", labels=["kind", "name"])
    for hold in status["holds"]:
        holds.add_metric([hold["kind"], hold["name"]], hold["age_seconds"])
    yield holds


def _supervisor(status: dict[str, Any], version: str) -> Iterator[Metric]:
    children, memory = status["children"], status["memory"]
    restarts = CounterMetricFamily(PREFIX + "child_restarts_total", "Times a child was started anew.", labels=["child"])
    for child in children:
        restarts.add_metric([child["name"]], child["restarts"])
    yield restarts
    yield _labelled(
        "child_up", "1: the child runs.", "child", {c["name"]: int(c["state"] == "running") for c in children}
    )
    yield _gauge("memory_used_bytes", "rss - shared over the process tree.", memory["used"])
    yield _gauge("memory_budget_bytes", "What the process tree may use.", memory["budget"])
    yield _gauge("memory_level", "0 to 3, at 70, 85 and 95 % of the budget.", memory["level"])
    build = GaugeMetricFamily(PREFIX + "build_info", "Version and interpreter.", labels=["version", "python"])
    build.add_metric([version, platform.python_version()], 1)
    yield build


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _labelled(name: str, text: str, label: str, rows: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for found, value in sorted(rows.items()):
        family.add_metric([found], value)
    return family
