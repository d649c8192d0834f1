"""Requests on their way: which goes where, and what each verdict does to the events in it.

The one place that turns verdicts into deeds. It posts nothing itself: `start` hands a request to a thread of the pool and
`finish` is called with what came back, both on the sender's main thread.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from worker.acks import Channel
from worker.breaker import Breakers
from worker.confirm import Confirming, Fate, Submit
from worker.endpoint import LEAST_CAP, Endpoint, choose
from worker.hec import HecClient
from worker.isolate import Isolation
from worker.logs import get_logger
from worker.pack import Request
from worker.refusals import Refusals
from worker.report import Report
from worker.resting import Resting
from worker.settings import HecSettings
from worker.tokens import Tokens
from worker.verdict import Act, Reply, Verdict, judge

log = get_logger()
#: Requests at the head of the queue that are looked at for one that may go.
LOOK = 64


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that went out, and how."""

    request: Request
    endpoint: Endpoint
    channel: Channel | None
    token: str = field(repr=False)
    compressed: bool


class Delivery:
    """Queue and endpoints of one sender."""

    def __init__(
        self, settings: HecSettings, report: Report, submit: Submit, refusals: Refusals, resting: Resting
    ) -> None:
        self._settings = settings
        self._report = report
        self._submit = submit
        """Runs the first part in the pool, and what that returns on the main thread."""
        self.resting = resting
        self.client = HecClient(settings)
        self.tokens = Tokens(settings)
        self._breakers = Breakers(settings, report)
        self.endpoints = self._breakers.endpoints
        self.queue: deque[Request] = deque()
        self.refusals = refusals
        self.holds = refusals.holds
        self._isolation = Isolation(self.queue, self.refusals, report, self.accepted)
        self._confirming = Confirming(
            settings, self.client, submit, self._breakers, Fate(delivered=self.accepted, again=self._again)
        )
        self.acks = self._confirming.acks
        self.in_flight = 0
        self._numbers = itertools.count(1)

    # sending

    def pump(self, now: float, limit: int) -> None:
        """Start what may be started."""
        self.client.tend()
        while self.queue and self.in_flight < limit and self._confirming.has_room():
            found = self._next(now)
            if found is None:
                break
            request, endpoint = found
            awake = None if request.gone else self.resting.wake(request)
            sifted = self.refusals.sift(awake) if awake is not None else None
            if sifted is None:
                continue
            if sifted.bytes > endpoint.max_bytes and sifted.events > 1:
                self._isolation.cut(sifted, endpoint.max_bytes)
                continue
            self.start(sifted, endpoint, now)
        self._confirming.poll(now)

    def _next(self, now: float) -> tuple[Request, Endpoint] | None:
        """The first that may go somewhere now, and where. One that waits for an endpoint of its own stops nobody behind it."""
        if not any(one.is_open(now) for one in self.endpoints):
            return None
        for place, request in enumerate(itertools.islice(self.queue, LOOK)):
            endpoint = choose([e for e in self.endpoints if self._may_take(e, request, now)], now)
            if endpoint is not None:
                return self._take(endpoint, place, now), endpoint
        return None

    def _may_take(self, endpoint: Endpoint, request: Request, now: float) -> bool:
        token = self.tokens.resolve(request.token, endpoint.url)
        channel = self._confirming.channel(endpoint, token, now)
        if channel is not None and not channel.is_open():
            return False
        if endpoint.url in request.refused_at and not all(e.url in request.refused_at for e in self.endpoints):
            return False
        alone_fits = endpoint.max_bytes >= request.bytes or all(e.max_bytes < request.bytes for e in self.endpoints)
        return request.events > 1 or alone_fits

    def _take(self, endpoint: Endpoint, place: int, now: float) -> Request:
        """The one in that place; to probe an endpoint in trouble, one under no suspicion; a held one, the smallest."""
        if endpoint.trouble_since is not None:
            _, place = min(
                (self._fitness(endpoint, request, at), at)
                for at, request in enumerate(self.queue)
                if at == place or self._may_take(endpoint, request, now)
            )
        request = self.queue[place]
        del self.queue[place]
        return request

    def _fitness(self, endpoint: Endpoint, request: Request, place: int) -> tuple[bool, int, int]:
        """As a probe, the least is the best. Only the default token tells whether that is still refused."""
        says_nothing = endpoint.refuses_token and bool(request.token)
        return says_nothing, request.suspicions, request.bytes if endpoint.is_held else place

    def start(self, request: Request, endpoint: Endpoint, now: float) -> None:
        """Give it to the pool."""
        endpoint.begins(now)
        self.in_flight += 1
        request.number = request.number or next(self._numbers)
        if request.repeats:
            self._report.add("hec_possible_duplicates_total", request.events)
            request.repeats = False
        token = self.tokens.resolve(request.token, endpoint.url)
        channel = self._confirming.channel(endpoint, token, now)
        if channel is not None:
            channel.in_flight += 1
        cookies = dict(channel.cookies) if channel is not None else None
        compress = self._settings.gzip and endpoint.gzip
        fresh = request.fresh
        views = [piece.view for piece in request.pieces]  # here: a late acknowledgement may let the bytes go meanwhile
        sent = Sent(request, endpoint, channel, token, compress)

        def post() -> Callable[[], None]:
            began = time.monotonic()
            reply = self.client.post(
                endpoint.url, token, views, compress=compress,
                channel=channel.id if channel else "", cookies=cookies, fresh=fresh,
            )  # fmt: skip
            took = time.monotonic() - began
            return lambda: self.finish(sent, reply, took)

        self._submit(post)

    def finish(self, sent: Sent, reply: Reply, took: float) -> None:
        """The verdict, and what it does."""
        request, endpoint, channel = sent.request, sent.endpoint, sent.channel
        endpoint.in_flight -= 1
        self.in_flight -= 1
        if channel is not None:
            channel.in_flight -= 1
        required = channel is not None and self._settings.ack == "required"
        verdict = judge(reply, events=request.events, wants_ack=required, now=time.time())
        status = str(verdict.status) if reply.failure is None else reply.failure.value
        self._report.add("hec_requests_total", endpoint=endpoint.url, status=status, code=str(verdict.code))
        self._report.observe("hec_request_seconds", took)
        if request.gone:  # a late acknowledgement came meanwhile
            endpoint.probing = False
            return
        if verdict.ambiguous:
            self._report.add("hec_possible_duplicates_total", request.events)
        if verdict.act is Act.ACCEPT:
            self._on_accept(sent, verdict, reply)
        else:
            getattr(self, f"_on_{verdict.act.value}")(sent, verdict)

    # verdicts

    def _on_accept(self, sent: Sent, verdict: Verdict, reply: Reply) -> None:
        request, endpoint, channel = sent.request, sent.endpoint, sent.channel
        self._isolation.passed += 1
        self.refusals.accepted(request)
        endpoint.accepted(request.bytes)
        if not request.token:  # a route's own says nothing of the default one
            self.tokens.accepted(endpoint.url)
        if verdict.slow_down:
            endpoint.slow_down()
        if request.was_first_of is not None:
            url, size = request.was_first_of
            self._breakers.of(url).shrink(size)
        if channel is None:
            self._breakers.works(endpoint)
            self.accepted(request)
            return
        if not endpoint.is_silent:
            self._breakers.works(endpoint)
        self._confirming.accepted(channel, request, verdict, reply)
        self.resting.rest(request)

    def accepted(self, request: Request) -> None:
        """Splunk has them."""
        self.resting.ends(request)
        request.gone = True
        for piece in request.pieces:
            piece.work.accept(piece.encoded, piece.first, piece.count)

    def _on_retry(self, sent: Sent, verdict: Verdict) -> None:
        looked_into = verdict.suspect and self._isolation.suspect(sent.request, sent.endpoint, verdict)
        if not looked_into or sent.endpoint.trouble_since is not None:
            self._breakers.fails(sent.endpoint, verdict)
        if not looked_into:
            self._again(sent.request)

    def _again(self, request: Request) -> None:
        """The same once more, in its old place; a suspect one behind the others, so that they are not held up."""
        request.tries += 1
        request.fresh = True
        if request.resends:  # whole windows of them may queue up in an outage
            self.resting.rest(request)
        place = 0
        if request.suspicions > 1:
            place = len(self.queue)
        while place < len(self.queue) and 0 < self.queue[place].number < request.number:
            place += 1
        self.queue.insert(place, request)

    def _on_hold(self, sent: Sent, verdict: Verdict) -> None:
        if verdict.hold == "token":
            self._on_token(sent, verdict)
        else:
            self._on_retry(sent, verdict)

    def _on_token(self, sent: Sent, verdict: Verdict) -> None:
        """Another token of the file first, then the other endpoints, which may know it already; then wait."""
        request, endpoint = sent.request, sent.endpoint
        if not request.token:
            if self.tokens.try_next(endpoint.url, sent.token):
                endpoint.probing = False
                self._again(request)
            else:
                self._on_retry(sent, verdict)
            return
        self._breakers.answers(endpoint)
        request.refused_at |= {endpoint.url}
        if all(e.url in request.refused_at or e.trouble_since is not None for e in self.endpoints):
            request.gone = True
            self.refusals.hold_token(request, verdict)
        else:
            self._again(request)

    def _on_again(self, sent: Sent, _verdict: Verdict) -> None:
        sent.endpoint.probing = False
        self._again(sent.request)

    def _on_channel(self, sent: Sent, verdict: Verdict) -> None:
        if sent.channel is not None:
            self.acks.renew(sent.channel)
        if verdict.no_channels:
            self._on_retry(sent, verdict)
        elif self._settings.ack == "off" or (sent.channel is not None and sent.request.tries > 2):
            hint = "the token wants acknowledgement: set hec.ack to auto, or turn useACK off in Splunk"
            self._on_retry(sent, replace(verdict, hint=hint, hold="token", act=Act.HOLD))
        else:
            self._confirming.want(sent.endpoint, sent.token)
            sent.endpoint.probing = False
            self._again(sent.request)

    def _on_plain(self, sent: Sent, verdict: Verdict) -> None:
        if not sent.compressed:
            self._on_retry(sent, replace(verdict, act=Act.HOLD, hint="not even without gzip", hold="endpoint"))
            return
        sent.endpoint.gzip = False
        self._breakers.answers(sent.endpoint)
        self._again(sent.request)

    def _on_split(self, sent: Sent, verdict: Verdict) -> None:
        request, endpoint = sent.request, sent.endpoint
        if request.events == 1 and request.bytes <= LEAST_CAP:
            hint = "something in front of Splunk takes no request at all for its size: see its limit on bodies"
            self._on_retry(sent, replace(verdict, act=Act.HOLD, hint=hint, hold="endpoint", suspect=True))
            return
        self._breakers.answers(endpoint)
        endpoint.shrink(request.bytes)
        if request.events == 1 and any(other.max_bytes >= request.bytes for other in self.endpoints):
            self._again(request)
        else:
            self._isolation.too_large(request, endpoint, verdict)

    def _on_isolate(self, sent: Sent, verdict: Verdict) -> None:
        """With acknowledgement, none would come for what stands in front."""
        self._breakers.answers(sent.endpoint)
        has_prefix = self._settings.trust_prefix == "splunk" and sent.channel is None
        self._isolation.isolate(sent.request, sent.endpoint, verdict, has_prefix=has_prefix)
