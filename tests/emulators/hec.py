"""A Splunk HEC for tests: a real HTTP(S) server with Splunk's answers, which misbehaves on request.

    with HecEmulator() as hec:
        ... hec.url, hec.token ...
        hec.outage(True)                                    # 503/9 to everything
        hec.script.append({"status": 400, "code": 6, "number": 1})   # the next answers, one a request
        hec.stored                                          # sls_id -> how often: the witness

`python -m tests.emulators.hec --port P` runs the same as a process and prints one JSON line when it is ready. Control:
GET stats | ids | envelopes | requests, POST outage {on, ...} | script [answers] | rule {...} | tokens [...] | reset |
knobs {...} | stop.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import sys
import threading
import time
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from types import FrameType, TracebackType
from typing import Any, Self

import orjson

from tests.emulators.hec_rules import STATUS, TEXTS, Taken, Token, take
from tests.emulators.sls_http import HttpServer, Request, Response
from tests.emulators.sls_tls import Authority

TOKEN = "00000000-0000-4000-8000-000000000001"
EVENT_PATHS = {
    "/services/collector",
    "/services/collector/event",
    "/services/collector/1.0",
    "/services/collector/event/1.0",
}
HEALTH_PATHS = {"/services/collector/health", "/services/collector/health/1.0"}


@dataclass(slots=True)
class Knobs:
    """How this Splunk is set up."""

    profile: str = "enterprise"
    """enterprise, cloud or lookalike (all or nothing)."""
    max_content_length: int = 838_860_800
    cloud_cap: int = 5_500_000
    sticky: bool = False
    ack_delay: float = 0.0
    """Seconds until an ackId turns true; negative: never."""
    max_channels: int = 1_000_000
    keep_envelopes: bool = False
    near_full: bool = False
    detention: bool = False
    gzip: bool = True


@dataclass(slots=True)
class Indexer:
    """What one of the machines behind the address remembers: acks are its own."""

    acks: dict[str, dict[int, float]] = field(default_factory=dict)
    next_ack: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Record:
    """One request, as it was answered."""

    time: float
    path: str
    status: int
    code: int
    events: int
    bytes: int
    """Uncompressed."""
    token: str
    channel: str
    headers: dict[str, str]


def answer(code: int, number: int | None = None, **more: Any) -> Response:
    """Splunk's JSON for a code."""
    body: dict[str, Any] = {"text": TEXTS.get(code, "unknown"), "code": code}
    if number is not None:
        body["invalid-event-number"] = number
    return Response(STATUS.get(code, 400), {"Content-Type": "application/json"}, json.dumps(body | more).encode())


