"""A Splunk HEC for tests: a real HTTP(S) server with Splunk's answers, which misbehaves on request.

    with HecEmulator() as hec:
        ... hec.url, hec.token ...
        hec.outage(True)                                    # 503/9 to everything
        hec.script.append({"status": 400, "code": 6, "number": 1})   # the next answers, one a request
        hec.stored                                          # sls_id -> how often: the witness
        hec.unsure                                          # ids whose sender cannot know that they are stored

`python -m tests.emulators.hec --port P` runs the same as a process (hec_program.py). What an answer out of a script, a
rule or an outage may say is in hec_faults.py.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from types import TracebackType
from typing import Any, Self

import orjson

from tests.emulators.book import Book
from tests.emulators.hec_faults import Faults, answer, not_found, scripted
from tests.emulators.hec_indexer import Indexer, Pending
from tests.emulators.hec_rules import Taken, Token, take, take_raw
from tests.emulators.hec_tls import HecAuthority
from tests.emulators.sls_http import HttpServer, Reading, Request, Response

TOKEN = "00000000-0000-4000-8000-000000000001"
EVENT_PATHS = {
    "/services/collector",
    "/services/collector/event",
    "/services/collector/1.0",
    "/services/collector/event/1.0",
}
RAW_PATHS = {"/services/collector/raw", "/services/collector/raw/1.0"}
ACK_PATH = "/services/collector/ack"
HEALTH_PATHS = {"/services/collector/health", "/services/collector/health/1.0"}


@dataclass(slots=True)
class Knobs:
    """How this Splunk is set up, and how it feels."""

    profile: str = "enterprise"
    """enterprise, cloud or lookalike (all or nothing)."""
    version: int = 10
    """Before 9, a full queue or too many channels are 503/9, not 429."""
    max_content_length: int = 838_860_800
    cloud_cap: int = 5_500_000
    sticky: bool = False
    """A cookie leads to the same indexer again."""
    cookie_each: bool = False
    """The cookie is written anew in each answer, for the same indexer."""
    session: int = 0
    """Changed: every session has moved, and cookies of before lead nowhere."""
    ack_delay: float = 0.0
    """Seconds until an ackId turns true; negative: never."""
    delay: float = 0.0
    """Seconds between storing and answering."""
    max_channels: int = 1_000_000
    max_pending: int = 1_000_000
    """Un-asked ackIds of a channel; over it the oldest are forgotten."""
    max_idle: float = 600.0
    """Seconds after which a channel's ids are forgotten."""
    allow_query_token: bool = False
    connection_host: str = "ip"
    keep_envelopes: bool = False
    near_full: bool = False
    queue_full: bool = False
    number_when_full: int | None = None
    ack_near_full: bool = False
    ack_down: bool = False
    shutting_down: bool = False
    detention: bool = False
    gzip: bool = True


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
    indexer: int = -1
    connection: int = 0


