"""Consumers of two hosts against an SLS that fails one call in a hundred in each of ten ways, while they are killed, stopped,
woken, sent away and joined, shards split and merge, and retention takes what was not read. Judged by `chaos_books`.

The clock is the load, as in a day of the house: what begins when is planned before, from a seed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.emulators.generator import Generator
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_faults import Fault
from tests.end_to_end.day import Planned, plan
from tests.waiting import poll
from tests.worker.chaos_books import reckon, rewound, spooled_by, stored_since
from tests.worker.chaos_troubles import ALWAYS, TROUBLES
from tests.worker.consuming import House, source_of

#: Seconds after which SLS gives a silent consumer's shards away: some stops are longer, some are not.
TIMEOUT = 6.0
SHARDS, SLOTS = 4, {"one": 3, "two": 2}


@dataclass
class Chaos:
    """The hosts, the service between them, and what is wrong at the moment."""

    sls: SlsEmulator
    houses: dict[str, House]
    chance: random.Random
    patience: float = 120.0
    """Seconds for each step."""
    going: list[tuple[int, AbstractContextManager[None]]] = field(default_factory=list)
    wanted: set[tuple[str, int]] = field(default_factory=set)
    """(host, slot) that shall run."""
    standing: set[tuple[str, int]] = field(default_factory=set)
    """Stopped just now."""
    stood_still: set[tuple[str, int]] = field(default_factory=set)
    """Were stopped once."""
    ends: list[tuple[str, int, int]] = field(default_factory=list)
    """(host, slot, code) of processes that ended unasked."""
    trimmed: dict[int, int] = field(default_factory=dict)
    visiting: bool = False
    expiring: int = 0
    before: int = 0
    said: list[str] = field(default_factory=list)

    def run(self, host: str, slot: int) -> None:
        """A consumer, from now on."""
        self.wanted.add((host, slot))
        self.houses[host].start(slot)

    def run_again(self, host: str, slot: int) -> None:
        """One that was sent away, unless its host has left meanwhile, or come anew with all its own."""
        if (host, slot) not in self.wanted and (host == "one" or self.visiting):
            self.run(host, slot)

    def leave(self, host: str, slot: int) -> None:
        """TERM, and 0 is its code. One that stands still is woken first."""
        house = self.houses[host]
        self.wanted.discard((host, slot))
        self.wake(host, slot)
        poll(lambda: house.board.last_beat(slot), "its handlers are there", 60)
        assert house.stop(slot, 60) == 0, (host, slot)

    def wake(self, host: str, slot: int) -> None:
        """SIGCONT, if it was stopped and lives."""
        process = self.houses[host].processes[slot]
        if (host, slot) in self.standing and process.is_alive():
            os.kill(process.pid, signal.SIGCONT)
        self.standing.discard((host, slot))

    def visit(self) -> None:
        """The other host comes."""
        self.visiting = True
        for slot in range(SLOTS["two"]):
            self.run("two", slot)

    def any_running(self) -> tuple[str, int]:
        """One that runs and does not stand still."""
        self.wait(lambda: self.wanted - self.standing, "somebody runs")
        return self.chance.choice(sorted(self.wanted - self.standing))

    def come(self) -> int:
        """LogGroups that SLS has been given since the beginning."""
        return sum(len(shard.framed) for shard in list(self.sls.store().shards.values())) - self.before

    def tend(self) -> int:
        """End what is over, start again who has ended unasked; what has come."""
        come = self.come()
        self._end(lambda until: until <= come)
        for host, slot in sorted(self.wanted):
            code = self.houses[host].processes[slot].exitcode
            if code is not None:
                self.ends.append((host, slot, code))
                self.run(host, slot)
        return come

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """While everything else goes on."""

        def tended() -> object:
            self.tend()
            return condition()

        poll(tended, f"{what}; {self.said[-5:]}", self.patience, 0.05)

    def live(self, planned: Sequence[Planned]) -> None:
        """All of it."""
        self.before = sum(len(shard.framed) for shard in self.sls.store().shards.values())
        try:
            for one in planned:
                self.wait(lambda: self.come() >= one.at, f"{one.at} LogGroups come")  # noqa: B023
                self.said.append(one.name)
                trouble = TROUBLES[one.name](self)
                trouble.__enter__()
                self.going.append((max(one.until, self.come() + one.until - one.at), trouble))
            self.wait(lambda: not self.going, "the last trouble is over")
        finally:
            self._end(lambda _: True)

    def _end(self, is_over: Callable[[int], bool]) -> None:
        for one in [one for one in self.going if is_over(one[0])]:
            if one in self.going:  # the end of another may have waited, and ended this one
                self.going.remove(one)
                one[1].__exit__(None, None, None)


def live(
    work: Path, seed: int, start: str, *, rounds: int = 1, rate: int = 750, step: int = 500
) -> str:  # fmt: skip
    """One run, and a line about it. AssertionError: something is lost, repeated or miscounted.

    `rate`: logs that come in a second; `step`: LogGroups between two troubles.
    """
    chance = random.Random(seed)
    with ExitStack() as stack:
        sls = stack.enter_context(SlsEmulator(shards=SHARDS, knobs=Knobs(max_pull_bytes=20_000)))
        sls.generators[sls.project, sls.logstore] = Generator(seed, logs_per_group=4)
        sls.fill(8_000)
        source = source_of(sls, start=start, consumer_timeout=TIMEOUT)
        houses = {
            host: stack.enter_context(House(work / host, source, consumers=slots)) for host, slots in SLOTS.items()
        }
        chaos = Chaos(sls, houses, chance)
        starts = begin(chaos, start)
        faults = {
            name: [
                sls.faults.add(kind, operation, probability=0.01, **options),
                sls.faults.add(kind, operation, after=10 * place, count=1, **options),  # once for certain
            ]
            for place, (name, (kind, operation, options)) in enumerate(ALWAYS.items(), 1)
        }
        sls.feeder.start(rate, sls.store(), None)
        chaos.live(plan(tuple(TROUBLES), rounds, step, chance))
        end(chaos)
        return judge(chaos, starts, faults, f"seed {seed}, start {start}")


def begin(chaos: Chaos, start: str) -> dict[int, int]:
    """The group's first run, in peace: shard → where it starts, as SLS has it."""
    sls = chaos.sls
    for slot in range(SLOTS["one"]):
        chaos.run("one", slot)
    wanted = {number: shard.first if start == "begin" else shard.end for number, shard in sls.store().shards.items()}
    # Not by force where the answer to making the group came too late.
    poll(
        lambda: all(sls.checkpoints("siem").get(number) for number in wanted), "the group is made, and its start saved"
    )
    first = {one.shard: one.cursor for one in reversed(sls.store().checkpoints) if one.force or start == "end"}
    assert first.items() <= wanted.items(), (first, wanted)
    return wanted


