"""Indexer acknowledgement: what Splunk has accepted and not yet confirmed. Pure over `now` (monotonic seconds).

An ackId is per channel and indexer; true is said once and forgotten; dropped, pending and asked before look alike. So a
request counts as delivered only by a true that we saw, and is sent again on a new channel when none came in time.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from worker.pack import Request

#: Sent again for a missing acknowledgement at most so often; then the endpoint is held.
RESENDS = 2
#: Seconds between polls, growing with the age of the oldest.
FIRST_POLL, SLOWEST_POLL = 1.0, 10.0


@dataclass(slots=True)
class Waiting:
    """One request that was accepted."""

    request: Request
    since: float


@dataclass(slots=True)
class Channel:
    """One endpoint's channel and what waits on it."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    waiting: dict[int, Waiting] = field(default_factory=dict)
    next_poll: float = 0.0
    polling: bool = False


class Acks:
    """All endpoints' channels; old ones are polled until what they hold is settled."""

    def __init__(self) -> None:
        self.current: dict[str, Channel] = {}
        self.old: dict[str, list[Channel]] = {}
        self.bytes = 0

    def channel(self, url: str) -> Channel:
        """The one to send on."""
        return self.current.setdefault(url, Channel())

    def renew(self, url: str) -> None:
        """A new channel; what waits on the old one is still asked for."""
        channel = self.current.pop(url, None)
        if channel is not None and channel.waiting:
            self.old.setdefault(url, []).append(channel)

    def accepted(self, channel: Channel, ack_id: int, request: Request, now: float) -> list[Request]:
        """Wait for it. An id that is already out means that the server began anew: what had it is sent again."""
        again = []
        if ack_id in channel.waiting:
            again = [waiting.request for waiting in channel.waiting.values()]
            self.bytes -= sum(r.bytes for r in again)
            channel.waiting.clear()
        channel.waiting[ack_id] = Waiting(request, now)
        channel.next_poll = channel.next_poll or now + FIRST_POLL
        self.bytes += request.bytes
        return again

    def confirmed(self, channel: Channel, ids: list[int]) -> list[Request]:
        """These are delivered; ids that we never had are ignored."""
        found = [channel.waiting.pop(i).request for i in ids if i in channel.waiting]
        self.bytes -= sum(r.bytes for r in found)
        return found

    def due(self, now: float) -> list[tuple[str, Channel]]:
        """Channels to poll now."""
        pairs = [*self.current.items(), *((url, c) for url, channels in self.old.items() for c in channels)]
        return [(url, c) for url, c in pairs if c.waiting and not c.polling and now >= c.next_poll]

    def polled(self, channel: Channel, now: float) -> None:
        """When to ask again."""
        channel.polling = False
        oldest = min((w.since for w in channel.waiting.values()), default=now)
        channel.next_poll = now + min(max(FIRST_POLL, (now - oldest) / 4), SLOWEST_POLL)

    def expired(self, now: float, timeout: float) -> list[tuple[str, Request]]:
        """Too long without a true: to be sent again, on a new channel."""
        found = []
        for url in {*self.current, *self.old}:
            for channel in [*self.old.get(url, []), *([self.current[url]] if url in self.current else [])]:
                late = [i for i, w in channel.waiting.items() if now - w.since > timeout]
                for one in late:
                    request = channel.waiting.pop(one).request
                    self.bytes -= request.bytes
                    found.append((url, request))
                if late and channel is self.current.get(url):
                    self.renew(url)
            self.old[url] = [c for c in self.old.get(url, []) if c.waiting]
        return found

    @property
    def count(self) -> int:
        """Requests that wait."""
        every = [*self.current.values(), *(c for channels in self.old.values() for c in channels)]
        return sum(len(c.waiting) for c in every)