class HecEmulator:
    """One address, with one or several indexers behind it."""

    def __init__(
        self, *, port: int = 0, tls: bool = False, indexers: int = 1, tokens: Sequence[Token] = (Token(TOKEN),),
        knobs: Knobs | None = None,
    ) -> None:  # fmt: skip
        self.knobs = knobs or Knobs()
        self.tls = tls
        self._authority = Authority() if tls else None
        self.server = HttpServer(
            self._handle, port=port, tls=self._authority.context if self._authority else None, encrypted=tls
        )
        self.tokens = {token.value: token for token in tokens}
        self.token = next(iter(self.tokens), "")
        self.indexers = [Indexer() for _ in range(indexers)]
        self.script: deque[dict[str, Any]] = deque()
        self.rules: list[dict[str, Any]] = []
        self.stored: Counter[str] = Counter()
        self.times: dict[str, float] = {}
        self.envelopes: list[dict[str, Any]] = []
        self.requests: deque[Record] = deque(maxlen=50_000)
        self.answers: Counter[str] = Counter()
        self.total = self.bytes = 0
        self.asked_to_stop = threading.Event()
        self._outage: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._random = Random(1)

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        if self._authority:
            self._authority.close()

    @property
    def url(self) -> str:
        """For `hec.urls`."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server.port}"

    @property
    def ca_file(self) -> str:
        """What a client must trust."""
        return str(self._authority.ca_file) if self._authority else ""

    def outage(self, on: bool, **how: Any) -> None:
        """Until it is off, every POST gets this answer (503/9 unless told otherwise)."""
        self._outage = (how or {"status": 503, "code": 9}) if on else None

    # the way of a request

    def _handle(self, request: Request) -> Response:
        if request.path.startswith("/_control/"):
            return self._control(request)
        response, taken, body = self._answer(request)
        self._record(request, response, taken, body)
        return response

    def _answer(self, request: Request) -> tuple[Response, Taken, bytes]:
        nothing = Taken()
        if request.method == "OPTIONS":
            return Response(200, {"Allow": "POST,OPTIONS"}), nothing, b""
        wanted = self._misbehaviour(request)
        if wanted is not None and not wanted.get("after"):
            return self._scripted(wanted), nothing, b""
        if self.knobs.detention:
            return _not_found(), nothing, b""
        response, taken, body = self._serve(request)
        return (self._scripted(wanted) if wanted is not None else response), taken, body

    def _misbehaviour(self, request: Request) -> dict[str, Any] | None:
        is_post = request.path in EVENT_PATHS
        with self._lock:
            if self._outage is not None and (is_post or request.path in HEALTH_PATHS):
                return self._outage
            if self.script and is_post:
                return self.script.popleft()
            for rule in self.rules:
                if is_post and rule.get("count", 1) != 0 and self._random.random() < rule.get("probability", 1.0):
                    rule["count"] = rule.get("count", -1) - 1
                    return rule
        return None

    def _scripted(self, wanted: dict[str, Any]) -> Response:
        """An answer out of {status, code, number, body, headers, drop, hang, sent, rate}."""
        if "hang" in wanted:
            self.server.stopping.wait(float(wanted["hang"]))
        if wanted.get("drop"):
            return Response(drop=True)
        if "body" in wanted:
            made = Response(int(wanted.get("status", 200)), {"Content-Type": "text/html"}, str(wanted["body"]).encode())
        else:
            made = answer(int(wanted.get("code", 0)), wanted.get("number"))
            made.status = int(wanted.get("status", made.status))
        made.headers |= wanted.get("headers", {})
        made.sent, made.rate = wanted.get("sent"), wanted.get("rate")
        made.close = bool(wanted.get("close"))
        return made

    def _serve(self, request: Request) -> tuple[Response, Taken, bytes]:
        nothing = Taken()
        if request.path in HEALTH_PATHS:
            return answer(17), nothing, b""
        is_event, is_ack = request.path in EVENT_PATHS, request.path == "/services/collector/ack"
        if not (is_event or is_ack):
            return _not_found(), nothing, b""
        if request.method != "POST":
            return Response(405, {}, _not_found().body), nothing, b""
        token = self._token(request)
        if isinstance(token, Response):
            return token, nothing, b""
        if is_ack:
            return self._poll(request, token), nothing, b""
        channel = request.headers.get("x-splunk-request-channel", request.query.get("channel", ""))
        if token.ack and (refused := self._check_channel(channel)):
            return refused, nothing, b""
        body = self._inflate(request)
        if isinstance(body, Response):
            return body, nothing, b""
        return self._index(request, token, channel, body)

    def _token(self, request: Request) -> Token | Response:
        text = request.headers.get("authorization", "")
        if "token" in request.query:
            return answer(16 if request.query["token"] in self.tokens else 4)
        if not text:
            return answer(2)
        kind, _, value = text.partition(" ")
        if kind == "Basic":
            value = base64.b64decode(value).decode().partition(":")[2]
        elif kind != "Splunk":
            return answer(3)
        token = self.tokens.get(value.strip())
        if token is None:
            return answer(4)
        return answer(1) if token.disabled else token

    def _check_channel(self, channel: str) -> Response | None:
        if not channel:
            return answer(28 if self.knobs.profile == "cloud" else 10)
        try:
            uuid.UUID(channel)
        except ValueError:
            return answer(11)
        known = sum(len(i.next_ack) for i in self.indexers)
        return answer(27) if known >= self.knobs.max_channels else None

    def _inflate(self, request: Request) -> bytes | Response:
        encoding = request.headers.get("content-encoding", "")
        if not encoding:
            body = request.body
        elif encoding != "gzip" or not self.knobs.gzip:
            return Response(415, {"Content-Type": "text/html"}, b"<html>Unsupported Media Type</html>")
        else:
            try:
                body = _gunzip(request.body, self.knobs.max_content_length + 1)
            except (OSError, EOFError, zlib.error):
                return answer(6, 0)
        if len(body) > self.knobs.max_content_length:
            return Response(413, {"Content-Type": "text/html"}, b"<html>Content-Length too large</html>")
        if self.knobs.profile == "cloud" and len(body) > self.knobs.cloud_cap:
            return answer(6, 0)
        return body

    def _index(self, request: Request, token: Token, channel: str, body: bytes) -> tuple[Response, Taken, bytes]:
        taken = take(body, token)
        if taken.code and self.knobs.profile == "lookalike":
            taken.envelopes.clear()
        self._store(taken)
        if taken.code:
            return answer(taken.code, taken.number), taken, body
        more: dict[str, Any] = {}
        response_headers: dict[str, str] = {}
        if token.ack:
            number = self._indexer_of(request)
            more["ackId"] = self._new_ack(self.indexers[number], channel)
            if self.knobs.sticky:
                response_headers["Set-Cookie"] = f"idx={number}; Path=/"
        made = answer(24 if self.knobs.near_full else 0, **more)
        made.headers |= response_headers
        return made, taken, body

    def _indexer_of(self, request: Request) -> int:
        cookie = request.headers.get("cookie", "")
        if self.knobs.sticky and "idx=" in cookie:
            return int(cookie.split("idx=")[1].split(";")[0]) % len(self.indexers)
        return self._random.randrange(len(self.indexers))

    def _new_ack(self, indexer: Indexer, channel: str) -> int:
        with self._lock:
            number = indexer.next_ack[channel]
            indexer.next_ack[channel] += 1
            delay = self.knobs.ack_delay
            indexer.acks.setdefault(channel, {})[number] = float("inf") if delay < 0 else time.monotonic() + delay
            return number

    def _poll(self, request: Request, token: Token) -> Response:
        if not token.ack:
            return answer(14)
        channel = request.headers.get("x-splunk-request-channel", request.query.get("channel", ""))
        if refused := self._check_channel(channel):
            return refused
        known = self.indexers[self._indexer_of(request)].acks.get(channel, {})
        found = {}
        with self._lock:
            for number in json.loads(request.body or b"{}").get("acks", []):
                ready = known.get(number, float("inf")) <= time.monotonic()
                found[str(number)] = ready
                if ready:
                    del known[number]
        return Response(200, {"Content-Type": "application/json"}, json.dumps({"acks": found}).encode())

    def _store(self, taken: Taken) -> None:
        now = time.time()
        with self._lock:
            for envelope in taken.envelopes:
                event, fields = envelope.get("event"), envelope.get("fields") or {}
                found = (event.get("sls_id") if isinstance(event, dict) else None) or fields.get("sls_id")
                name = str(found) if found else f"without-id-{self.total}"
                self.stored[name] += 1
                self.times.setdefault(name, now)
                self.total += 1
            if self.knobs.keep_envelopes:
                self.envelopes += taken.envelopes

    def _record(self, request: Request, response: Response, taken: Taken, body: bytes) -> None:
        code = -1
        if response.body[:1] == b"{":
            code = int(orjson.loads(response.body).get("code", -1))
        kept = ("user-agent", "content-encoding", "content-type", "cookie", "connection")
        record = Record(
            time.time(), request.path, response.status, code, len(taken.envelopes), len(body),
            request.headers.get("authorization", "").partition(" ")[2],
            request.headers.get("x-splunk-request-channel", ""),
            {name: request.headers[name] for name in kept if name in request.headers},
        )  # fmt: skip
        with self._lock:
            self.requests.append(record)
            self.bytes += len(body)
            self.answers["dropped" if response.drop else f"{response.status}/{code}"] += 1

    # remote control

    def _control(self, request: Request) -> Response:
        name = f"{request.method.lower()}_{request.path.removeprefix('/_control/')}"
        command = getattr(self, f"_control_{name}", None)
        if command is None:
            return Response(404, {}, b"{}")
        found = command(json.loads(request.body) if request.body else {})
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        return Response(200, {"Content-Type": "application/json"}, data)

    def _control_get_stats(self, _: Any) -> Any:
        with self._lock:
            return {
                "distinct": len(self.stored), "stored": self.total, "bytes": self.bytes,
                "answers": dict(self.answers), "connections": self.server.connections,
            }  # fmt: skip

    def _control_get_ids(self, _: Any) -> bytes:
        with self._lock:
            return "\n".join(i for i, n in self.stored.items() for _ in range(n)).encode()

    def _control_get_times(self, _: Any) -> Any:
        with self._lock:
            return dict(self.times)

    def _control_get_envelopes(self, _: Any) -> bytes:
        with self._lock:
            return b"\n".join(orjson.dumps(one) for one in self.envelopes)

    def _control_get_requests(self, _: Any) -> Any:
        with self._lock:
            return [asdict(one) for one in self.requests]

    def _control_post_outage(self, given: dict[str, Any]) -> Any:
        self.outage(given.pop("on"), **given)
        return {"outage": self._outage}

    def _control_post_script(self, given: list[dict[str, Any]]) -> Any:
        self.script.extend(given)
        return {"scripted": len(self.script)}

    def _control_post_rule(self, given: dict[str, Any]) -> Any:
        self.rules[:] = [given] if given else []
        return self.rules

    def _control_post_tokens(self, given: list[dict[str, Any]]) -> Any:
        made = [Token(**{**one, "indexes": tuple(one.get("indexes", ()))}) for one in given]
        self.tokens = {token.value: token for token in made}
        return list(self.tokens)

    def _control_post_knobs(self, given: dict[str, Any]) -> Any:
        for name, value in given.items():
            setattr(self.knobs, name, value)
        return asdict(self.knobs)

    def _control_post_reset(self, _: Any) -> Any:
        with self._lock:
            self.stored.clear()
            self.times.clear()
            self.envelopes.clear()
            self.requests.clear()
            self.answers.clear()
            self.total = self.bytes = 0
        return {}

    def _control_post_stop(self, _: Any) -> Any:
        self.asked_to_stop.set()
        return {}


def _not_found() -> Response:
    body = {"text": "The requested URL was not found on this server.", "code": 404}
    return Response(404, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _gunzip(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes, whatever the client says."""
    inflater = zlib.decompressobj(31)
    return inflater.decompress(data, limit)


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
        hec.asked_to_stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with hec:
        ready = {"url": hec.url, "port": hec.server.port, "token": hec.token, "ca_file": hec.ca_file}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        while not hec.asked_to_stop.wait(1.0):
            pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
