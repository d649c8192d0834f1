"""Bytes in flight: pulled and not yet put. A bound on them is the first guard of memory, because it needs no sensor."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Room:
    """At most `limit` bytes inside, or one pull, whatever its size."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        """Bytes in flight now, with what is expected of calls not yet answered."""
        self.inside = 0
        self.growing: list[Place] = []
        """Those that know their size and wait for it, in their order. They hold no body yet."""
        self.waiting: list[threading.Condition] = []
        """Those that would ask, in their order: only the first is woken."""
        self.lock = threading.Lock()
        self.change = threading.Condition(self.lock)
        """For those that grow."""

    def enter(self, expect: Callable[[], int], give_up: Callable[[], bool]) -> Place | None:
        """Wait for room for a call; None when the caller gave up. One at a time always may. Who waits with an answer already
        goes first, the others one after the other: a large one would never find room among many small ones.

        `expect` is asked again at each look: before the first pulls it is far too much, and they would come one by one.
        """
        with self.lock:
            turn = threading.Condition(self.lock)
            self.waiting.append(turn)
            try:
                expected = expect()
                while self.waiting[0] is not turn or not self._may_enter(expected):
                    if give_up():
                        return None
                    turn.wait(0.5)
                    expected = expect()
                self.inside += 1
                self.used += expected
                return Place(self, expected)
            finally:
                self.waiting.remove(turn)
                self.changed()

    def _may_enter(self, expected: int) -> bool:
        return not self.inside or (not self.growing and self.used + expected <= self.limit)

    def changed(self) -> None:
        """Wake who may go on now. Under the lock."""
        self.change.notify_all()
        if self.waiting:
            self.waiting[0].notify()


class Place:
    """What one pull holds of the room. Threads may hand it on; only one of them uses it."""

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._size = room, size

    def grow(self, size: int, give_up: Callable[[], bool]) -> bool:
        """The answer's head is here and says its size: wait until it fits, before its body is read. False: gave up.

        Who waits here holds nothing but what was expected of it. When nobody inside does anything else, the first goes
        on all the same, or none ever would.
        """
        room = self._room
        with room.lock:
            room.growing.append(self)
            try:
                while not self._fits(size):
                    if give_up():
                        return False
                    room.change.wait(0.5)
                self._set(size)
                return True
            finally:
                room.growing.remove(self)
                room.changed()

    def _fits(self, size: int) -> bool:
        room = self._room
        alone = room.growing[0] is self and len(room.growing) == room.inside
        return alone or size <= self._size or room.used + size - self._size <= room.limit

    def correct(self, size: int) -> None:
        """So much it was."""
        with self._room.lock:
            self._set(size)
            self._room.changed()

    def leave(self) -> None:
        """Put, or thrown away."""
        with self._room.lock:
            self._room.inside -= 1
            self._set(0)
            self._room.changed()

    def _set(self, size: int) -> None:
        self._room.used += size - self._size
        self._size = size
