"""Once a second: the levels for the children, status.json, the metrics and the page's history; once a minute a log line."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from importlib.metadata import version
from typing import Any

import orjson

from buffer import budget as spool_budget
from buffer import outside
from buffer.errors import SpoolError
from buffer.outside import LaneStats
from buffer.spool import Spool
from supervisor import memory, metrics, status
from supervisor.child import Child, State
from supervisor.health import Health
from supervisor.listener import Shown
from supervisor.rates import Rates
from supervisor.settings import Settings
from supervisor.totals import Totals
from worker import logs
from worker.board import Board
from worker.report import write_atomically
from worker.routes import name_of

log = logs.get_logger()
SUMMARY_EVERY, HISTORY_EVERY, PSS_EVERY, ALIVE = 60.0, 5.0, 30.0, 10.0
VERSION, HOST = version("sls-siem"), socket.gethostname()


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
        self._unreadable = ""
        self._since = time.time()
        self._rates, self._totals, self._health = Rates(), Totals(), Health()
        self._history: deque[dict[str, Any]] = deque(maxlen=int(3600 / HISTORY_EVERY))
        self._summary_at = self._history_at = self._pss_at = 0.0
        self._pss = 0
        self._held: dict[str, float] = {}
        """The supervisor's own holds: kind → Unix seconds."""

    def publish(self, children: list[Child], board: Board, budget: int, *, stopping: bool, down: bool = False) -> None:
        """Look, and show. What cannot be written on a full disk is not written."""
        try:
            lanes = self._spool.lanes()
            board.spool_level = self._spool.level(lanes)
        except (SpoolError, OSError) as error:
            log.error("the spool cannot be read", error=str(error), hint="look at the disk")
            board.spool_level = 1
            lanes, self._unreadable = self._lanes, str(error)  # as last seen: counters never go back
        else:
            self._unreadable = ""
        self._lanes = lanes
        reports = status.read_reports(self._spool.run_directory, [c.name for c in children if c.pid])
        counters = merged_counters(lanes)
        self._rates.note(status.sample(lanes, counters, time.monotonic()))
        document = self._document(children, lanes, list(reports.values()), board, budget, stopping=stopping, down=down)
        self._show(document, self._totals.add(reports), counters, children, stopping=stopping)
        self._remember(document)
        self._summarize(document)
        if not down:
            self._health.tell(document, self.settings)

    def _document(
        self, children: list[Child], lanes: list[LaneStats], reports: list[dict[str, Any]], board: Board, budget: int, *,
        stopping: bool, down: bool,
    ) -> dict[str, Any]:  # fmt: skip
        used = sum(self.sizes.values())
        spool, own = self._spool_document(lanes, board), self._own_holds(lanes, board, used, budget)
        holds = status.merge_holds([{"holds": own}, *reports])
        now = time.monotonic()
        shown = [self._child(child, board, now) for child in children]
        hanging = status.silent((c["name"], c["beat_age"]) for c in shown if c["state"] == State.RUNNING.value)
        state, reason = status.state_of(children, holds, hanging, stopping=stopping)
        if now >= self._pss_at:
            self._pss_at = now + PSS_EVERY
            self._pss = memory.pss([os.getpid(), *(c.pid for c in children if c.pid)])
        return {
            "schema": 1,
            "state": "down" if down else state,
            "reason": "stopped" if down else reason,
            "time": status.iso(time.time()),
            "supervisor": {"pid": os.getpid(), "since": status.iso(self._since), "version": VERSION, "host": HOST,
                           "spool_id": self._spool.id, "listen": self.listening},
            "children": shown,
            "sources": status.merge_sources(reports),
            "spool": spool,
            "rates": self._rates.now(),
            "holds": [{**hold, "age_seconds": age(hold["since"])} for hold in holds],
            "dead_letters": status.dead_letters(lanes),
            "memory": {"used": used, "budget": budget, "level": board.memory_level, "pss": self._pss},
        }  # fmt: skip

    def _spool_document(self, lanes: list[LaneStats], board: Board) -> dict[str, Any]:
        settings, directory = self.settings.spool, self._spool.directory
        found = outside.document(directory, lanes, settings.max_bytes, board.spool_level, self._spool.has_ballast)
        free, _ = self._free()
        left = spool_budget.room(settings, outside.used_bytes(lanes), free)
        return found | {
            "free_bytes": free,
            "full_in_seconds": self._rates.full_in(left),
            "drained_in_seconds": self._rates.drained_in(found["groups"]),
            "live_again_in_seconds": self._rates.live_again_in(found["groups"]),
        }

    def _own_holds(self, lanes: list[LaneStats], board: Board, used: int, budget: int) -> list[dict[str, Any]]:
        """What stops all pulling, as the children's holds are: with cause and remedy."""
        found = []
        if board.spool_level:
            said = spool_budget.reason(
                self.settings.spool, outside.used_bytes(lanes), *self._free(), self._spool.has_ballast
            )
            if self._unreadable:
                said = f"the spool cannot be read: {self._unreadable}", "look at the disk: dmesg, mount, permissions"
            found.append(self._own_hold("disk", "room", *said))
        else:
            self._held.pop("disk", None)
        if board.memory_level >= 2:
            error = f"the memory budget is nearly used ({used / 1e6:.0f} of {budget / 1e6:.0f} MB)"
            found.append(self._own_hold("memory", "budget", error, "it frees itself; if it lasts, raise memory.budget"))
        else:
            self._held.pop("memory", None)
        return found

    def _free(self) -> tuple[int, int]:
        try:
            return outside.free_bytes(self._spool.directory)
        except OSError:
            return 0, 0

    def _own_hold(self, kind: str, name: str, error: str, hint: str) -> dict[str, Any]:
        since = self._held.setdefault(kind, time.time())
        return {
            "kind": kind,
            "name": name,
            "since": since,
            "events": 0,
            "error": error,
            "hint": hint,
            "next_probe": None,
        }

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
        self.document = document
        data = orjson.dumps(document)
        self.shown.status = data
        self.shown.metrics = metrics.render(document, reports, counters, self._known())
        self.shown.ready = not stopping and all(c.first_beat for c in children)
        self.shown.alive_until = time.monotonic() + ALIVE
        write_atomically(self._spool.run_directory / "status.json", data)
        with contextlib.suppress(OSError):
            (self._spool.run_directory / "status.json").chmod(0o600)

    def _known(self) -> metrics.Known:
        routes = tuple(name_of(route, place) for place, route in enumerate(self.settings.routes))
        return metrics.Known(VERSION, tuple(source.name for source in self.settings.sources), (*routes, "default"))

    def _remember(self, document: dict[str, Any]) -> None:
        """The last hour, for the page."""
        now = time.monotonic()
        if now < self._history_at:
            return
        self._history_at = now + HISTORY_EVERY
        lags = [s["lag_seconds"] or 0 for source in document["sources"] for s in source["shards"]]
        rates, spool = document["rates"], document["spool"]
        self._history.append({
            "time": round(time.time()), "events": rates["delivered_events_per_second"],
            "fetched": rates["fetched_bytes_per_second"], "bytes": spool["bytes"], "lag": max(lags, default=0),
            "memory": document["memory"]["used"], "trouble": document["state"] not in {"running", "starting"},
        })  # fmt: skip
        self.shown.history = orjson.dumps(list(self._history))

    def _summarize(self, document: dict[str, Any]) -> None:
        now = time.monotonic()
        spool = document["spool"]
        self.one_line = f"{document['state']}: {spool['batches']} batches wait, {spool['bytes'] / 1e6:.0f} MB"
        if now >= self._summary_at:
            if self._summary_at:
                log.info(
                    "summary", state=document["state"],
                    delivered_events=spool["books"]["delivered"] + spool["books"]["delivered_later"],
                    waiting_batches=spool["batches"], waiting_bytes=spool["bytes"],
                    memory_bytes=document["memory"]["used"], holds=len(document["holds"]),
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
