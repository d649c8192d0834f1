"""How the HEC emulator misbehaves. An answer out of a script, a rule or an outage is a dict of

    status, code, number      Splunk's JSON with that code; the status is the code's own unless given
    body, headers             this text instead
    after                     the request is served first: what it holds is stored, and the answer is this all the same
    drop                      the connection ends without an answer
    read, read_rate           the body is read up to so many bytes and the connection ends; so many bytes a second
    sent, rate                so many bytes of the answer's body are sent; so many bytes a second
    raw                       these bytes, which need be no HTTP
    hang                      seconds before it
    gate                      a threading.Event: nothing is answered before it is set
    close                     the connection ends after it

A rule has `probability`, `count`, and `contains` too: a text that the (inflated) body must hold.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from tests.emulators.hec_rules import STATUS, TEXTS
from tests.emulators.sls_http import HttpServer, Reading, Response

#: What is done while a body is read.
READING = {"read", "read_rate"}
#: Seconds: a test that fails before it opens its gate leaves no thread behind.
LONGEST_GATE = 120.0


class Faults:
    """What is to go wrong."""

    def __init__(self) -> None:
        self.script: deque[dict[str, Any]] = deque()
        self.ack_script: deque[dict[str, Any]] = deque()
        self.rules: list[dict[str, Any]] = []
        self.outage: dict[str, Any] | None = None

    def greet(self) -> Reading | None:
        """Before the body of a request is read."""
        wanted = self.outage or (self.script[0] if self.script else None) or (self.rules[0] if self.rules else {})
        if not READING & wanted.keys():
            return None
        if self.outage is None and self.script:
            self.script.popleft()
        elif self.outage is None and not _happens(wanted):
            return None
        return Reading(wanted.get("read"), wanted.get("read_rate"))

    def of_ack(self) -> dict[str, Any] | None:
        """For a poll."""
        return self.ack_script.popleft() if self.ack_script else None

    def of_event(self, body: Callable[[], bytes], random: Random) -> dict[str, Any] | None:
        """For a request with events. What began while its body was being read says nothing of the answer."""
        if self.outage is not None:
            return {"drop": True} if READING & self.outage.keys() else self.outage
        if self.script and not READING & self.script[0].keys():
            return self.script.popleft()
        for rule in self.rules:
            if READING & rule.keys():
                continue
            if "contains" in rule and rule["contains"].encode() not in body():
                continue
            if random.random() < rule.get("probability", 1.0) and _happens(rule):
                return rule
        return None


def _happens(rule: dict[str, Any]) -> bool:
    left = rule.get("count", -1)
    if left != 0:
        rule["count"] = left - 1
    return bool(left != 0)


def answer(code: int, number: Any = None, **more: Any) -> Response:
    """Splunk's JSON for a code."""
    body: dict[str, Any] = {"text": TEXTS.get(code, "unknown"), "code": code}
    if number is not None:
        body["invalid-event-number"] = number
    return Response(STATUS.get(code, 400), {"Content-Type": "application/json"}, json.dumps(body | more).encode())


def scripted(wanted: dict[str, Any], server: HttpServer) -> Response:
    """The answer that a dict describes."""
    if "hang" in wanted:
        server.stopping.wait(float(wanted["hang"]))
    if "gate" in wanted:
        wanted["gate"].wait(LONGEST_GATE)
    if wanted.get("drop"):
        return Response(drop=True)
    if "raw" in wanted:
        return Response(raw=str(wanted["raw"]).encode("latin-1"))
    if "body" in wanted:
        made = Response(int(wanted.get("status", 200)), {"Content-Type": "text/html"}, str(wanted["body"]).encode())
    else:
        made = answer(int(wanted.get("code", 0)), wanted.get("number"))
        made.status = int(wanted.get("status", made.status))
    made.headers |= wanted.get("headers", {})
    made.sent, made.rate = wanted.get("sent"), wanted.get("rate")
    made.close = bool(wanted.get("close"))
    return made


def not_found() -> Response:
    """As for an unknown path, and for everything while an indexer is in detention."""
    body = {"text": "The requested URL was not found on this server.", "code": 404}
    return Response(404, {"Content-Type": "application/json"}, json.dumps(body).encode())
