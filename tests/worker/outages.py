"""What is done to a sender under load: outages of every class, rolling restarts, a refused route and kill -9. The tests do
it in seconds, `scripts/soak sender` in minutes; both end with the same proof.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.emulators.dns import DnsEmulator
from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.emulators.hec_tls import HecAuthority
from tests.waiting import poll
from tests.worker.sending import Sending
from worker.backoff import next_wait
from worker.settings import RouteSettings

NAME = "splunk.test"
#: Where it may be found; and a name server of this process's own.
ADDRESSES = "127.0.0.1", "127.0.0.2"
NAME_SERVER = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
#: What comes in while these last is taken, though its sender is not told so.
TAKEN = {"hanging", "closed after it was taken", "504 after it was taken"}


class Load:
    """Puts batches at a steady pace, on a thread of its own, while the block runs."""

    def __init__(self, house: Sending, per_second: float = 20, logs: int = 20, topics: Sequence[str] = ("t",)) -> None:
        self.house, self.topics, self.logs = house, topics, logs
        self._pause = 1 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.by_topic: dict[str, list[str]] = {topic: [] for topic in topics}

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            topic = self.topics[number % len(self.topics)]
            self.by_topic[topic] += self.house.put(topic, logs=self.logs)
            number += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def begun(self) -> int:
        """The number of events put so far; those that follow are of puts that had not begun when this was called."""
        before = self.house.put_count
        poll(lambda: self.house.put_count > before, "it goes on")
        return self.house.put_count

    def during(self, seconds: float, look: Callable[[], object] | None = None) -> None:
        """Let it run for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if look is not None:
                look()
            self._stop.wait(0.05)


def total(hecs: Sequence[HecEmulator]) -> Counter[str]:
    """id → how often it is stored."""
    return sum((hec.stored for hec in hecs), Counter())


def prove(house: Sending, hecs: Sequence[HecEmulator]) -> str:
    """Lost none; invented none; twice only what its sender was not told to be safe; all of that was counted; the books."""
    found = total(hecs)
    house.assert_none_lost(found)
    told = sum((hec.told for hec in hecs), Counter())
    assert not [one for one, times in told.items() if times > 1], "sent again after it was known to be safe"
    house.stop()
    twice = sum(times - 1 for times in found.values())
    counted = int(house.metric("hec_possible_duplicates_total"))
    assert counted >= twice, f"{twice} events twice, {counted} counted"
    assert not house.dead()
    house.assert_books(decoded=len(house.expected), delivered=len(house.expected), waiting=0)
    return f"{len(house.expected)} events, {twice} twice, {counted} counted as possibly so"


def check_waits(house: Sending) -> None:
    """Each hold's next try comes no later than the one rule says: a quarter of the trouble's age, 0.5 to 60 s."""
    holds, now = house.holds(), time.time()
    for hold in holds:
        if hold["kind"] in {"endpoint", "token"} and hold["next_probe"] is not None:
            age = now - hold["since"]
            assert hold["next_probe"] - hold["since"] <= age + next_wait(age, 1.0) + 1.0, hold


# outages


