"""Requests on their way: which goes where, and what each verdict does to the events in it.

The one place that turns verdicts into deeds. It posts nothing itself: `start` hands a request to a thread of the pool and
`finish` is called with what came back, both on the sender's main thread.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from buffer.values import DeadLetter
from worker.acks import Acks, Channel
from worker.decode import open_pull
from worker.encode import letter_of
from worker.endpoint import Endpoint, choose
from worker.hec import HecClient
from worker.holds import Hold, Holds, Storm
from worker.logs import get_logger
from worker.pack import CAREFUL, Piece, Request, around, halves, split
from worker.report import Report
from worker.settings import HecSettings
from worker.settle import BatchWork, LetterWork
from worker.tokens import Tokens, mask
from worker.verdict import Act, Reply, Verdict, judge

log = get_logger()
#: A 400/6 at event 0 of a body over this many bytes may be a cap on size, not a fault (Splunk Cloud).
CAP_SUSPECT = 512 << 10
INDEX_HINT = "add the index to the token's allowed indexes, or change the route and send HUP"
ROUTE_HINT = "see `sls-siem dead ls` for Splunk's reason; mend the route and send HUP"


class Delivery:
    """Queue, endpoints, holds and acknowledgements of one sender."""

    def __init__(
        self, settings: HecSettings, report: Report, submit: Callable[[Callable[[], Callable[[], None]]], None]
    ) -> None:
        self._settings = settings
        self._report = report
        self._submit = submit
        """Runs the first part in the pool, and what that returns on the main thread."""
        self.client = HecClient(settings)
        self.tokens = Tokens(settings)
        self.endpoints = [Endpoint(url, max_bytes=settings.max_request_bytes) for url in settings.urls]
        self.queue: deque[Request] = deque()
        self.holds = Holds()
        self.acks = Acks()
        self.in_flight = 0
        self._storms: dict[str, Storm] = {}
        self._acking = dict.fromkeys(settings.urls, settings.ack == "required")

    # sending

    def pump(self, now: float, limit: int) -> None:
        """Start what may be started."""
        while self.queue and self.in_flight < limit and self._window_open():
            endpoint = choose(self.endpoints, now)
            if endpoint is None:
                return
            request = self.queue.popleft()
            if request.bytes > endpoint.max_bytes and request.events > 1:
                self.queue.extendleft(reversed(split(request, endpoint.max_bytes)))
                continue
            self.start(request, endpoint)
        self._poll_acks(now)

    def _window_open(self) -> bool:
        return self.acks.bytes < self._settings.max_unacked_bytes

    def start(self, request: Request, endpoint: Endpoint) -> None:
        """Give it to the pool."""
        endpoint.begins()
        self.in_flight += 1
        token = self.tokens.resolve(request.token)
        channel = self.acks.channel(endpoint.url) if self._acking[endpoint.url] else None
        compress = self._settings.gzip and endpoint.gzip and request.compress
        fresh = request.tries > 0

        def post() -> Callable[[], None]:
            began = time.monotonic()
            reply = self.client.post(
                endpoint.url, token, [piece.view for piece in request.pieces], compress=compress,
                channel=channel.id if channel else "", fresh=fresh,
            )  # fmt: skip
            took = time.monotonic() - began
            return lambda: self.finish(request, endpoint, reply, channel, took)

        self._submit(post)

    def finish(self, request: Request, endpoint: Endpoint, reply: Reply, channel: Channel | None, took: float) -> None:
        """The verdict, and what it does."""
        endpoint.in_flight -= 1
        self.in_flight -= 1
        verdict = judge(reply, events=request.events, wants_ack=channel is not None, now=time.time())
        status = str(verdict.status) if reply.failure is None else reply.failure.value
        self._report.add("hec_requests_total", endpoint=endpoint.url, status=status, code=str(verdict.code))
        self._report.observe("hec_request_seconds", took)
        if verdict.ambiguous:
            self._report.add("hec_possible_duplicates_total", request.events)
        getattr(self, f"_on_{verdict.act.value}")(request, endpoint, verdict, channel)

    # verdicts

    def _on_accept(self, request: Request, endpoint: Endpoint, verdict: Verdict, channel: Channel | None) -> None:
        self._works(endpoint)
        if channel is not None and verdict.ack_id is not None:
            again = self.acks.accepted(channel, verdict.ack_id, request, time.monotonic())
            self.queue.extendleft(again)
            return
        self.accepted(request)

    def accepted(self, request: Request) -> None:
        """Splunk has them."""
        for piece in request.pieces:
            piece.work.accept(piece.encoded, piece.first, piece.count)
            for span in piece.encoded.spans_of(piece.first, piece.count) if self._storms else ():
                if span.route in self._storms:
                    self._storms[span.route].accepted(min(span.count, piece.count))

    def _works(self, endpoint: Endpoint) -> None:
        if endpoint.trouble_since is not None:
            log.info(
                "splunk takes again",
                endpoint=endpoint.url,
                after_seconds=round(time.monotonic() - endpoint.trouble_since, 1),
            )
        endpoint.works()
        self._report.release("endpoint", endpoint.url)
        self._report.release("token", "default")

    def _on_retry(self, request: Request, endpoint: Endpoint, verdict: Verdict, _channel: Channel | None) -> None:
        self._trouble(endpoint, verdict)
        request.tries += 1
        self.queue.appendleft(request)

    def _trouble(self, endpoint: Endpoint, verdict: Verdict) -> None:
        now = time.monotonic()
        endpoint.failed(now, random.random(), verdict.retry_after)
        name = "default" if verdict.hold == "token" else endpoint.url
        self._say("token" if verdict.hold == "token" else "endpoint", name, verdict, endpoint.next_try - now)

    def _say(self, kind: str, name: str, verdict: Verdict, wait: float) -> None:
        shown = f"{verdict.status}/{verdict.code}: {verdict.why}" if verdict.status else verdict.why
        new = self._report.hold(
            kind, name, shown, verdict.hint or "it comes back by itself", next_probe=time.time() + wait
        )
        if new:
            say = log.error if verdict.act is Act.HOLD else log.warning
            say("hold", kind=kind, name=name, error=shown, hint=verdict.hint)

    def _on_hold(self, request: Request, endpoint: Endpoint, verdict: Verdict, channel: Channel | None) -> None:
        if verdict.hold == "token" and request.token:
            self.hold_token(request, verdict)
            self._works(endpoint)
            return
        self._on_retry(request, endpoint, verdict, channel)

    def hold_token(self, request: Request, verdict: Verdict) -> None:
        """A route's own token is refused: its events are parked, the others flow."""
        hold = self._begin_hold("token", mask(request.token), verdict, verdict.hint)
        for piece in request.singles():
            self._bury(piece, verdict, "parked", hold)

    def _on_channel(self, request: Request, endpoint: Endpoint, verdict: Verdict, channel: Channel | None) -> None:
        if self._settings.ack == "off" or request.tries > 2:
            hint = "the token wants acknowledgement: set hec.ack to auto, or turn useACK off in Splunk"
            self._on_retry(request, endpoint, replace(verdict, hint=hint, hold="token", act=Act.HOLD), channel)
            return
        self._acking[endpoint.url] = True
        self.acks.renew(endpoint.url)
        endpoint.works()
        request.tries += 1
        self.queue.appendleft(request)

    def _on_plain(self, request: Request, endpoint: Endpoint, verdict: Verdict, channel: Channel | None) -> None:
        if not (endpoint.gzip and request.compress):
            self._on_retry(request, endpoint, replace(verdict, hint="not even without gzip", hold="endpoint"), channel)
            return
        endpoint.gzip = False
        endpoint.works()
        self.queue.appendleft(request)

    def _on_split(self, request: Request, endpoint: Endpoint, verdict: Verdict, _channel: Channel | None) -> None:
        endpoint.works()
        endpoint.shrink(request.bytes)
        if request.events == 1:
            self._refused(next(request.singles()), replace(verdict, why=f"too large for Splunk: {request.bytes} bytes"))
            return
        self.queue.extendleft(reversed(split(request, endpoint.max_bytes)))

    def _on_isolate(self, request: Request, endpoint: Endpoint, verdict: Verdict, _channel: Channel | None) -> None:
        """Only the verdict on a single event buries it."""
        endpoint.works()
        if request.events == 1:
            self._refused(next(request.singles()), verdict)
            return
        if verdict.number is None:
            self.queue.extendleft(reversed(halves(request)))
            return
        if verdict.code == 6 and verdict.number == 0 and request.bytes > CAP_SUSPECT:
            endpoint.shrink(request.bytes)
            self.queue.extendleft(reversed(split(request, max(endpoint.max_bytes, CAREFUL))))
            return
        suspect, before, after = around(request, verdict.number)
        if self._settings.trust_prefix == "splunk":
            for one in before:
                self.accepted(one)
            before = []
        else:
            self._report.add("hec_possible_duplicates_total", sum(one.events for one in before))
        self.queue.extendleft(reversed([suspect, *before, *after]))

    # events that Splunk refuses

    def _refused(self, piece: Piece, verdict: Verdict) -> None:
        span = piece.encoded.span(piece.first)
        if verdict.code == 7:
            self._wrong_index(piece, span.index, verdict)
            return
        storm = self._storms.setdefault(span.route, Storm())
        if storm.refuse():
            hold = self._begin_hold("route", span.route, verdict, ROUTE_HINT)
            self._bury(piece, verdict, "parked", hold)
        else:
            self._bury(piece, verdict, "dead", None)

    def _wrong_index(self, piece: Piece, index: str, verdict: Verdict) -> None:
        settings = self._settings
        if settings.on_incorrect_index == "fallback" and index != settings.fallback_index:
            self.queue.appendleft(self._with_index(piece, index))
        elif settings.on_incorrect_index == "hold":
            hold = self._begin_hold("index", index, verdict, INDEX_HINT)
            self._bury(piece, verdict, "parked", hold)
        else:
            self._bury(piece, verdict, "dead", None)

    def _with_index(self, piece: Piece, index: str) -> Request:
        import orjson

        old, new = (b'"index":' + orjson.dumps(name) for name in (index, self._settings.fallback_index))
        head, found, rest = bytes(piece.view).partition(b',"event":{')
        changed = head.replace(old, new, 1) if index else head + b"," + new
        span = piece.encoded.span(piece.first)
        row, place = piece.encoded.locate(piece.first)
        encoded = type(piece.encoded)(
            data=changed + found + rest, spans=[replace(span, first=0, count=1, index=self._settings.fallback_index)],
            head=piece.encoded.head, firsts=[-place], places=[row], cursors=[piece.encoded.cursor(piece.first)],
        )  # fmt: skip
        encoded.ends.append(len(encoded.data))
        request = Request(span.token)
        request.add(Piece(piece.work, encoded, piece.source, 0, 1))
        return request

    def _begin_hold(self, kind: str, name: str, verdict: Verdict, hint: str) -> Hold:
        error = f"{verdict.status}/{verdict.code}: {verdict.why}"
        is_new = f"{kind}:{name}" not in self.holds.active
        hold = self.holds.begin(kind, name, time.monotonic(), error, hint)
        if is_new:
            log.error("hold", kind=kind, name=name, error=error, hint=hint)
        return hold

    def _bury(self, piece: Piece, verdict: Verdict, state: str, hold: Hold | None) -> None:
        work = piece.work
        key = hold.key if hold else ""
        if isinstance(work, LetterWork):
            work.bury(again(work.letter, verdict, state, key))
            return
        self.bury_event(work, piece, state, key, verdict)
        if state == "dead":
            log.error(
                "event refused for good: dead letter", code=verdict.code, error=verdict.why, hint="sls-siem dead ls"
            )

    def bury_event(self, work: BatchWork, piece: Piece, state: str, hold: str, verdict: Verdict) -> None:
        """One event of a batch to the dead letters."""
        pull = work.batch.pulls[piece.source]
        work.bury(
            letter_of(
                pull, open_pull(pull), piece.encoded, piece.first, status=verdict.status, code=verdict.code,
                why=verdict.why, state=state, hold=hold, now=time.time(),
            )
        )  # fmt: skip

    # acknowledgements

    def _poll_acks(self, now: float) -> None:
        for url, request in self.acks.expired(now, self._settings.ack_timeout):
            self._resend(url, request)
        for url, channel in self.acks.due(now):
            channel.polling = True
            self._submit(self._make_poll(url, channel))

    def _make_poll(self, url: str, channel: Channel) -> Callable[[], Callable[[], None]]:
        token = self.tokens.resolve(next(iter(channel.waiting.values())).request.token)
        ids = list(channel.waiting)

        def poll() -> Callable[[], None]:
            import orjson

            from worker.hec import ACK_PATH

            body = orjson.dumps({"acks": ids})
            reply = self.client.post(url, token, [body], compress=False, channel=channel.id, path=ACK_PATH)
            return lambda: self._polled(channel, reply)

        return poll

    def _polled(self, channel: Channel, reply: Reply) -> None:
        for request in self.acks.confirmed(channel, confirmed_ids(reply)):
            self.accepted(request)
        self.acks.polled(channel, time.monotonic())

    def _resend(self, url: str, request: Request) -> None:
        from worker.acks import RESENDS

        request.resends += 1
        self._report.add("hec_possible_duplicates_total", request.events)
        self.queue.appendleft(request)
        if request.resends > RESENDS:
            endpoint = next(e for e in self.endpoints if e.url == url)
            hint = "acknowledgements never arrive: sticky sessions at the load balancer?"
            self._trouble(endpoint, Verdict(Act.HOLD, 200, 0, "no acknowledgement in time", hint, "endpoint"))


def confirmed_ids(reply: Reply) -> list[int]:
    """The ids an answer says true of; anything else says nothing."""
    import orjson

    if reply.failure is not None or reply.status != 200:
        return []
    try:
        found = orjson.loads(reply.body)["acks"]
        return [int(name) for name, value in found.items() if value is True]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return []


def again(letter: DeadLetter, verdict: Verdict, state: str, hold: str) -> DeadLetter:
    """A dead letter after one try more."""
    return replace(
        letter, state=state, hold=hold, tries=letter.tries + 1, status=verdict.status, code=verdict.code,
        text=verdict.why[:500], time=time.time(),
    )  # fmt: skip
