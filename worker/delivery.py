"""Requests on their way: which goes where, and what each verdict does to the events in it.

The one place that turns verdicts into deeds. It posts nothing itself: `start` hands a request to a thread of the pool and
`finish` is called with what came back, both on the sender's main thread.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from worker.acks import RESENDS, Channel
from worker.confirm import Confirming, Submit
from worker.encode import Encoder
from worker.endpoint import LEAST_CAP, Endpoint, choose
from worker.hec import HecClient
from worker.logs import get_logger
from worker.pack import Request, around, halves, split
from worker.refusals import Refusals
from worker.report import Report
from worker.settings import HecSettings
from worker.tokens import Tokens
from worker.verdict import Act, Reply, Verdict, judge

log = get_logger()
#: A 400/6 at event 0 of a body over this many bytes may be a cap on size, not a fault (Splunk Cloud).
CAP_SUSPECT = 512 << 10
#: Tries that a request may be refused by unknown hands, while others pass, before it is looked into.
SUSPICIONS = 5
#: Requests at the head of the queue that are looked at for one that may go.
LOOK = 64
#: Seconds of trouble after which a request that nothing else waits behind is halved, to have something to compare.
LONELY = 60.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that went out, and how."""

    request: Request
    endpoint: Endpoint
    channel: Channel | None
    token: str = field(repr=False)


