"""Counters outlive the child that counted."""

from __future__ import annotations

from typing import Any

from supervisor.metrics import Known, render
from supervisor.totals import Totals


def report(pid: int, requests: float, seconds: float) -> dict[str, Any]:
    row = {"buckets": [[1.0, requests], [None, requests]], "sum": seconds, "count": requests}
    return {
        "pid": pid,
        "metrics": {"hec_requests_total": [[{"endpoint": "e"}, requests]], "lag_seconds": [[{"shard": "0"}, seconds]]},
        "histograms": {"hec_request_seconds": [[{}, row]]},
    }  # fmt: skip


def total(reports: list[dict[str, Any]], metric: str) -> float:
    return float(sum(value for one in reports for _, value in one["metrics"].get(metric, [])))


def test_what_ended_children_counted_is_kept_and_their_gauges_are_not() -> None:
    totals = Totals()
    assert total(totals.add({"a": report(1, 5, 1.0), "b": report(2, 7, 1.0)}), "hec_requests_total") == 12
    assert total(totals.add({"a": report(1, 6, 1.0)}), "hec_requests_total") == 13, "b has no report for now"
    assert total(totals.add({"a": report(1, 6, 1.0), "b": report(3, 1, 1.0)}), "hec_requests_total") == 14
    again = totals.add({"a": report(4, 0, 2.0), "b": report(3, 2, 1.0)})
    assert total(again, "hec_requests_total") == 15
    assert total(again, "lag_seconds") == 3.0
    histograms = [row for one in again for _, row in one["histograms"].get("hec_request_seconds", [])]
    assert sum(row["count"] for row in histograms) == 15
    assert sum(row["buckets"][0][1] for row in histograms) == 15


def test_a_report_that_cannot_be_read_for_a_moment_is_not_counted_twice() -> None:
    totals = Totals()
    for reports, expected in (
        ({"a": report(1, 5, 1.0)}, 5), ({}, 5), ({}, 5), ({"a": report(1, 6, 1.0)}, 6), ({}, 6), ({"a": report(2, 1, 1.0)}, 7),
        ({"a": report(2, 2, 1.0)}, 8),
    ):  # fmt: skip
        found = totals.add(reports)
        assert total(found, "hec_requests_total") == expected
        rows = [row for one in found for _, row in one["histograms"].get("hec_request_seconds", [])]
        assert sum(row["count"] for row in rows) == expected
        assert total(found, "lag_seconds") == len(reports), "of a gauge only what is so now"


def test_counters_of_what_is_configured_stand_at_zero_from_the_start() -> None:
    status = {
        "spool": {"bytes": 0, "batches": 0, "groups": 0, "oldest_seconds": None, "max_bytes": 1, "level": 0, "lanes": []},
        "dead_letters": {"bytes": 0}, "holds": [], "children": [], "memory": {"used": 1, "budget": 2, "level": 0},
    }  # fmt: skip
    shown = render(status, [], {("buried", "odd"): 3}, Known("1", ("s",), ("r", "default"))).decode()
    for line in (
        'sls_siem_lost_to_retention_groups_total{source="s"} 0.0', 'sls_siem_buried_events_total{route="r"} 0.0',
        'sls_siem_buried_events_total{route="odd"} 3.0', "sls_siem_hec_possible_duplicates_total 0.0",
        "sls_siem_set_aside_groups_total 0.0",
    ):  # fmt: skip
        assert line in shown
