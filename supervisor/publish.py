"""Once a second: the levels for the children, status.json, the metrics and the page's history; once a minute a log line."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from importlib.metadata import version
from typing import Any

import orjson

from buffer.errors import SpoolError
from buffer.outside import LaneStats
from buffer.spool import Spool
from supervisor import memory, metrics, status
from supervisor.child import Child, State
from supervisor.listener import Shown
from supervisor.settings import Settings
from worker import logs
from worker.board import Board
from worker.report import write_atomically

log = logs.get_logger()
SUMMARY_EVERY, HISTORY_EVERY, PSS_EVERY, ALIVE = 60.0, 15.0, 30.0, 10.0
VERSION = version("sls-siem")


class Publisher:
    """Makes the picture; the only one who writes status.json."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.settings = settings
        self._spool = spool
        self.shown = Shown()
        self.sizes: dict[int, int] = {}
        self.listening = ""
        self.one_line = "starting"
        self.document: dict[str, Any] = {"holds": [], "spool": {"batches": 0}, "dead_letters": {"count": 0}}
        """The last picture."""
        self._lanes: list[LaneStats] = []
        self._since = time.time()
        self._rates = status.Rates()
        self._history: deque[dict[str, float]] = deque(maxlen=240)
        self._summary_at = self._history_at = self._pss_at = 0.0
        self._pss = 0
        self._last: tuple[float, int] = (time.monotonic(), 0)

    def publish(self, children: list[Child], board: Board, budget: int, *, stopping: bool, down: bool = False) -> None:
        """Look, and show. What cannot be written on a full disk is not written."""
        try:
            lanes = self._spool.lanes()
            board.spool_level = self._spool.level(lanes)
        except (SpoolError, OSError) as error:
            log.error("the spool cannot be read", error=str(error), hint="look at the disk")
            board.spool_level = 1
            lanes = self._lanes  # as last seen: counters never go back
        self._lanes = lanes
        reports = status.read_reports(self._spool.run_directory, [c.name for c in children if c.pid])
        document = self._document(children, lanes, list(reports.values()), board, budget, stopping=stopping, down=down)
        self.document = document
        counters = merged_counters(lanes)
        self._show(document, list(reports.values()), counters, children, stopping=stopping)
        self._summarize(document, counters)

    def _document(
        self, children: list[Child], lanes: list[LaneStats], reports: list[dict[str, Any]], board: Board, budget: int, *,
        stopping: bool, down: bool,
    ) -> dict[str, Any]:  # fmt: skip
        holds = status.merge_holds(reports)
        state, reason = status.state_of(
            children, holds, stopping=stopping, spool_level=board.spool_level, memory_level=board.memory_level
        )
        now = time.monotonic()
        if now >= self._pss_at:
            self._pss_at = now + PSS_EVERY
            self._pss = memory.pss([os.getpid(), *(c.pid for c in children if c.pid)])
        return {
            "schema": 1,
            "state": "down" if down else state,
            "reason": "stopped" if down else reason,
            "time": status.iso(time.time()),
            "supervisor": {"pid": os.getpid(), "since": status.iso(self._since), "version": VERSION,
                           "spool_id": self._spool.id, "listen": self.listening},
            "children": [self._child(child, board, now) for child in children],
            "sources": status.merge_sources(reports),
            "spool": status.spool_document(
                self._spool.directory, lanes, self._rates, max_bytes=self.settings.spool.max_bytes,
                level=board.spool_level, ballast=self._spool.has_ballast,
            ),
            "holds": [{**hold, "age_seconds": age(hold["since"])} for hold in holds],
            "dead_letters": status.dead_letters(lanes),
            "memory": {"used": sum(self.sizes.values()), "budget": budget, "level": board.memory_level, "pss": self._pss},
        }  # fmt: skip

    def _child(self, child: Child, board: Board, now: float) -> dict[str, Any]:
        beat = board.last_beat(child.index)
        return {
            "name": child.name, "kind": child.kind, "pid": child.pid or None, "state": child.state.value,
            "restarts": child.restarts, "beat_age": now - beat if beat and child.pid else None,
            "rss": self.sizes.get(child.pid),
        }  # fmt: skip

    def _show(
        self, document: dict[str, Any], reports: list[dict[str, Any]], counters: dict[tuple[str, str], int],
        children: list[Child], *, stopping: bool,
    ) -> None:  # fmt: skip
        data = orjson.dumps(document)
        self.shown.status = data
        self.shown.metrics = metrics.render(document, reports, counters, VERSION)
        self.shown.ready = not stopping and all(c.first_beat for c in children)
        self.shown.alive_until = time.monotonic() + ALIVE
        write_atomically(self._spool.run_directory / "status.json", data)
        with contextlib.suppress(OSError):
            (self._spool.run_directory / "status.json").chmod(0o600)

    def _summarize(self, document: dict[str, Any], counters: dict[tuple[str, str], int]) -> None:
        now = time.monotonic()
        delivered = sum(v for (name, _), v in counters.items() if name in {"delivered", "delivered_later"})
        spool, used = document["spool"], document["memory"]["used"]
        self.one_line = f"{document['state']}: {spool['batches']} batches wait, {spool['bytes'] / 1e6:.0f} MB"
        if now >= self._history_at:
            before, count = self._last
            lags = [s["lag_seconds"] or 0 for source in document["sources"] for s in source["shards"]]
            rate = max(0.0, (delivered - count) / max(now - before, 0.001)) if self._history_at else 0.0
            self._last, self._history_at = (now, delivered), now + HISTORY_EVERY
            self._history.append({"events": rate, "bytes": spool["bytes"], "lag": max(lags, default=0), "memory": used})
            self.shown.history = orjson.dumps(list(self._history))
        if now >= self._summary_at:
            if self._summary_at:
                log.info(
                    "summary", state=document["state"], delivered_events=delivered, waiting_batches=spool["batches"],
                    waiting_bytes=spool["bytes"], memory_bytes=used, holds=len(document["holds"]),
                    dead_letters=document["dead_letters"]["count"],
                    restarts=sum(c["restarts"] for c in document["children"]),
                    down=[c["name"] for c in document["children"] if c["state"] != State.RUNNING.value],
                )  # fmt: skip
            self._summary_at = now + SUMMARY_EVERY


def age(since: str) -> float:
    """Seconds since an ISO time."""
    from datetime import datetime

    return max(0.0, time.time() - datetime.fromisoformat(since).timestamp())


def merged_counters(lanes: list[LaneStats]) -> dict[tuple[str, str], int]:
    """(counter, label) over all lanes."""
    merged: dict[tuple[str, str], int] = {}
    for lane in lanes:
        for key, value in lane.counters.items():
            merged[key] = merged.get(key, 0) + value
    return merged
