"""Acknowledgements asked for and come: a request counts as delivered by a true that we saw, and by nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from worker.acks import Acks, Channel
from worker.hec import ACK_PATH, HecClient
from worker.logs import get_logger
from worker.pack import Request
from worker.settings import HecSettings
from worker.verdict import Reply

log = get_logger()
Submit = Callable[[Callable[[], Callable[[], None]]], None]


class Confirming:
    """Polls the channels of all endpoints."""

    def __init__(
        self, settings: HecSettings, client: HecClient, submit: Submit, *, delivered: Callable[[Channel, Request], None],
        resend: Callable[[Channel, Request], None], ended: Callable[[Channel], None],
    ) -> None:  # fmt: skip
        self._timeout = settings.ack_timeout
        self._client = client
        self._submit = submit
        self._delivered, self._resend, self._ended = delivered, resend, ended
        self._said: set[str] = set()
        self.acks = Acks()

    def poll(self, now: float) -> None:
        """What waited too long is sent again; what is due is asked for."""
        for channel, request in self.acks.expired(now, self._timeout):
            self._resend(channel, request)
        for channel in self.acks.due(now):
            channel.polling = True
            self._submit(self._make_poll(channel))

    def _make_poll(self, channel: Channel) -> Callable[[], Callable[[], None]]:
        body = orjson.dumps({"acks": channel.asked})
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
                self._delivered(channel, request)
            if found.foreign and channel.url not in self._said:
                self._said.add(channel.url)
                log.error(
                    "an acknowledgement that was never asked for", endpoint=channel.url, ids=found.foreign[:10],
                    hint="indexers share this address without sticky sessions: set them up at the load balancer",
                )  # fmt: skip
        if has_ended(reply):
            self._ended(channel)


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
