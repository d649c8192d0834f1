"""Once a second: the levels for the children, the picture, the metrics and the page's history; once a minute a log line."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections import deque
from importlib.metadata import version
from typing import Any

import orjson

from buffer import budget as spool_budget
from buffer import outside
from buffer.outside import LaneStats
from buffer.spool import Spool
from supervisor import metrics, status
from supervisor.child import Child, State
from supervisor.health import Health
from supervisor.listener import Shown
from supervisor.looker import Look, Looker
from supervisor.picture import looked_into
from supervisor.rates import Rates
from supervisor.settings import Settings
from supervisor.totals import Totals
from worker import logs
from worker.board import Board
from worker.routes import name_of

log = logs.get_logger()
SUMMARY_EVERY, HISTORY_EVERY, ALIVE = 60.0, 5.0, 10.0
#: Seconds that the last picture may take to be written.
LAST_WORD = 2.0
MOUNTS = "look at the disk: dmesg, mounts, its queue, permissions; nothing is lost, and it goes on by itself"
VERSION, HOST = version("sls-siem"), socket.gethostname()


class Publisher:
    """Makes the picture; the only one who writes status.json."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self.settings = settings
        self._spool_id = spool.id
        self.shown = Shown()
        self.sizes: dict[int, int] = {}
        self.listening = ""
        self.one_line = "starting"
        self.document: dict[str, Any] = {"holds": [], "spool": {"batches": 0}, "dead_letters": {"count": 0}}
        """The last picture."""
        self._looker = Looker(spool)
        self.at_disk: dict[str, float] = {}
        """Children with threads that wait for a disk, and for how many seconds."""
        self._since = time.time()
        self._rates, self._totals, self._health = Rates(), Totals(), Health()
        self._history: deque[dict[str, Any]] = deque(maxlen=int(3600 / HISTORY_EVERY))
        self._summary_at = self._history_at = 0.0
        self._held: dict[tuple[str, str], float] = {}
        """The supervisor's own holds: kind and name → Unix seconds."""

    def publish(self, children: list[Child], board: Board, budget: int, *, stopping: bool, down: bool = False) -> None:
        """Look, and show. What cannot be written on a full disk is not written."""
        living = [child for child in children if child.pid]
        look = self._looker.look([child.name for child in living], [os.getpid(), *(child.pid for child in living)])
        board.spool_level, board.letters_level = look.level, look.letters_level
        counters = merged_counters(look.lanes)
        self._rates.note(status.sample(look.lanes, counters, time.monotonic()))
        document = self._document(children, look, board, budget, stopping=stopping, down=down)
        self._show(document, self._totals.add(look.reports), counters, children, stopping=stopping)
        self._looker.show(self.shown.status, wait=LAST_WORD if down else 0.0)
        self._remember(document)
        self._summarize(document)
        if not down:
            self._health.tell(document, self.settings)

    def stalled(self) -> float:
        """Seconds for which the spool's disk has not answered; 0 while it does."""
        return self._looker.stalled(time.monotonic())

    def _document(
        self, children: list[Child], look: Look, board: Board, budget: int, *, stopping: bool, down: bool
    ) -> dict[str, Any]:
        used = sum(self.sizes.values())
        reports = list(look.reports.values())
        own = {"holds": self._own_holds(look, board, used, budget)}
        holds = status.merge_holds([own, *reports], endpoints=len(self.settings.hec.urls))
        now = time.monotonic()
        shown = [self._child(child, board, now) for child in children]
        hanging = status.silent(
            (c["name"], c["beat_age"]) for c in shown if c["state"] == State.RUNNING.value and not self.at_disk
        )
        state, reason = status.state_of(children, holds, hanging, stopping=stopping)
        document = {
            "schema": 1,
            "state": "down" if down else state,
            "reason": "stopped" if down else reason,
            "time": status.iso(time.time()),
            "supervisor": {"pid": os.getpid(), "since": status.iso(self._since), "version": VERSION, "host": HOST,
                           "spool_id": self._spool_id, "listen": self.listening},
            "children": shown,
            "sources": status.merge_sources(reports, (source.name for source in self.settings.sources)),
            "spool": self._spool_document(look),
            "rates": self._rates.now(),
            "holds": [{**hold, "age_seconds": age(hold["since"])} for hold in holds],
            "dead_letters": status.dead_letters(look.lanes),
            "memory": {"used": used, "budget": budget, "level": board.memory_level, "pss": look.pss},
        }  # fmt: skip
        return document | dict(zip(("state", "reason"), looked_into(document), strict=True))

    def _spool_document(self, look: Look) -> dict[str, Any]:
        left = spool_budget.room(self.settings.spool, outside.used_bytes(look.lanes), look.free)
        return look.spool | {
            "free_bytes": look.free,
            "full_in_seconds": self._rates.full_in(left),
            "drained_in_seconds": self._rates.drained_in(look.spool["groups"]),
            "live_again_in_seconds": self._rates.live_again_in(look.spool["groups"]),
        }

    def _own_holds(self, look: Look, board: Board, used: int, budget: int) -> list[dict[str, Any]]:
        """What stops all pulling or a child, as the children's holds are: with cause and remedy."""
        wanted: dict[tuple[str, str], tuple[str, str]] = {}
        if look.level:
            wanted["disk", "room"] = spool_budget.reason(
                self.settings.spool, outside.used_bytes(look.lanes), look.free, look.inodes, look.ballast
            )
            if look.unreadable:
                wanted["disk", "room"] = f"the spool cannot be read: {look.unreadable}", MOUNTS
        if self.at_disk or self.stalled():
            who = ", ".join(sorted(self.at_disk)[:4]) or "the supervisor"
            seconds = max([self.stalled(), *self.at_disk.values()])
            wanted["disk", "stalled"] = f"the disk does not answer: {who} waits for it since {seconds:.0f} s", MOUNTS
        if board.memory_level >= 2:
            error = f"the memory budget is nearly used ({used / 1e6:.0f} of {budget / 1e6:.0f} MB)"
            wanted["memory", "budget"] = error, "it frees itself; if it lasts, raise memory.budget"
        self._held = {key: self._held.get(key, time.time()) for key in wanted}
        return [
            {"kind": kind, "name": name, "since": self._held[kind, name], "events": 0, "error": error, "hint": hint,
             "next_probe": None}
            for (kind, name), (error, hint) in wanted.items()
        ]  # fmt: skip

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
        render = functools.partial(metrics.render, document, reports, counters, self._known())
        self.shown.metrics = functools.cache(render)
        self.shown.ready = not stopping and all(c.first_beat for c in children)
        self.shown.alive_until = time.monotonic() + ALIVE

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
            "fetched": rates["fetched_bytes_per_second"], "bytes": spool["bytes"] - document["dead_letters"]["bytes"],
            "lag": max(lags, default=0),
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
