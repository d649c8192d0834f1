"""Which event of a refused request is at fault: the one that is named, alone; else halves of halves. Only what is refused on
its own is buried or parked (refusals.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from worker.endpoint import Endpoint
from worker.pack import Request, around, halves, split
from worker.refusals import Refusals
from worker.report import Report
from worker.verdict import Verdict

#: A 400/6 at event 0 of a body over this many bytes may be a cap on size, not a fault (Splunk Cloud).
CAP_SUSPECT = 512 << 10
#: Tries that a request may be refused by unknown hands, while others pass, before it is looked into.
SUSPICIONS = 5
#: Seconds of trouble after which a request that nothing else waits behind is halved, to have something to compare.
LONELY = 60.0


class Isolation:
    """Puts the parts of what was refused at the head of the queue."""

    def __init__(
        self, queue: deque[Request], refusals: Refusals, report: Report, accepted: Callable[[Request], None],
    ) -> None:  # fmt: skip
        self._queue = queue
        self._refusals = refusals
        self._report = report
        self._accepted = accepted
        self.passed = 0
        """Requests that were accepted."""

    def suspect(self, request: Request, endpoint: Endpoint, verdict: Verdict) -> bool:
        """It may be these bytes. Where others pass all the while, it is halved, down to the one event, which is parked.

        With no others to tell, its halves are each other's.
        """
        if request.suspicions == 0:
            request.passed_before = self.passed
        request.suspicions += 1
        is_alone = request.events > 1 and not self._queue and endpoint.age(time.monotonic()) > LONELY
        if request.suspicions < SUSPICIONS or not (self.passed > request.passed_before or is_alone):
            return False
        request.gone = True
        if request.events == 1:
            self._refusals.hold_payload(request, verdict)
            return True
        for half in halves(request):
            half.suspicions, half.passed_before = SUSPICIONS - 2, self.passed
            self._queue.append(half)
        return True

    def too_large(self, request: Request, endpoint: Endpoint, verdict: Verdict) -> None:
        """For this endpoint; a single event that is too large for all of them is at fault itself."""
        if request.events > 1:
            self.cut(request, min(endpoint.max_bytes, request.bytes // 2))
        else:
            self._refused(request, replace(verdict, why=f"too large for Splunk: {request.bytes} bytes"))

    def cut(self, request: Request, limit: int) -> None:
        """Requests of at most `limit` bytes instead of it."""
        request.gone = True
        self._queue.extendleft(reversed(split(request, limit)))

    def isolate(self, request: Request, endpoint: Endpoint, verdict: Verdict, *, has_prefix: bool) -> None:
        """`has_prefix`: Splunk is trusted to have taken what stands in front of the event that it names."""
        if request.events == 1:
            self._refused(request, verdict)
            return
        request.gone = True
        if verdict.number is None:
            self._queue.extendleft(reversed(halves(request)))
            return
        suspect, before, after = around(request, verdict.number)
        if verdict.code == 6 and verdict.number == 0 and request.bytes > CAP_SUSPECT:
            suspect.was_first_of = endpoint.url, request.bytes
        if has_prefix:
            for one in before:
                self._refusals.accepted(one)
                self._accepted(one)
            before = []
        elif before:
            self._report.add("hec_possible_duplicates_total", sum(one.events for one in before))
        self._queue.extendleft(reversed([suspect, *before, *after]))

    def _refused(self, request: Request, verdict: Verdict) -> None:
        request.gone = True
        self._queue.extendleft(self._refusals.refused(next(request.singles()), verdict))