def end(chaos: Chaos) -> None:
    """Peace again: all is read, all go, and say 0."""
    sls = chaos.sls
    sls.feeder.stop()
    sls.faults.clear()
    for slot in range(SLOTS["one"]):
        if ("one", slot) not in chaos.wanted:
            chaos.run("one", slot)
    chaos.wait(lambda: sls.drained("siem"), "every checkpoint is at its end")
    for host, slot in sorted(chaos.wanted):
        chaos.leave(host, slot)


def judge(chaos: Chaos, starts: dict[int, int], faults: dict[str, list[Fault]], name: str) -> str:
    """The books, and what is said of them."""
    spooled = [one for host, house in chaos.houses.items() for one in spooled_by(host, house)]
    found = reckon(stored_since(chaos.sls, starts), chaos.trimmed, spooled)
    counters = [lane.counters for house in chaos.houses.values() for lane in house.spool.lanes()]
    counted = sum(one.get(("lost_to_retention_groups", "audit"), 0) for one in counters)
    # Put, killed before the COMMIT, and taken in on the way back: meanwhile another may have had the shard from there.
    late = sum(one.get(("taken_in", ""), 0) for one in counters)
    assert not found.lost, f"{name}: lost {sorted(found.lost)[:20]} of {len(found.lost)}"
    assert not found.invented, f"{name}: not what SLS had: {sorted(found.invented)[:20]}"
    assert len(found.taken) <= counted <= len(found.taken) + late, (
        f"{name}: {counted} counted as lost to retention, {len(found.taken)} are missing, {late} taken in"
    )
    assert found.taken, f"{name}: retention took nothing"
    repeated = {place[:2] for place in found.unexplained(chaos.stood_still)}
    assert len(repeated) <= late, f"{name}: {late} taken in, {list(found.in_one_spool().items())[:20]}"
    assert not rewound(chaos.sls.store().checkpoints), f"{name}: checkpoints went back"
    assert not chaos.ends, f"{name}: ended unasked: {chaos.ends}"
    quiet = [kind for kind, some in faults.items() if not sum(fault.happened for fault in some)]
    assert not quiet, f"{name}: never happened: {quiet}"
    assert len(found.suspect) < found.logs // 100, f"{name}: {len(found.suspect)} suspect"
    failed = sum(fault.happened for some in faults.values() for fault in some)
    return (
        f"{name}: {found.logs} logs, none lost; {len(found.copies)} twice, {len(found.in_one_spool())} of them in one spool; "
        f"retention took {counted} LogGroups, all counted; {failed} calls failed; {len(chaos.sls.store().shards)} shards"
    )
