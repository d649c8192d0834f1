"""Indexer acknowledgement: what Splunk has accepted and not yet confirmed. Pure over `now` (monotonic seconds).

An ackId is per channel and indexer; true is said once and forgotten; dropped, pending and asked before look alike. So a
request counts as delivered only by a true that we saw, on a channel of which no id could be another indexer's, and is
sent again on a new channel when none came in time. A true that comes later still cancels that.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from worker.pack import Request

#: Sent again for a missing acknowledgement at most so often; then the endpoint is held.
RESENDS = 2
#: Seconds between polls, growing with the age of the oldest.
FIRST_POLL, SLOWEST_POLL = 1.0, 10.0
#: Seconds, at least, for which an ackId is asked for after its request was sent again.
LATE = 60.0
#: Seconds after which a new channel is begun; Splunk forgets the ids of one that was idle for 600.
OLDEST_CHANNEL = 540.0
#: A cookie that changed so often, with fewer than so many answers between that left it as it was, is no mark of a
#: session: some balancers write theirs anew in each answer.
FICKLE, STEADY = 3, 20
_ALWAYS_NEW = ("AWSALB",)


@dataclass(slots=True)
class Waiting:
    """One request that was accepted."""

    request: Request
    since: float


@dataclass(slots=True)
class Channel:
    """One GUID at one endpoint for one token, what waits on it, and the session that leads to its indexer."""

    url: str
    token: str = field(repr=False)
    born: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    waiting: dict[int, Waiting] = field(default_factory=dict)
    late: dict[int, Waiting] = field(default_factory=dict)
    """Sent again since; still asked for, so that a late true cancels what was not sent yet."""
    seen: set[int] = field(default_factory=set)
    cookies: dict[str, str] = field(default_factory=dict, repr=False)
    in_flight: int = 0
    is_known: bool = False
    """A first answer has told which session it is: before it, one request at a time."""
    is_closed: bool = False
    """The session moved or the ids began anew: none of its ids says anything any more."""
    next_poll: float = 0.0
    polling: bool = False

    def is_open(self) -> bool:
        """Whether a request may be sent on it now."""
        return self.is_known or self.in_flight == 0

    @property
    def asked(self) -> list[int]:
        """The ids to poll for."""
        return [*self.waiting, *self.late]


@dataclass(slots=True)
class Confirmed:
    """What a poll's answer told."""

    requests: list[Request] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)
    """Ids that were never ours."""


class Acks:
    """All channels; old ones are polled until what they hold is settled."""

    def __init__(self) -> None:
        self.current: dict[tuple[str, str], Channel] = {}
        self.old: list[Channel] = []
        self.bytes = 0
        """Of the requests that wait."""
        self._moves: Counter[tuple[str, str]] = Counter()
        self._steady: Counter[str] = Counter()

    def channel(self, url: str, token: str, now: float) -> Channel:
        """The one to send on."""
        key = url, token
        known = self.current.get(key)
        if known is not None and now - known.born > OLDEST_CHANNEL:
            self.renew(known)
            known = None
        if known is None:
            known = self.current[key] = Channel(url, token, now)
        return known

    def renew(self, channel: Channel) -> None:
        """A new one for what comes; what waits on this is still asked for."""
        if self.current.get((channel.url, channel.token)) is channel:
            del self.current[channel.url, channel.token]
            self.old.append(channel)

    def close(self, channel: Channel) -> list[Request]:
        """Its ids say nothing any more: what waited, to be sent again."""
        self.renew(channel)
        channel.is_closed = True
        lost = [one.request for one in channel.waiting.values()]
        self.bytes -= sum(request.bytes for request in lost)
        channel.waiting.clear()
        channel.late.clear()
        return lost

    def accepted(self, channel: Channel, ack_id: int, request: Request, now: float) -> list[Request]:
        """Wait for it. What must be sent again instead: an id that was out before tells that the server, or the one
        behind the balancer, is another, whose ids cannot be told from those that wait."""
        if channel.is_closed:
            return [request]
        if ack_id in channel.seen:
            return [*self.close(channel), request]
        channel.seen.add(ack_id)
        channel.waiting[ack_id] = Waiting(request, now)
        channel.next_poll = channel.next_poll or now + FIRST_POLL
        self.bytes += request.bytes
        return []

    def session_moved(self, channel: Channel, cookies: Mapping[str, str]) -> bool:
        """Whether a cookie that we hold has another value now. Another cookie, or the same again, is no move."""
        moved = [name for name, value in cookies.items() if channel.cookies.get(name, value) != value]
        channel.cookies.update(cookies)
        channel.is_known = True
        told = [name for name in moved if not name.startswith(_ALWAYS_NEW) and self._moves[channel.url, name] < FICKLE]
        self._moves.update((channel.url, name) for name in told)
        self._steady[channel.url] = 0 if moved else self._steady[channel.url] + 1
        if self._steady[channel.url] == STEADY:
            for key in [key for key in self._moves if key[0] == channel.url]:
                del self._moves[key]
        return bool(told)

    def confirmed(self, channel: Channel, ids: list[int]) -> Confirmed:
        """These are delivered; ids that we never had are told."""
        found = Confirmed()
        for one in ids:
            if one in channel.waiting:
                request = channel.waiting.pop(one).request
                self.bytes -= request.bytes
                found.requests.append(request)
            elif one in channel.late:
                found.requests.append(channel.late.pop(one).request)
            elif one not in channel.seen:
                found.foreign.append(one)
        return found

    def due(self, now: float) -> list[Channel]:
        """Channels to poll now."""
        return [c for c in self._all() if c.asked and not c.polling and now >= c.next_poll]

    def polled(self, channel: Channel, now: float) -> None:
        """When to ask again."""
        channel.polling = False
        oldest = min((w.since for w in channel.waiting.values()), default=now)
        channel.next_poll = now + min(max(FIRST_POLL, (now - oldest) / 4), SLOWEST_POLL)

    def expired(self, now: float, timeout: float) -> list[tuple[Channel, Request]]:
        """Too long without a true: to be sent again, on a new channel."""
        found = []
        for channel in list(self._all()):
            late = [one for one, waiting in channel.waiting.items() if now - waiting.since > timeout]
            for one in late:
                waiting = channel.late[one] = channel.waiting.pop(one)
                self.bytes -= waiting.request.bytes
                found.append((channel, waiting.request))
            if late:
                self.renew(channel)
            for one in [
                i for i, w in channel.late.items() if now - w.since > timeout + max(timeout, LATE) or w.request.gone
            ]:
                del channel.late[one]
        self.old = [c for c in self.old if c.waiting or c.late or c.in_flight]
        return found

    @property
    def next_poll(self) -> float:
        """When the first channel is due; infinite where nothing waits."""
        return min((c.next_poll for c in self._all() if c.asked and not c.polling), default=math.inf)

    @property
    def count(self) -> int:
        """Requests that wait."""
        return sum(len(channel.waiting) for channel in self._all())

    def _all(self) -> Iterator[Channel]:
        yield from self.current.values()
        yield from self.old
