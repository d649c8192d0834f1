"""The URLs of one sender: which of them is in trouble, how that is said once, and how it ends. A breaker each."""

from __future__ import annotations

import random
import time

from worker.endpoint import Endpoint
from worker.logs import get_logger
from worker.report import Report
from worker.settings import HecSettings
from worker.verdict import Act, Verdict

log = get_logger()


class Breakers:
    """All of them."""

    def __init__(self, settings: HecSettings, report: Report) -> None:
        most = settings.max_request_bytes
        self.endpoints = [Endpoint(url, max_bytes=most, most_bytes=most) for url in settings.urls]
        self._report = report

    def of(self, url: str) -> Endpoint:
        """The endpoint of a URL."""
        return next(one for one in self.endpoints if one.url == url)

    def answers(self, endpoint: Endpoint) -> None:
        """As Splunk does, if only to refuse an event."""
        if endpoint.is_silent:
            endpoint.probing = False
        else:
            self.works(endpoint)

    def works(self, endpoint: Endpoint) -> None:
        """Whatever it was has ended."""
        if endpoint.trouble_since is not None:
            log.info(
                "splunk takes again",
                endpoint=endpoint.url,
                after_seconds=round(time.monotonic() - endpoint.trouble_since, 1),
            )
        endpoint.works()
        self._report.release("endpoint", endpoint.url)
        if not any(one.refuses_token for one in self.endpoints):
            self._report.release("token", "default")

    def fails(self, endpoint: Endpoint, verdict: Verdict) -> None:
        """It does not take, and is tried again by the one rule."""
        now = time.monotonic()
        endpoint.failed(now, random.random(), verdict.retry_after)
        if verdict.slow_down:
            endpoint.slow_down()
        endpoint.refuses_token, endpoint.is_held = verdict.hold == "token", verdict.act is Act.HOLD
        kind, name = ("token", "default") if endpoint.refuses_token else ("endpoint", endpoint.url)
        self._say(kind, name, verdict, endpoint.next_try - now)

    def _say(self, kind: str, name: str, verdict: Verdict, wait: float) -> None:
        shown = f"{verdict.status}/{verdict.code}: {verdict.why}" if verdict.status else verdict.why
        new = self._report.hold(
            kind, name, shown, verdict.hint or "it comes back by itself", next_probe=time.time() + wait
        )
        if new:
            say = log.error if verdict.act is Act.HOLD else log.warning
            say("hold", kind=kind, name=name, error=shown, hint=verdict.hint)
