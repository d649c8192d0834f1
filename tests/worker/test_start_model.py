"""Where a shard starts, against a plain model: hosts, lanes, moves, kills, lost disks, resets, rebuilds, both checkpoint modes.

The start table, the entrance into the group, positions and checkpoints are the real ones, over real spools; only the
network and the threads are the model's. What must hold, whatever happens in whatever order:

- Every LogGroup since the group's first run is delivered in the end, unless retention took it, the operator skipped it, or
  (checkpoint "spooled") it waited on a disk that was lost.
- With checkpoint "delivered" SLS's checkpoint never passes one that is not delivered, at any moment.
- No spool is given a LogGroup twice, unless the group was moved back or deleted, or an index was rebuilt.
- A checkpoint that was moved behind what this host knows is where it starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from buffer.operate import forget_group
from buffer.outside import find_position, group_positions, lane_directories
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool
from buffer.values import Outcome, Pull
from tests.worker.start_world import BASE, FAST, HOSTS, KEY, SLOTS, SUBJECT, Held, Host, Sls, make_process
from worker.acquire import acquire
from worker.group import Entrance
from worker.held import HeldShard
from worker.settings import SourceSettings


class Starts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=FAST))
        self.names = 0
        self.sls = Sls()
        self.first: int | None = None
        self.delivered: set[int] = set()
        self.excused: set[int] = set()
        self.again: set[int] = set()
        """To be given to some spool since the operator's last reset."""
        self.exposed: set[int] = set()
        """Waited when somebody deleted or reset the group, and with it the checkpoint that would have brought them back."""
        self.held: Held | None = None

    @initialize(
        start=st.sampled_from(["begin", "end"]), mode=st.sampled_from(["spooled", "delivered"]), old=st.integers(0, 9)
    )
    def begin(self, start: str, mode: Any, old: int) -> None:
        self.source = SourceSettings(
            name="s", project="p", logstore="l", endpoint="http://127.0.0.1:1", consumer_group="g", start=start,
            consumer_timeout=1e9,
        )  # fmt: skip
        self.mode = mode
        self.sls.end += old
        self.hosts = [self.make_host() for _ in range(HOSTS)]

    def make_host(self) -> Host:
        self.names += 1
        directory = self.home / f"host-{self.names}"
        # So much must stay free that no ballast is made.
        return Host(Spool.open(SpoolSettings(directory=directory, min_free_bytes=1 << 50, force_file_system=True)))

    def teardown(self) -> None:
        try:
            if hasattr(self, "hosts"):
                self.drain()
        finally:
            for host in getattr(self, "hosts", []):
                self.end(host)
                host.spool.close()
            shutil.rmtree(self.home)

    # What the world does

    @rule(groups=st.integers(1, 12))
    def sls_receives(self, groups: int) -> None:
        self.sls.end += groups

    @rule(groups=st.integers(1, 6))
    def retention_takes(self, groups: int) -> None:
        gone = set(range(self.sls.begin, min(self.sls.end, self.sls.begin + groups)))
        self.sls.begin += len(gone)
        self.excused |= gone - self.waits_anywhere()
        self.again -= gone

    @precondition(lambda self: self.sls.exists)
    @rule()
    def the_other_shard_is_checkpointed(self) -> None:
        self.sls.other = BASE

    # Processes

    @rule(host=st.integers(0, HOSTS - 1), slot=st.integers(0, SLOTS - 1))
    def start(self, host: int, slot: int) -> None:
        home = self.hosts[host]
        if slot in home.processes:
            return
        known = bool(group_positions(home.spool.directory, home.spool.id, "p", "l", "g"))
        absent = not self.sls.exists
        process = home.processes[slot] = make_process(self.source, self.mode, self.sls, home, slot)
        Entrance(process.member).step()
        if absent and not known:
            # A first run as far as this host can know: what lies before its start is nobody's business.
            begins = self.sls.checkpoint
            assert begins == (self.sls.begin if self.source.start == "begin" else self.sls.end)
            self.first = begins if self.first is None else self.first
            self.excused |= set(range(BASE, begins))
            self.again -= set(range(BASE, begins))

    def end(self, host: Host, slot: int | None = None) -> None:
        """kill -9, as far as this shard is concerned."""
        for one in [slot] if slot is not None else list(host.processes):
            process = host.processes.pop(one, None)
            if process is not None:
                process.writer.close()
            if self.held is not None and self.hosts[self.held.host] is host and self.held.slot == one:
                self.held = None

    @rule(host=st.integers(0, HOSTS - 1), slot=st.integers(0, SLOTS - 1))
    def kill(self, host: int, slot: int) -> None:
        self.end(self.hosts[host], slot)

    @rule(host=st.integers(0, HOSTS - 1))
    def lose_the_host_with_its_disk(self, host: int) -> None:
        home = self.hosts[host]
        self.end(home)
        lost = self.waits(home) if self.mode == "spooled" else self.waits(home) & self.exposed
        self.excused |= lost
        self.again -= set(home.stored) if self.mode == "spooled" else lost
        home.spool.close()
        shutil.rmtree(home.spool.directory)
        self.hosts[host] = self.make_host()

    # The shard

    @rule(
        host=st.integers(0, HOSTS - 1), slot=st.integers(0, SLOTS - 1), groups=st.lists(st.integers(1, 9), max_size=4),
        save=st.booleans(),
    )  # fmt: skip
    def work(self, host: int, slot: int, groups: list[int], save: bool) -> None:
        """What happens most of the time."""
        self.sls.end += sum(groups)
        if self.held is None:
            self.start(host, slot)
            self.take(host, slot)
        for one in groups:
            if self.held is not None:
                self.pull(one, False)
        if self.held is not None and save:
            self.save()

    @rule(
        host=st.integers(0, HOSTS - 1), slot=st.integers(0, SLOTS - 1), groups=st.integers(1, 9), splunk=st.booleans(),
        save=st.booleans(),
    )  # fmt: skip
    def move(self, host: int, slot: int, groups: int, splunk: bool, save: bool) -> None:
        """To another slot or host, in good order, and some work there, with or without Splunk."""
        if self.held is not None:
            self.let_go(True)
        self.work(host, slot, [groups, groups], False)
        for lane in range(SLOTS if splunk else 0):
            self.deliver(host, lane, 100)
        if self.held is not None and save:
            self.save()

    @precondition(lambda self: self.held is None)
    @rule(host=st.integers(0, HOSTS - 1), slot=st.integers(0, SLOTS - 1))
    def take(self, host: int, slot: int) -> None:
        home = self.hosts[host]
        process = home.processes.get(slot)
        if process is None or not self.sls.exists:
            return
        server = self.sls.checkpoint
        known = find_position(home.spool.directory, home.spool.id, KEY)
        heard = process.member.lived or group_positions(home.spool.directory, home.spool.id, "p", "l", "g")
        found = acquire(process.member, SUBJECT, KEY, lambda _: False)
        assert found is not None
        if server is None and known is not None and (known.put or known.checkpoint):
            assert found.cursor == max(known.put or 0, known.checkpoint or 0), "on from where this host was"
        if not heard and server is None and self.sls.other is None:
            # Made by somebody and never saved: nobody here can know that it is not the first run.
            self.excused |= set(range(BASE, found.cursor)) - self.waits_anywhere()
            self.again -= set(range(BASE, found.cursor))
        if server is not None and home.mark is not None and server < home.mark:
            assert found.cursor == server, "somebody moved it back on purpose"
            home.again = set(range(server, self.sls.end))
        if home.again and server is not None and server <= min(home.again):
            assert found.cursor <= min(home.again), "what was asked for again is read again, kills or not"
        home.mark = server if server is not None else home.mark
        state = HeldShard(KEY, SUBJECT, "s")
        state.epoch, state.acquired, state.saved = found.epoch, found.server, found.server
        state.durable = found.cursor
        self.held = Held(host, slot, state, found.cursor)

    @precondition(lambda self: self.held is not None)
    @rule(groups=st.integers(1, 9), filtered=st.booleans())
    def pull(self, groups: int, filtered: bool) -> None:
        held = self.held
        assert held is not None
        if held.cursor < self.sls.begin:
            self.skip_what_is_gone(held)
        begin, stop = held.cursor, min(held.cursor + groups, self.sls.end)
        if begin == stop:
            return
        if filtered:
            self.excused |= set(range(begin, stop)) - self.waits_anywhere()
            self.read_again(set(range(begin, stop)))
            held.cursor = held.state.durable = stop
            held.jump = True
            return
        self.put(held, begin, stop)

    def skip_what_is_gone(self, held: Held) -> None:
        writer = self.hosts[held.host].processes[held.slot].writer
        gone = set(range(held.cursor, self.sls.begin))
        self.hosts[held.host].gone.update(gone)
        writer.skip_lost(KEY, held.state.epoch, self.sls.begin, "s", len(gone))
        self.excused |= gone
        self.read_again(gone)
        held.cursor = held.state.durable = self.sls.begin
        held.jump = True

    def read_again(self, groups: set[int]) -> None:
        self.again -= groups
        for host in self.hosts:
            host.again -= groups

    def put(self, held: Held, begin: int, stop: int) -> None:
        home = self.hosts[held.host]
        made = Pull(
            key=KEY, epoch=held.state.epoch, source="s", codec="lz4", raw_size=1, begin=begin, next=stop,
            groups=stop - begin, sparse=False, suspect=False, arrived=1.0, pulled=1.0, body=b"x", first=held.jump,
        )  # fmt: skip
        answer = home.processes[held.slot].writer.put([made])[0]
        assert answer.outcome is not Outcome.GAP
        if answer.outcome is Outcome.STORED:
            held.jump = False
            home.stored.update(range(begin, stop))
            self.read_again(set(range(begin, stop)))
        held.cursor = held.state.durable = answer.next

    @precondition(lambda self: self.held is not None)
    @rule(hurry=st.booleans())
    def save(self, hurry: bool = True) -> None:
        held = self.held
        assert held is not None
        home = self.hosts[held.host]
        saver = home.processes[held.slot].saver
        held.state.tried_to_save = float("-inf")
        if row := saver.save(held.state, hurry=hurry):
            saver.note({KEY: row})
            home.mark = row[1]

    @precondition(lambda self: self.held is not None)
    @rule(save=st.booleans())
    def let_go(self, save: bool) -> None:
        """At hand-over; or SLS has given the shard to somebody else already."""
        if save:
            self.save()
        self.held = None

    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, SLOTS - 1), batches=st.integers(1, 4))
    def deliver(self, host: int, which: int, batches: int) -> None:
        lanes = lane_directories(self.hosts[host].spool.directory)
        if not lanes:
            return
        reader = LaneReader.open(lanes[which % len(lanes)], self.hosts[host].spool.settings)
        found = reader.read(0, batches, 1 << 30)
        reader.ack(found)
        reader.close()
        self.delivered |= {at for batch in found for pull in batch.pulls for at in range(pull.begin, pull.next)}

    # The operator, and damage

    @rule(place=st.integers(0, 30))
    def move_the_checkpoint_back(self, place: int) -> None:
        """In the console, while nobody holds the shard."""
        if self.held is not None:
            self.let_go(True)
        if self.sls.checkpoint is None:
            return
        self.sls.checkpoint = min(self.sls.checkpoint, max(self.sls.begin, self.sls.checkpoint - place))
        for host in self.hosts:
            host.may.update(range(self.sls.checkpoint, self.sls.end))

    @precondition(lambda self: self.sls.exists and not any(host.processes for host in self.hosts))
    @rule(place=st.floats(0, 1))
    def group_reset(self, place: float) -> None:
        """With every supervisor stopped, on every host."""
        cursor = self.sls.begin + int(place * (self.sls.end - self.sls.begin))
        for host in self.hosts:
            host.mark, host.again = None, set()
            forget_group(host.spool.settings, "p", "l", "g")
            host.may.update(range(cursor, self.sls.end))
        self.sls.checkpoint = self.sls.other = cursor
        self.exposed |= self.waits_anywhere()
        self.excused |= set(range(BASE, cursor)) - self.waits_anywhere()
        self.again = set(range(cursor, self.sls.end))

    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, SLOTS - 1))
    def lose_an_index(self, host: int, which: int) -> None:
        """Rebuilt by the supervisor, with the consumers stopped."""
        home = self.hosts[host]
        self.end(home)
        lanes = lane_directories(home.spool.directory)
        if not lanes:
            return
        for path in lanes[which % len(lanes)].glob("cache.db*"):
            path.unlink()
        home.spool.recover()
        home.mark, home.again = None, set()
        home.may.update(range(BASE, self.sls.end))

    @precondition(lambda self: self.sls.exists)
    @rule()
    def the_group_is_deleted(self) -> None:
        """By somebody, in the console. Those who run make it again, without `start`; else the next one who starts."""
        self.sls.checkpoint = self.sls.other = None
        self.exposed |= self.waits_anywhere()
        self.again = set()
        for host in self.hosts:
            # Who takes a shard that it does not know begins at `begin`; for the others that is a checkpoint moved back.
            host.again = set()
            host.may.update(range(BASE, self.sls.end))
        running = [process for host in self.hosts for process in host.processes.values()]
        self.sls.exists = bool(running)
        for process in running:
            process.member.lived = True
        self.held = None

    # What must hold

    def waits(self, host: Host) -> set[int]:
        found: set[int] = set()
        for lane in lane_directories(host.spool.directory):
            if not (lane / "cache.db").exists():
                continue
            reader = LaneReader.open(lane, host.spool.settings)
            for batch in reader.read(0, 10_000, 1 << 30):
                found |= {at for pull in batch.pulls for at in range(pull.begin, pull.next)}
            reader.close()
        return found - self.delivered

    def waits_anywhere(self) -> set[int]:
        return set().union(*(self.waits(host) for host in self.hosts))

    @invariant()
    def nothing_is_spooled_twice(self) -> None:
        for host in getattr(self, "hosts", []):
            assert not [at for at, times in host.stored.items() if times > 1 + host.may[at]]
            assert not [at for at, times in host.gone.items() if times > 1 + host.may[at]], "lost once, counted twice"

    @invariant()
    def a_delivered_checkpoint_passes_nothing_that_is_not(self) -> None:
        if self.first is None or self.mode != "delivered" or self.sls.checkpoint is None:
            return
        below = set(range(self.first, self.sls.checkpoint))
        assert not below - self.delivered - self.excused - self.exposed

    def drain(self) -> None:
        """Everybody comes back, one of them reads to the end, everything is delivered."""
        for host in range(HOSTS):
            for slot in range(SLOTS):
                self.start(host, slot)
        self.held = None
        self.take(0, 1)
        held: Any = self.held
        assert held is not None
        for _ in range(5):
            self.pull(1_000, False)
        assert held.cursor == self.sls.end, "it gets on"
        self.nothing_is_spooled_twice()
        for host in range(HOSTS):
            for lane in range(SLOTS):
                self.deliver(host, lane, 100_000)
        assert self.first is not None
        missing = set(range(self.first, self.sls.end)) - self.delivered - self.excused
        assert not missing, f"never delivered: {sorted(missing)}"
        assert not self.again, f"not read again since the reset: {sorted(self.again)}"


def test_nothing_is_lost_or_spooled_twice_wherever_shards_start() -> None:
    examples = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 60
    run_state_machine_as_test(
        Starts,
        settings=hypothesis.settings(max_examples=examples, stateful_step_count=40, report_multiple_bugs=False),
    )