class Delivery:
    """Queue and endpoints of one sender."""

    def __init__(self, settings: HecSettings, report: Report, submit: Submit, encoder: Encoder) -> None:
        self._settings = settings
        self._report = report
        self._submit = submit
        """Runs the first part in the pool, and what that returns on the main thread."""
        self.client = HecClient(settings)
        self.tokens = Tokens(settings)
        most = settings.max_request_bytes
        self.endpoints = [Endpoint(url, max_bytes=most, most_bytes=most) for url in settings.urls]
        self.queue: deque[Request] = deque()
        self.refusals = Refusals(settings, report, encoder)
        self.holds = self.refusals.holds
        self._confirming = Confirming(
            settings, self.client, submit, delivered=self._confirmed, resend=self._resend, ended=self._ack_ended
        )
        self.acks = self._confirming.acks
        self.in_flight = 0
        self.passed = 0
        """Requests that were accepted."""
        self._numbers = itertools.count(1)
        self._acking: set[tuple[str, str]] = set()
        """Endpoint and token where acknowledgement is wanted."""

    # sending

    def pump(self, now: float, limit: int) -> None:
        """Start what may be started."""
        self.client.tend()
        while self.queue and self.in_flight < limit and self._window_open():
            found = self._next(now)
            if found is None:
                break
            request, endpoint = found
            sifted = None if request.gone else self.refusals.sift(request)
            if sifted is None:
                continue
            if sifted.bytes > endpoint.max_bytes and sifted.events > 1:
                self.queue.extendleft(reversed(by_size(sifted, endpoint.max_bytes)))
                continue
            self.start(sifted, endpoint, now)
        self._confirming.poll(now)

    def _window_open(self) -> bool:
        return self.acks.bytes < self._settings.max_unacked_bytes

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
        if self._wants_ack(endpoint, token) and not self.acks.channel(endpoint.url, token, now).is_open():
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

    def _wants_ack(self, endpoint: Endpoint, token: str) -> bool:
        return self._settings.ack == "required" or (endpoint.url, token) in self._acking

    def start(self, request: Request, endpoint: Endpoint, now: float) -> None:
        """Give it to the pool."""
        endpoint.begins(now)
        self.in_flight += 1
        request.number = request.number or next(self._numbers)
        if request.repeats:
            self._report.add("hec_possible_duplicates_total", request.events)
            request.repeats = False
        token = self.tokens.resolve(request.token, endpoint.url)
        channel = self.acks.channel(endpoint.url, token, now) if self._wants_ack(endpoint, token) else None
        if channel is not None:
            channel.in_flight += 1
        cookies = dict(channel.cookies) if channel is not None else None
        compress = self._settings.gzip and endpoint.gzip
        fresh = request.fresh
        sent = Sent(request, endpoint, channel, token)

        def post() -> Callable[[], None]:
            began = time.monotonic()
            reply = self.client.post(
                endpoint.url, token, [piece.view for piece in request.pieces], compress=compress,
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
        self.passed += 1
        endpoint.accepted(request.bytes)
        self.tokens.accepted(endpoint.url)
        if verdict.slow_down:
            endpoint.slow_down()
        if request.was_first_of is not None:
            url, size = request.was_first_of
            self._endpoint(url).shrink(size)
        if channel is None:
            self._works(endpoint)
            self.accepted(request)
            return
        if not endpoint.is_silent:
            self._works(endpoint)
        if verdict.ack_id is None:
            self.accepted(request)
            self._ack_ended(channel)
        elif self.acks.session_moved(channel, reply.cookies):
            self._send_again(channel, [*self.acks.close(channel), request], "its session moved to another indexer")
        else:
            again = self.acks.accepted(channel, verdict.ack_id, request, time.monotonic())
            self._send_again(channel, again, "its ids began anew")

    def accepted(self, request: Request) -> None:
        """Splunk has them."""
        request.gone = True
        for piece in request.pieces:
            piece.work.accept(piece.encoded, piece.first, piece.count)
            self.refusals.accepted(piece)

    def _answers(self, endpoint: Endpoint) -> None:
        """As Splunk does, if only to refuse an event."""
        if endpoint.is_silent:
            endpoint.probing = False
        else:
            self._works(endpoint)

    def _works(self, endpoint: Endpoint) -> None:
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

    def _on_retry(self, sent: Sent, verdict: Verdict) -> None:
        looked_into = verdict.suspect and self._suspect(sent.request, sent.endpoint, verdict)
        if not looked_into or sent.endpoint.trouble_since is not None:
            self._trouble(sent.endpoint, verdict)
        if not looked_into:
            self._again(sent.request)

    def _again(self, request: Request) -> None:
        """The same once more, in its old place; a suspect one behind the others, so that they are not held up."""
        request.tries += 1
        request.fresh = True
        place = 0
        if request.suspicions > 1:
            place = len(self.queue)
        while place < len(self.queue) and 0 < self.queue[place].number < request.number:
            place += 1
        self.queue.insert(place, request)

    def _suspect(self, request: Request, endpoint: Endpoint, verdict: Verdict) -> bool:
        """It may be these bytes. Where others pass all the while, it is halved, down to the one event, which is parked.

        With no others to tell, its halves are each other's.
        """
        if request.suspicions == 0:
            request.passed_before = self.passed
        request.suspicions += 1
        is_alone = request.events > 1 and not self.queue and endpoint.age(time.monotonic()) > LONELY
        if request.suspicions < SUSPICIONS or not (self.passed > request.passed_before or is_alone):
            return False
        request.gone = True
        if request.events == 1:
            self.refusals.hold_payload(request, verdict)
            return True
        for half in halves(request):
            half.suspicions, half.passed_before = SUSPICIONS - 2, self.passed
            self.queue.append(half)
        return True

    def _trouble(self, endpoint: Endpoint, verdict: Verdict) -> None:
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
        self._answers(endpoint)
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
        elif self._settings.ack == "off" or sent.request.tries > 2:
            hint = "the token wants acknowledgement: set hec.ack to auto, or turn useACK off in Splunk"
            self._on_retry(sent, replace(verdict, hint=hint, hold="token", act=Act.HOLD))
        else:
            self._acking.add((sent.endpoint.url, sent.token))
            sent.endpoint.probing = False
            self._again(sent.request)

    def _on_plain(self, sent: Sent, verdict: Verdict) -> None:
        if not (sent.endpoint.gzip and self._settings.gzip):
            self._on_retry(sent, replace(verdict, act=Act.HOLD, hint="not even without gzip", hold="endpoint"))
            return
        sent.endpoint.gzip = False
        self._answers(sent.endpoint)
        self._again(sent.request)

    def _on_split(self, sent: Sent, verdict: Verdict) -> None:
        request, endpoint = sent.request, sent.endpoint
        if request.events == 1 and request.bytes <= LEAST_CAP:
            hint = "something in front of Splunk takes no request at all for its size: see its limit on bodies"
            self._on_retry(sent, replace(verdict, act=Act.HOLD, hint=hint, hold="endpoint", suspect=True))
            return
        self._answers(endpoint)
        endpoint.shrink(request.bytes)
        if request.events > 1:
            self.queue.extendleft(reversed(by_size(request, min(endpoint.max_bytes, request.bytes // 2))))
        elif any(other.max_bytes >= request.bytes for other in self.endpoints):
            self._again(request)
        else:
            self._refused(request, replace(verdict, why=f"too large for Splunk: {request.bytes} bytes"))

    def _on_isolate(self, sent: Sent, verdict: Verdict) -> None:
        """Only the verdict on a single event buries it."""
        request = sent.request
        self._answers(sent.endpoint)
        if request.events == 1:
            self._refused(request, verdict)
            return
        request.gone = True
        if verdict.number is None:
            self.queue.extendleft(reversed(halves(request)))
            return
        suspect, before, after = around(request, verdict.number)
        if verdict.code == 6 and verdict.number == 0 and request.bytes > CAP_SUSPECT:
            suspect.was_first_of = sent.endpoint.url, request.bytes
        if (
            self._settings.trust_prefix == "splunk" and sent.channel is None
        ):  # with acknowledgement none would come for it
            for one in before:
                self.accepted(one)
            before = []
        elif before:
            self._report.add("hec_possible_duplicates_total", sum(one.events for one in before))
        self.queue.extendleft(reversed([suspect, *before, *after]))

    def _refused(self, request: Request, verdict: Verdict) -> None:
        request.gone = True
        self.queue.extendleft(self.refusals.refused(next(request.singles()), verdict))

    # acknowledgements

    def _confirmed(self, channel: Channel, request: Request) -> None:
        endpoint = self._endpoint(channel.url)
        if endpoint.is_silent:
            self._works(endpoint)
        if not request.gone:
            self.accepted(request)

    def _resend(self, channel: Channel, request: Request) -> None:
        """None came in time. After two more it is the endpoint that is to blame."""
        request.resends += 1
        request.repeats = True
        endpoint = self._endpoint(channel.url)
        if request.resends > RESENDS or endpoint.is_silent:
            endpoint.is_silent = True
            hint = "acknowledgements never arrive: sticky sessions at the load balancer?"
            self._trouble(endpoint, Verdict(Act.HOLD, 200, 0, "no acknowledgement in time", hint, "endpoint"))
        self._again(request)

    def _send_again(self, channel: Channel, requests: Iterable[Request], why: str) -> None:
        again = list(requests)
        if again:
            log.warning("sent again on a new ack channel", endpoint=channel.url, requests=len(again), why=why)
        for request in again:
            self._resend(channel, request)

    def _ack_ended(self, channel: Channel) -> None:
        """The token acknowledges no more. What was not confirmed is sent again; with `required` it is a hold."""
        if self._settings.ack != "required":
            self._acking.discard((channel.url, channel.token))
        self._send_again(channel, self.acks.close(channel), "the token's acknowledgement was turned off")

    def _endpoint(self, url: str) -> Endpoint:
        return next(e for e in self.endpoints if e.url == url)


def by_size(request: Request, limit: int) -> list[Request]:
    """Requests of at most `limit` bytes instead of it."""
    request.gone = True
    return split(request, limit)
