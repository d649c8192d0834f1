"""Acknowledgements asked for and come: a request counts as delivered by a true that we saw, and by nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from worker.acks import RESENDS, Acks, Channel
from worker.breaker import Breakers
from worker.endpoint import Endpoint
from worker.hec import ACK_PATH, HecClient
from worker.logs import get_logger
from worker.pack import Request
from worker.settings import HecSettings
from worker.verdict import Act, Reply, Verdict

log = get_logger()
Submit = Callable[[Callable[[], Callable[[], None]]], None]
NEVER = Verdict(
    Act.HOLD, 200, 0, "no acknowledgement in time", "acknowledgements never arrive: sticky sessions at the load balancer?",
    "endpoint",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fate:
    """What is done with a request in the end."""

    delivered: Callable[[Request], None]
    again: Callable[[Request], None]


class Confirming:
    """Polls the channels of all endpoints."""

    def __init__(
        self, settings: HecSettings, client: HecClient, submit: Submit, breakers: Breakers, fate: Fate
    ) -> None:  # fmt: skip
        self._settings = settings
        self._client = client
        self._submit = submit
        self._breakers = breakers
        self._fate = fate
        self._wanted: set[tuple[str, str]] = set()
        """URL and token where Splunk wants a channel."""
        self._said: set[str] = set()
        self.acks = Acks()

    # which requests

    def channel(self, endpoint: Endpoint, token: str, now: float) -> Channel | None:
        """To send on; None where no acknowledgement is wanted."""
        if self._settings.ack != "required" and (endpoint.url, token) not in self._wanted:
            return None
        return self.acks.channel(endpoint.url, token, now)

    def want(self, endpoint: Endpoint, token: str) -> None:
        """Splunk asked for a channel."""
        self._wanted.add((endpoint.url, token))

    def has_room(self) -> bool:
        """In the window of what is not acknowledged."""
        return self.acks.bytes < self._settings.max_unacked_bytes

    def accepted(self, channel: Channel, request: Request, verdict: Verdict, reply: Reply) -> None:
        """Splunk has taken it: wait for the acknowledgement, unless the answer tells that none can come."""
        if verdict.ack_id is None:
            self._fate.delivered(request)
            self._end(channel)
        elif self.acks.session_moved(channel, reply.cookies):
            self._send_again(channel, [*self.acks.close(channel), request], "its session moved to another indexer")
        else:
            again = self.acks.accepted(channel, verdict.ack_id, request, time.monotonic())
            self._send_again(channel, again, "its ids began anew")

    def _resend(self, channel: Channel, request: Request) -> None:
        """None came in time. After two more it is the endpoint that is to blame."""
        if request.gone:  # a late one came for an earlier try
            return
        request.resends += 1
        request.repeats = True
        endpoint = self._breakers.of(channel.url)
        if request.resends > RESENDS or endpoint.is_silent:
            endpoint.is_silent = True
            self._breakers.fails(endpoint, NEVER)
        self._fate.again(request)

    def _send_again(self, channel: Channel, requests: Iterable[Request], why: str) -> None:
        again = list(requests)
        if again:
            log.warning("sent again on a new ack channel", endpoint=channel.url, requests=len(again), why=why)
        for request in again:
            self._resend(channel, request)

    def _end(self, channel: Channel) -> None:
        """The token acknowledges no more. What was not confirmed is sent again; with `required` it is a hold."""
        if self._settings.ack != "required":
            self._wanted.discard((channel.url, channel.token))
        self._send_again(channel, self.acks.close(channel), "the token's acknowledgement was turned off")

    # polls

    def poll(self, now: float) -> None:
        """What waited too long is sent again; what is due is asked for."""
        for channel, request in self.acks.expired(now, self._settings.ack_timeout):
            self._resend(channel, request)
        for channel in self.acks.due(now):
            channel.polling = True
            self._submit(self._make_poll(channel))

    def _make_poll(self, channel: Channel) -> Callable[[], Callable[[], None]]:
        body = json.dumps({"acks": channel.asked}).encode()  # an id may have more than orjson's 64 bits
        cookies = dict(channel.cookies)

        def ask() -> Callable[[], None]:
            reply = self._client.post(
                channel.url, channel.token, [body], compress=False, channel=channel.id, cookies=cookies, path=ACK_PATH
            )
            return lambda: self._polled(channel, reply)

        return ask

    def _polled(self, channel: Channel, reply: Reply) -> None:
        found = self.acks.confirmed(channel, confirmed_ids(reply)) if not channel.is_closed else None
        self.acks.polled(channel, time.monotonic())
        if found is not None:
            for request in found.requests:
                self._confirmed(channel, request)
            if found.foreign and channel.url not in self._said:
                self._said.add(channel.url)
                log.error(
                    "an acknowledgement that was never asked for", endpoint=channel.url, ids=found.foreign[:10],
                    hint="indexers share this address without sticky sessions: set them up at the load balancer",
                )  # fmt: skip
        if has_ended(reply):
            self._end(channel)

    def _confirmed(self, channel: Channel, request: Request) -> None:
        endpoint = self._breakers.of(channel.url)
        if endpoint.is_silent:
            self._breakers.works(endpoint)
        if not request.gone:
            self._fate.delivered(request)


def confirmed_ids(reply: Reply) -> list[int]:
    """The ids an answer says true of; anything else says nothing."""
    if reply.failure is not None or reply.status != 200:
        return []
    try:
        found = orjson.loads(reply.body)["acks"]
        return [int(name) for name, value in found.items() if value is True]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return []


def has_ended(reply: Reply) -> bool:
    """Whether the token acknowledges no more (400/14)."""
    if reply.failure is not None or reply.status != 400:
        return False
    try:
        return bool(orjson.loads(reply.body)["code"] == 14)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