class HecEmulator:
    """One address, with one or several indexers behind it."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, tls: bool | HecAuthority = False, indexers: int = 1,
        tokens: Sequence[Token] = (Token(TOKEN),), knobs: Knobs | None = None,
    ) -> None:  # fmt: skip
        self.knobs = knobs or Knobs()
        self.tls, self.host = bool(tls), host
        self._own_authority = HecAuthority() if tls is True else None
        self.authority = tls if isinstance(tls, HecAuthority) else self._own_authority
        self.server = HttpServer(
            self._handle,
            host=host,
            port=port,
            tls=self.authority.context if self.authority else None,
            encrypted=self.tls,
        )
        self.server.greet = self._greet
        self.tokens = {token.value: token for token in tokens}
        self.token = next(iter(self.tokens), "")
        self.indexers = [Indexer() for _ in range(indexers)]
        self.faults = Faults()
        self.script, self.rules, self.ack_script = self.faults.script, self.faults.rules, self.faults.ack_script
        self.stored: Counter[str] = Counter()
        self.unsure: set[str] = set()
        """Ids that were stored and whose sender was not told so: it may only send them again."""
        self.acked: set[str] = set()
        """Ids that an acknowledgement was given for, and sent."""
        self.told: Counter[str] = Counter()
        """Id → how often its sender was told that it is safe: by a success, or with acknowledgement by a true."""
        self.times: dict[str, float] = {}
        self.envelopes: list[dict[str, Any]] = []
        self.requests: Book[Record] = Book(maxlen=50_000)
        self.answers: Counter[str] = Counter()
        self.total = self.bytes = 0
        self._lock = threading.Lock()
        self._random = Random(1)

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        if self._own_authority:
            self._own_authority.close()

    @property
    def url(self) -> str:
        """For `hec.urls`."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.server.port}"

    @property
    def ca_file(self) -> str:
        """What a client must trust."""
        return str(self.authority.ca_file) if self.authority else ""

    def outage(self, on: bool, **how: Any) -> None:
        """Until it is off, every POST gets this answer (503/9 unless told otherwise)."""
        self.faults.outage = (how or {"status": 503, "code": 9}) if on else None

    def acknowledge(self) -> None:
        """All that waits for an acknowledgement, and what comes from now on."""
        with self._lock:
            self.knobs.ack_delay = 0.0
            for indexer in self.indexers:
                indexer.settle()

    def pending(self) -> list[Pending]:
        """The requests that are not acknowledged yet."""
        with self._lock:
            channels = [channel for indexer in self.indexers for channel in indexer.channels.values()]
            return [one for channel in channels for one in channel.pending.values()]

    def crash(self, *, lose_unacked: bool = False, down: Callable[[], object] = lambda: None) -> None:
        """Connections end, acks are forgotten; of a token that acknowledges, what was not acknowledged may be lost."""
        self.server.stop()
        down()
        with self._lock:
            for indexer in self.indexers:
                lost = indexer.crash()
                if lose_unacked:
                    self.stored.subtract(lost)
                    self.stored += Counter()
                    self.unsure.update(lost)
        self.server.start()

    # the way of a request

    def _greet(self, method: str, target: str) -> Reading | None:
        if method != "POST" or target.partition("?")[0] not in EVENT_PATHS:
            return None
        with self._lock:
            return self.faults.greet()

    def _handle(self, request: Request) -> Response:
        if request.path.startswith("/_control/"):
            from tests.emulators.hec_program import control

            return control(self, request)
        response, taken, body, indexer = self._answer(request)
        self._record(request, response, taken, body, indexer)
        if "user-agent" not in request.headers:  # forceHttp10
            response.version, response.close = "1.0", True
        return response

    def _answer(self, request: Request) -> tuple[Response, Taken, bytes, int]:
        nothing = Taken()
        if request.method == "OPTIONS":
            return Response(200, {"Allow": "POST,OPTIONS"}), nothing, b"", -1
        wanted = self._misbehaviour(request)
        if wanted is not None and not wanted.get("after"):
            return scripted(wanted, self.server), nothing, b"", -1
        if self.knobs.detention:
            return not_found(), nothing, b"", -1
        response, taken, body, indexer = self._serve(request)
        return (scripted(wanted, self.server) if wanted is not None else response), taken, body, indexer

    def _misbehaviour(self, request: Request) -> dict[str, Any] | None:
        with self._lock:
            if request.path == ACK_PATH:
                return self.faults.of_ack()
            if request.path in HEALTH_PATHS:
                return self.faults.outage
            if request.path not in EVENT_PATHS:
                return None
            return self.faults.of_event(lambda: self._plain_body(request), self._random)

    def _plain_body(self, request: Request) -> bytes:
        found = self._inflate(request)
        return found if isinstance(found, bytes) else b""

    def _serve(self, request: Request) -> tuple[Response, Taken, bytes, int]:
        nothing = Taken()
        if request.path in HEALTH_PATHS:
            return self._health(), nothing, b"", -1
        is_raw, is_ack = request.path in RAW_PATHS, request.path == ACK_PATH
        if not (request.path in EVENT_PATHS or is_raw or is_ack):
            return not_found(), nothing, b"", -1
        if request.method != "POST":
            return Response(405, {}, not_found().body), nothing, b"", -1
        token = self._token(request)
        if isinstance(token, Response):
            return token, nothing, b"", -1
        if is_ack and not token.ack:
            return answer(14), nothing, b"", -1
        channel = request.headers.get("x-splunk-request-channel", request.query.get("channel", ""))
        number, cookie = self._indexer_of(request)
        if token.ack and (refused := self._check_channel(channel, number)):
            return refused, nothing, b"", number
        if is_ack:
            return self._poll(request, channel, number, cookie), nothing, b"", number
        body = self._inflate(request)
        if isinstance(body, Response):
            return body, nothing, b"", number
        if refused := self._too_full():
            return refused, nothing, body, number
        made, taken = self._index(request, token, channel, body, number)
        if self.knobs.delay:
            self.server.stopping.wait(self.knobs.delay)
        made.headers |= cookie
        return made, taken, body, number

    def _health(self) -> Response:
        knobs = self.knobs
        if knobs.shutting_down:
            return answer(23)
        return answer({(0, 0): 17, (1, 0): 18, (0, 1): 19, (1, 1): 20}[knobs.queue_full, knobs.ack_down])

    def _too_full(self) -> Response | None:
        knobs = self.knobs
        if knobs.shutting_down:
            return answer(23)
        return answer(9 if knobs.version < 9 else 26, knobs.number_when_full) if knobs.queue_full else None

    def _token(self, request: Request) -> Token | Response:
        text = request.headers.get("authorization", "")
        if "token" in request.query:
            token = self.tokens.get(request.query["token"])
            if token is None:
                return answer(4)
            return token if self.knobs.allow_query_token else answer(16)
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

    def _check_channel(self, channel: str, number: int) -> Response | None:
        if not channel:
            return answer(28 if self.knobs.profile == "cloud" else 10)
        try:
            uuid.UUID(channel)
        except ValueError:
            return answer(11)
        with self._lock:
            known = self.indexers[number].channels
            self.indexers[number].clean(self.knobs.max_idle)
            if channel in known or len(known) < self.knobs.max_channels:
                return None
        return answer(9 if self.knobs.version < 9 else 27)

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

    def _index(
        self, request: Request, token: Token, channel: str, body: bytes, number: int
    ) -> tuple[Response, Taken]:  # fmt: skip
        taken = take_raw(body, self._raw_metadata(request)) if request.path in RAW_PATHS else take(body, token)
        if taken.code and self.knobs.profile == "lookalike":
            taken.envelopes.clear()
        ids = self._store(taken)
        if taken.code:
            made = answer(taken.code, taken.number)
        else:
            more: dict[str, Any] = {}
            if token.ack:
                with self._lock:
                    more["ackId"] = self.indexers[number].accept(
                        channel, self.knobs.ack_delay, ids, self.knobs.max_pending
                    )
            made = answer(24 if self.knobs.near_full else 25 if self.knobs.ack_near_full else 0, **more)
        self._watch(made, ids, is_told=not taken.code, is_final=not token.ack)
        return made, taken

    def _watch(self, made: Response, ids: list[str], *, is_told: bool, is_final: bool) -> None:
        """A sender that gets no success does not know that its events were stored."""

        def told(was_sent: bool) -> None:
            with self._lock:
                if not (was_sent and is_told):
                    self.unsure.update(ids)
                elif is_final:
                    self.told.update(ids)

        made.told = told

    def _raw_metadata(self, request: Request) -> dict[str, Any]:
        host = request.peer.rpartition(":")[0]
        if self.knobs.connection_host == "proxied_ip":
            host = request.headers.get("x-forwarded-for", host).partition(",")[0].strip()
        wanted = {"host", "source", "sourcetype", "index"}
        return {"host": host} | {name: value for name, value in request.query.items() if name in wanted}

    def _indexer_of(self, request: Request) -> tuple[int, dict[str, str]]:
        """Which one, and the cookie to set."""
        cookie = request.headers.get("cookie", "")
        known = cookie.split("idx=")[1].split(";")[0].split(".") if self.knobs.sticky and "idx=" in cookie else []
        if known[:1] == [str(self.knobs.session)]:
            number = int(known[1]) % len(self.indexers)
            if not self.knobs.cookie_each:
                return number, {}
        else:
            number = self._random.randrange(len(self.indexers))
        if not self.knobs.sticky:
            return number, {}
        anew = f".{uuid.uuid4().hex[:8]}" if self.knobs.cookie_each else ""
        return number, {"Set-Cookie": f"idx={self.knobs.session}.{number}{anew}; Path=/"}

    def _poll(self, request: Request, channel: str, number: int, cookie: dict[str, str]) -> Response:
        numbers = orjson.loads(request.body or b"{}").get("acks", [])
        with self._lock:
            known = self.indexers[number].channels.get(channel)
            pending = dict(known.pending) if known else {}
            found = self.indexers[number].ask(channel, numbers)
        made = Response(200, {"Content-Type": "application/json"} | cookie, json.dumps({"acks": found}).encode())

        def told(was_sent: bool) -> None:
            with self._lock:
                for ids in (pending[int(one)].ids for one, ready in found.items() if ready):
                    if was_sent:
                        self.acked.update(ids)
                        self.told.update(ids)
                    else:
                        self.unsure.update(ids)

        made.told = told
        return made

    def _store(self, taken: Taken) -> list[str]:
        now = time.time()
        ids = []
        with self._lock:
            for envelope in taken.envelopes:
                event, fields = envelope.get("event"), envelope.get("fields") or {}
                found = (event.get("sls_id") if isinstance(event, dict) else None) or fields.get("sls_id")
                name = str(found) if found else f"without-id-{self.total}"
                ids.append(name)
                self.stored[name] += 1
                self.times.setdefault(name, now)
                self.total += 1
            if self.knobs.keep_envelopes:
                self.envelopes += taken.envelopes
        return ids

    def _record(self, request: Request, response: Response, taken: Taken, body: bytes, indexer: int) -> None:
        code = -1
        if response.body[:1] == b"{":
            try:
                code = int(orjson.loads(response.body).get("code", -1))
            except (ValueError, TypeError):
                code = -1
        kept = ("user-agent", "content-encoding", "content-type", "cookie", "connection")
        record = Record(
            time.time(), request.path, response.status, code, len(taken.envelopes), len(body),
            request.headers.get("authorization", "").partition(" ")[2],
            request.headers.get("x-splunk-request-channel", ""),
            {name: request.headers[name] for name in kept if name in request.headers}, indexer, request.connection,
        )  # fmt: skip
        with self._lock:
            self.requests.append(record)
            self.bytes += len(body)
            self.answers["dropped" if response.drop else f"{response.status}/{code}"] += 1
            if taken.envelopes and response.told is None:  # a fault answers instead of us
                self.unsure.update(
                    str(e["event"]["sls_id"])
                    for e in taken.envelopes
                    if isinstance(e.get("event"), dict) and "sls_id" in e["event"]
                )

    # what the witness knows

    def posts(self) -> list[Record]:
        """Requests with events, in order."""
        return [one for one in list(self.requests) if one.path in EVENT_PATHS]

    def ids(self) -> list[str]:
        """Every stored id as often as it is stored."""
        with self._lock:
            return list(self.stored.elements())

    def show(self) -> dict[str, Any]:
        """Numbers, for the remote control."""
        with self._lock:
            return {
                "distinct": len(self.stored), "stored": self.total, "bytes": self.bytes, "answers": dict(self.answers),
                "connections": self.server.connections, "unsure": len(self.unsure),
            }  # fmt: skip

    def show_requests(self) -> list[dict[str, Any]]:
        """Every request, for the remote control."""
        with self._lock:
            return [asdict(one) for one in self.requests]

    def reset(self) -> None:
        """Forget what was stored and asked."""
        with self._lock:
            for one in (
                self.stored,
                self.unsure,
                self.acked,
                self.told,
                self.times,
                self.envelopes,
                self.requests,
                self.answers,
            ):
                one.clear()
            self.total = self.bytes = 0


def _gunzip(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes, whatever the client says."""
    inflater = zlib.decompressobj(31)
    return inflater.decompress(data, limit)


if __name__ == "__main__":
    from tests.emulators.hec_program import main

    raise SystemExit(main())