class Splunk:
    """One HTTPS server by name, and everything that can be wrong with it. The sender must have `hosts` and NAME_SERVER."""

    def __init__(self, work: Path) -> None:
        self.authority = HecAuthority()
        names = f"DNS:{NAME}"
        self._good = self.authority.issue("good", names=names)
        self._ended = self.authority.issue("ended", names=names, days=-1)
        self.authority.use(*self._good)
        self.hec = HecEmulator(tls=self.authority)
        self.hosts = work / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.dns = DnsEmulator(NAME_SERVER, to=ADDRESSES[0])

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.hec.server.port}"

    def __enter__(self) -> Self:
        self.hec.__enter__()
        self.dns.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dns.__exit__(kind, error, trace)
        self.hec.__exit__(kind, error, trace)
        self.authority.close()

    def _tokens(self, tokens: dict[str, Token]) -> None:
        self.hec.tokens = tokens

    def _certificate(self, pair: tuple[Path, Path]) -> None:
        self.authority.use(*pair)
        self.hec.server.drop_connections()

    def _move(self, mood: str) -> None:
        """To the other address, while the name server is in this mood: the old one, which the sender knows, is no help."""
        self.dns.mood = mood
        self.hec.server.stop()
        self._moved_to = ADDRESSES[ADDRESSES.index(self.dns.to) - 1]
        self.hec.server.start(self._moved_to)

    def _tell(self) -> None:
        self.dns.to, self.dns.mood = self._moved_to, "answer"

    def _up(self, up: bool) -> None:
        if up:
            self.hec.server.start()
        else:
            self.hec.server.stop()

    def outages(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Class → how it begins and how it ends."""
        hec = self.hec

        def answer(**how: Any) -> tuple[Callable[[], object], Callable[[], object]]:
            return lambda: hec.outage(True, **how), lambda: hec.outage(False)

        return {
            "busy": answer(status=503, code=9),
            "refused": (lambda: self._up(False), lambda: self._up(True)),
            "hanging": answer(hang=3600, after=True),
            "reset in the body": answer(read=300),
            "closed after it was taken": answer(drop=True, after=True),
            "401": answer(status=401, code=3),
            "403": (lambda: self._tokens({}), lambda: self._tokens({TOKEN: Token(TOKEN)})),
            "404": answer(status=404, code=404),
            "504 after it was taken": answer(status=504, body="<html>", after=True),
            "TLS expired": (lambda: self._certificate(self._ended), lambda: self._certificate(self._good)),
            "DNS gone": (lambda: self._move("silent"), self._tell),
            "DNS without the name": (lambda: self._move("nxdomain"), self._tell),
        }


def every_outage(house: Sending, splunk: Splunk, load: Load, seconds: float) -> list[str]:
    """One after the other; after each, traffic flows again before the next begins."""
    said = []
    for name, (begin, end) in splunk.outages().items():
        asked = splunk.dns.asked[NAME]
        began = time.monotonic()
        begin()
        before = len(splunk.hec.posts())
        new = load.begun()
        load.during(seconds, lambda: check_waits(house))
        tries = len(splunk.hec.posts()) - before
        most = most_tries(house.settings.hec.in_flight, time.monotonic() - began)
        assert tries <= most, f"{name}: hammered {tries} times"
        assert name in TAKEN or not splunk.hec.stored.keys() & set(house.expected[new:]), f"{name}: it is no outage"
        if name.startswith("DNS"):
            poll(lambda: any("DNS" in hold["hint"] for hold in house.holds()), f"DNS is named: {house.holds()}")
            assert splunk.dns.asked[NAME] > asked, "it is asked for again"
        end()
        if name == "hanging":
            splunk.hec.server.drop_connections()
        took = caught_up(house, splunk.hec, 120 + 4 * seconds)
        said.append(f"{name}: {tries} tries seen, caught up in {took:.1f} s")
    return said


def most_tries(in_flight: int, seconds: float) -> float:
    """By the one rule: what was in flight, twice where connections were idle; a quarter of a second apart at least while the
    trouble is young, then an eighth of its age."""
    return 2 * in_flight + 4 * min(seconds, 2.0) + 8 * math.log(max(1.0, seconds / 2.0)) + 2


def caught_up(house: Sending, hec: HecEmulator, deadline: float) -> float:
    """Seconds until all is there that had been put by now."""
    mark, began = house.put_count, time.monotonic()
    poll(lambda: len(hec.stored) >= mark, f"caught up: {house.holds()}", deadline)
    return time.monotonic() - began


# rolling restarts


def rolling_restart(house: Sending, hecs: Sequence[HecEmulator], load: Load, down: float, *, lose: bool) -> None:
    """One indexer at a time is down for so many seconds; with acknowledgement it loses what it had not acknowledged."""
    for hec in hecs:
        hec.crash(lose_unacked=lose, down=lambda: load.during(down))
        mark = len(hec.stored)
        poll(lambda h=hec, m=mark: len(h.stored) > m, f"it takes again: {house.holds()}", 120)  # type: ignore[misc]


# one of three routes refused


REFUSED_ROUTES = (RouteSettings(topic="a", name="a", sourcetype="sa"), RouteSettings(topic="b", name="b", index="main"),
                  RouteSettings(topic="c", name="c", index="secret"))  # fmt: skip


class Refused:
    """Route `c` writes to an index that Splunk refuses; `a` and `b` go on. The sender is killed again and again."""

    def __init__(self, house: Sending, hec: HecEmulator, load: Load) -> None:
        self.house, self.hec, self.load = house, hec, load
        self.open_at_kills: Counter[str] = Counter()
        """Events of the batches that were not done with when the sender was killed: only they may be sent again."""
        self.memory: list[int] = []

    def kill(self) -> None:
        """kill -9, look at what was open, start again."""
        self.memory.append(self.house.rss())
        self.house.kill()
        self.open_at_kills.update(self.house.open_ids())
        self.house.start()

    def others_flow(self) -> None:
        """What was put for the other routes is there, though the third is refused."""
        wanted = {one for topic in ("a", "b") for one in self.load.by_topic[topic]}
        poll(lambda: wanted <= self.hec.stored.keys(), f"routes a and b flow: {self.house.holds()}")

    def allow(self) -> None:
        """The index is allowed now."""
        self.hec.tokens = {TOKEN: Token(TOKEN)}

    def prove(self) -> str:
        """Lost none; twice only what was open at a kill; memory flat; the books."""
        house, found = self.house, self.hec.stored
        house.wait_empty()
        poll(lambda: not house.dead(), f"what was parked is delivered: {house.holds()}", 180)
        house.assert_none_lost(found)
        for one, times in found.items():
            assert times <= 1 + self.open_at_kills[one], f"{one} is there {times} times"
        third = max(1, len(self.memory) // 3)
        assert max(self.memory[-third:]) < max(self.memory[:third]) + (48 << 20), "memory grows"
        house.assert_books(decoded=len(house.expected), waiting=0)
        books = house.books()
        assert books["buried"] == books["delivered_later"]
        twice = sum(times - 1 for times in found.values())
        shown = ", ".join(f"{size >> 20}" for size in self.memory)
        return f"{len(house.expected)} events, {books['buried']} parked and delivered later, {twice} twice; MiB at kills: {shown}"
