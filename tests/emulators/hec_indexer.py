"""One indexer behind the address: its channels and ackIds, which are its own, and what it loses when it crashes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

NEVER = float("inf")


@dataclass(slots=True)
class Pending:
    """One ackId: when it turns true, and what it stands for."""

    ready: float
    ids: tuple[str, ...]


@dataclass(slots=True)
class Channel:
    """What an indexer knows of a GUID."""

    used: float
    next_ack: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)


@dataclass(slots=True)
class Indexer:
    """Not thread-safe: the emulator's lock is held."""

    channels: dict[str, Channel] = field(default_factory=dict)

    def accept(self, channel: str, delay: float, ids: Iterable[str], max_pending: int) -> int:
        """The ackId of a request; negative delay: it never turns true. Over the maximum the oldest is forgotten."""
        known = self.channels.setdefault(channel, Channel(0.0))
        known.used = time.monotonic()
        number = known.next_ack
        known.next_ack += 1
        known.pending[number] = Pending(NEVER if delay < 0 else known.used + delay, tuple(ids))
        while len(known.pending) > max_pending:
            del known.pending[next(iter(known.pending))]
        return number

    def ask(self, channel: str, numbers: Iterable[int]) -> dict[str, bool]:
        """True once, and then forgotten; unknown, foreign and pending are false alike."""
        known = self.channels.setdefault(channel, Channel(0.0))
        known.used = time.monotonic()
        found = {}
        for number in numbers:
            one = known.pending.get(number)
            found[str(number)] = ready = one is not None and one.ready <= known.used
            if ready:
                del known.pending[number]
        return found

    def clean(self, max_idle: float) -> None:
        """Forget channels that were idle for too long."""
        now = time.monotonic()
        for name in [name for name, one in self.channels.items() if now - one.used > max_idle]:
            del self.channels[name]

    def crash(self) -> list[str]:
        """All that was not acknowledged yet is gone: those ids; and every channel begins at 0 again."""
        now = time.monotonic()
        lost = [i for c in self.channels.values() for p in c.pending.values() if p.ready > now for i in p.ids]
        self.channels.clear()
        return lost

    def settle(self) -> None:
        """What was pending for ever turns true."""
        for channel in self.channels.values():
            for one in channel.pending.values():
                one.ready = 0.0
