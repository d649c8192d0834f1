"""Counters outlive the child that counted: what an ended process had is kept, so that no counter falls while we live.

Prometheus takes a fall for a restart from 0, and would count the rest of a sum once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Totals:
    """What ended children counted, in the form of one more report."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        self._histograms: dict[str, dict[tuple[tuple[str, str], ...], dict[str, Any]]] = {}

    def add(self, reports: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The children's reports of now, and the one of those that were: for sums."""
        for child, last in self._last.items():
            if child not in reports or reports[child]["pid"] != last["pid"]:
                self._keep(last)
        self._last = dict(reports)
        past = {
            "metrics": {name: [[dict(k), v] for k, v in cells.items()] for name, cells in self._metrics.items()},
            "histograms": {name: [[dict(k), v] for k, v in rows.items()] for name, rows in self._histograms.items()},
        }
        return [past, *reports.values()]

    def _keep(self, report: dict[str, Any]) -> None:
        for name, cells in report.get("metrics", {}).items():
            if name.endswith("_total"):
                kept = self._metrics.setdefault(name, {})
                for labels, value in cells:
                    key = tuple(sorted(labels.items()))
                    kept[key] = kept.get(key, 0) + value
        for name, rows in report.get("histograms", {}).items():
            past = self._histograms.setdefault(name, {})
            for labels, row in rows:
                key = tuple(sorted(labels.items()))
                past[key] = _sum(past[key], row) if key in past else row


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two histograms with the same buckets."""
    pairs = zip(one["buckets"], other["buckets"], strict=True)
    return {
        "buckets": [[bound, count + more] for (bound, count), (_, more) in pairs],
        "sum": one["sum"] + other["sum"],
        "count": one["count"] + other["count"],
    }
