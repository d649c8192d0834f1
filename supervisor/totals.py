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
        """The children's reports of now, and those of the ones that were: for sums.

        A child without a report may have ended, or its file could not be read just now (no descriptor was left): what it had
        counted stays as it was last seen, until its next process reports.
        """
        for child, report in reports.items():
            last = self._last.get(child)
            if last is not None and last["pid"] != report["pid"]:
                self._keep(last)
            self._last[child] = report
        past = {
            "metrics": {name: [[dict(k), v] for k, v in cells.items()] for name, cells in self._metrics.items()},
            "histograms": {name: [[dict(k), v] for k, v in rows.items()] for name, rows in self._histograms.items()},
        }
        unseen = [_counted(last) for child, last in self._last.items() if child not in reports]
        return [past, *unseen, *reports.values()]

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


def _counted(report: dict[str, Any]) -> dict[str, Any]:
    """Without its gauges."""
    counters = {name: cells for name, cells in report.get("metrics", {}).items() if name.endswith("_total")}
    return {"metrics": counters, "histograms": report.get("histograms", {})}


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two histograms with the same buckets."""
    pairs = zip(one["buckets"], other["buckets"], strict=True)
    return {
        "buckets": [[bound, count + more] for (bound, count), (_, more) in pairs],
        "sum": one["sum"] + other["sum"],
        "count": one["count"] + other["count"],
    }
