"""What a child tells the world: `<run>/<child>.json`, written atomically once a second.

Gauges, holds and counters of this process's life; what must survive it lives in the lane's database. The supervisor
merges the files of all children without knowing any metric by name:

    {"child": "sender-0", "pid": 1, "time": 1.0,
     "metrics": {"hec_requests_total": [[{"endpoint": "…", "status": "200", "code": "0"}, 12]]},
     "histograms": {"hec_request_seconds": [[{}, {"buckets": [[0.1, 3], …], "sum": 1.5, "count": 3}]]},
     "holds": [{"kind": "token", "name": "…", "since": 1.0, "events": 0, "error": "…", "hint": "…", "next_probe": 2.0}],
     "facts": {"shards": […]}}

`facts` is free-form (status shows shards from it). Names end in _total for counters; the prefix is added on export.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import orjson

from worker.logs import tell_repeats

#: Seconds; from the fastest request on a local net to the longest time-out.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0)

Labels = tuple[tuple[str, str], ...]


class Report:
    """A child's numbers and holds. Threads of the child share it; one lock guards dictionary updates."""

    def __init__(self, path: Path, child: str) -> None:
        self._path = path
        self._child = child
        self._lock = threading.Lock()
        self._metrics: dict[str, dict[Labels, float]] = {}
        self._gauges: dict[str, list[tuple[dict[str, str], float]]] = {}
        self._histograms: dict[str, dict[Labels, list[float]]] = {}
        self._holds: dict[tuple[str, str], dict[str, Any]] = {}
        self._facts: dict[str, Any] = {}

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Raise a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            cells = self._metrics.setdefault(name, {})
            cells[key] = cells.get(key, 0) + value

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._metrics.setdefault(name, {})[tuple(sorted(labels.items()))] = value

    def set_all(self, name: str, rows: list[tuple[dict[str, str], float]]) -> None:
        """Set a gauge, for all the labels that it has from now on. Taken as it is: nothing is put into `rows` later."""
        with self._lock:
            self._gauges[name] = rows

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram; seconds."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            row = self._histograms.setdefault(name, {}).setdefault(key, [0.0] * (len(BUCKETS) + 3))
            row[bisect_left(BUCKETS, value)] += 1
            row[-2] += value
            row[-1] += 1

    def fact(self, name: str, value: Any) -> None:
        """Set a free-form fact; must be JSON."""
        with self._lock:
            self._facts[name] = value

    def hold(
        self, kind: str, name: str, error: str, hint: str, *, events: int = 0, next_probe: float | None = None
    ) -> bool:
        """A route, token, index, endpoint, source, disk … waits for a remedy. True when it is new (say it once)."""
        with self._lock:
            known = self._holds.get((kind, name))
            since = known["since"] if known else time.time()
            self._holds[kind, name] = {
                "kind": kind, "name": name, "since": since, "events": events,
                "error": error, "hint": hint, "next_probe": next_probe,
            }  # fmt: skip
            return known is None

    def release(self, kind: str, name: str) -> bool:
        """The hold has ended. True when there was one."""
        with self._lock:
            return self._holds.pop((kind, name), None) is not None

    def write(self) -> None:
        """Once a second: write the file, atomically. A full disk is never an error here."""
        tell_repeats()
        with self._lock:
            document = {
                "child": self._child,
                "pid": os.getpid(),
                "time": time.time(),
                "metrics": self._gauges
                | {n: [[dict(k), v] for k, v in cells.items()] for n, cells in self._metrics.items()},
                "histograms": {
                    n: [[dict(k), _histogram(row)] for k, row in cells.items()] for n, cells in self._histograms.items()
                },
                "holds": [dict(h) for h in self._holds.values()],
                "facts": dict(self._facts),
            }
            data = orjson.dumps(document)
        write_atomically(self._path, data)


def _histogram(row: list[float]) -> dict[str, Any]:
    buckets, running = [], 0.0
    for bound, count in zip((*BUCKETS, None), row, strict=False):
        running += count
        buckets.append([bound, running])
    return {"buckets": buckets, "sum": row[-2], "count": row[-1]}


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file in one step. Not fsynced: it is a picture of now. OSErrors are swallowed on purpose.

    Each file has one writer at a time, so the new one's name is fixed: what `kill -9` leaves is written over.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.new")  # noqa: PTH118 - a Path costs as much as the file
    with contextlib.suppress(OSError):
        with open(temporary, "wb") as file:  # noqa: PTH123
            file.write(data)
        os.replace(temporary, path)  # noqa: PTH105
