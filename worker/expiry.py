"""Certificates that end soon, Splunk's and ours: said a fortnight ahead, once a day each."""

from __future__ import annotations

import time
from collections.abc import Mapping

from worker.logs import get_logger
from worker.report import Report

log = get_logger()
#: Seconds that a certificate has left, from which on it is said.
SOON = 14 * 86400.0


class Expiry:
    """Of all endpoints."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._said: dict[str, tuple[float, int]] = {}

    def tell(self, ends: Mapping[str, float]) -> None:
        """`ends`: URL, or `client`, → when its certificate ends, Unix seconds."""
        for name, end in dict(ends).items():
            left = end - time.time()
            self._report.set("certificate_left_seconds", round(left), endpoint=name)
            day = (end, int(left // 86400))
            if left < SOON and self._said.get(name) != day:
                self._said[name] = day
                log.warning(
                    "a certificate ends soon", endpoint=name, days_left=round(left / 86400, 1),
                    hint="renew it: Splunk's, or ours (hec.client_cert) where the endpoint is `client`",
                )  # fmt: skip
