"""What is wrong with one source, by area (its heartbeat, its checkpoints, a shard), and the hold that shows it.

A lasting error is shown at once, a passing one when it has lasted: one dropped connection is no news.
"""

from __future__ import annotations

import random
import threading
import time

from worker.backoff import next_wait
from worker.logs import get_logger
from worker.report import Report
from worker.sls_errors import SlsError

log = get_logger()
SHOW_AFTER = 5.0


class Troubles:
    """Threads of the source share it."""

    def __init__(self, report: Report, source: str) -> None:
        self._report = report
        self._source = source
        self._since: dict[str, float] = {}
        self._shown: dict[str, SlsError] = {}
        self._lock = threading.Lock()

    def note(self, area: str, error: SlsError) -> float:
        """It went wrong (again). Seconds until the next try."""
        now = time.monotonic()
        self._report.add("sls_errors_total", source=self._source, code=error.code or type(error).__name__)
        with self._lock:
            age = now - self._since.setdefault(area, now)
            wait = next_wait(age, random.random())
            if error.lasting or age >= SHOW_AFTER:
                self._shown[area] = error
                self._show(time.time() + wait)
        return wait

    def clear(self, area: str) -> None:
        """It goes again."""
        if area not in self._since:
            return
        with self._lock:
            self._since.pop(area, None)
            shown = self._shown.pop(area, None)
            if self._shown:
                self._show(None)
            elif shown is not None and self._report.release("source", self._source):
                log.info("source goes on", source=self._source)

    def clear_all(self, prefix: str) -> None:
        """Areas of something that is no more."""
        for area in [one for one in list(self._since) if one.startswith(prefix)]:
            self.clear(area)

    def _show(self, next_probe: float | None) -> None:
        area = min(self._shown, key=lambda one: (not self._shown[one].lasting, one))
        error = self._shown[area]
        if self._report.hold("source", self._source, error.error, error.hint, next_probe=next_probe):
            log.error("source held", source=self._source, area=area, error=error.error, hint=error.hint)
