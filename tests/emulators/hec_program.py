"""The HEC emulator as a process: one JSON line when it is ready, then until TERM, INT or POST /_control/stop.

Control: GET stats | ids | unsure | times | envelopes | requests, POST outage {on, ...} | script [answers] | rule {...} |
tokens [...] | knobs {...} | crash {...} | reset | stop.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any

import orjson

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.emulators.sls_http import Request, Response

_stop = threading.Event()


def control(hec: HecEmulator, request: Request) -> Response:
    """One command."""
    command = COMMANDS.get((request.method, request.path.removeprefix("/_control/")))
    if command is None:
        return Response(404, {}, b"{}")
    found = command(hec, json.loads(request.body) if request.body else {})
    data = found if isinstance(found, bytes) else json.dumps(found).encode()
    return Response(200, {"Content-Type": "application/json"}, data)


def _outage(hec: HecEmulator, given: dict[str, Any]) -> Any:
    hec.outage(given.pop("on"), **given)
    return {"outage": hec.faults.outage}


def _script(hec: HecEmulator, given: list[dict[str, Any]]) -> Any:
    hec.script.extend(given)
    return {"scripted": len(hec.script)}


def _rule(hec: HecEmulator, given: dict[str, Any]) -> Any:
    hec.rules[:] = [given] if given else []
    return hec.rules


def _tokens(hec: HecEmulator, given: list[dict[str, Any]]) -> Any:
    made = [Token(**{**one, "indexes": tuple(one.get("indexes", ()))}) for one in given]
    hec.tokens = {token.value: token for token in made}
    return list(hec.tokens)


def _knobs(hec: HecEmulator, given: dict[str, Any]) -> Any:
    for name, value in given.items():
        setattr(hec.knobs, name, value)
    return asdict(hec.knobs)


def _reset(hec: HecEmulator, _: Any) -> Any:
    hec.reset()
    return {}


def _crash(hec: HecEmulator, given: dict[str, Any]) -> Any:
    threading.Thread(target=lambda: hec.crash(**given), daemon=True).start()  # it ends this connection too
    return {}


def _set_stop(_hec: HecEmulator, _: Any) -> Any:
    _stop.set()
    return {}


COMMANDS: dict[tuple[str, str], Callable[[HecEmulator, Any], Any]] = {
    ("GET", "stats"): lambda hec, _: hec.show(),
    ("GET", "ids"): lambda hec, _: "\n".join(hec.ids()).encode(),
    ("GET", "unsure"): lambda hec, _: "\n".join(list(hec.unsure)).encode(),
    ("GET", "times"): lambda hec, _: dict(hec.times),
    ("GET", "envelopes"): lambda hec, _: b"\n".join(orjson.dumps(one) for one in list(hec.envelopes)),
    ("GET", "requests"): lambda hec, _: hec.show_requests(),
    ("POST", "outage"): _outage,
    ("POST", "script"): _script,
    ("POST", "rule"): _rule,
    ("POST", "tokens"): _tokens,
    ("POST", "knobs"): _knobs,
    ("POST", "crash"): _crash,
    ("POST", "reset"): _reset,
    ("POST", "stop"): _set_stop,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until TERM, INT or POST /_control/stop."""
    parser = argparse.ArgumentParser(description="A Splunk HEC for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--ack", action="store_true")
    parser.add_argument("--indexers", type=int, default=1)
    parser.add_argument("--indexes", default="", help="comma-separated allow-list of the token")
    parser.add_argument("--profile", default="enterprise", choices=("enterprise", "cloud", "lookalike"))
    parser.add_argument("--keep-envelopes", action="store_true")
    given = parser.parse_args(arguments)
    allowed = tuple(filter(None, given.indexes.split(",")))
    hec = HecEmulator(
        port=given.port, tls=given.tls, indexers=given.indexers, tokens=[Token(TOKEN, indexes=allowed, ack=given.ack)],
        knobs=Knobs(profile=given.profile, keep_envelopes=given.keep_envelopes, sticky=given.indexers > 1),
    )  # fmt: skip

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        _stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with hec:
        ready = {"url": hec.url, "port": hec.server.port, "token": hec.token, "ca_file": hec.ca_file}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        while not _stop.wait(1.0):
            pass
    return 0
