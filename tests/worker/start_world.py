"""What the model of starts plays with: an SLS of one shard, hosts with real spools, consumers without threads and network."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from buffer.spool import Spool, lane_directory
from buffer.values import ShardKey
from buffer.writer import LaneWriter
from worker.board import Board
from worker.checkpoints import Saver
from worker.child import ChildContext
from worker.fence import boottime
from worker.held import HeldShard
from worker.member import Member
from worker.putter import Putter
from worker.report import Report
from worker.room import Room
from worker.settings import HecSettings, LogSettings, SourceSettings, WorkerSettings
from worker.sls import Shard
from worker.sls_errors import GroupExists
from worker.waiting import Waiting

HOSTS, SLOTS, BASE = 2, 2, 1_000
SUBJECT, OTHER = Shard(0, False, 1), Shard(1, False, 1)
KEY = ShardKey("p", "l", "g", "", 0, 1)
#: tmpfs: flushes are not what is tried here.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Sls:
    """One shard that matters, and another one whose checkpoint is there or not."""

    begin: int = BASE
    end: int = BASE
    exists: bool = False
    checkpoint: int | None = None
    other: int | None = None

    def limit(self, connect: float, read: float) -> None:
        """It answers at once."""

    def groups(self) -> dict[str, float]:
        return {"g": 30.0} if self.exists else {}

    def create_group(self, name: str, timeout: float) -> None:
        if self.exists:
            raise GroupExists("it does")
        self.exists = True

    def get_cursor_at(self, shard: int, where: str) -> int:
        return {"begin": self.begin, "end": self.end}[where]

    def checkpoints(self, group: str) -> dict[int, int | None]:
        return {0: self.checkpoint, 1: self.other}

    def save_checkpoint(self, group: str, consumer: str, shard: int, cursor: int, *, force: bool = False) -> None:
        if shard == 0:
            self.checkpoint = cursor
        else:
            self.other = cursor


@dataclass
class Process:
    """One slot's consumer: what dies with it."""

    writer: LaneWriter
    member: Member
    saver: Saver


@dataclass
class Held:
    """The shard in a process's hands: what its reader knows."""

    host: int
    slot: int
    state: HeldShard
    cursor: int
    jump: bool = True


@dataclass
class Host:
    spool: Spool
    processes: dict[int, Process] = field(default_factory=dict)
    stored: Counter[int] = field(default_factory=Counter)
    """LogGroup -> how often this spool was given it."""
    may: Counter[int] = field(default_factory=Counter)
    """LogGroup -> how often it may be given again."""
    gone: Counter[int] = field(default_factory=Counter)
    """LogGroup -> how often it was counted as lost to retention."""
    again: set[int] = field(default_factory=set)
    """Asked for again by a checkpoint that was moved back, and not spooled since."""
    mark: int | None = None
    """The last checkpoint that this host has found or saved."""


def make_process(source: SourceSettings, mode: Any, sls: Sls, home: Host, slot: int) -> Process:
    """A consumer without its threads, whose network is `sls`."""
    writer = LaneWriter.open(lane_directory(home.spool.directory, home.spool.id, slot), home.spool.settings)
    settings = WorkerSettings(
        sources=(source,), routes=(), hec=HecSettings(urls=()), spool=home.spool.settings, log=LogSettings(),
        checkpoint=mode,
    )  # fmt: skip
    context = ChildContext(
        kind="consumer", slot=slot, index=0, consumers=SLOTS, senders=1, spool_id=home.spool.id,
        run_directory=home.spool.run_directory, boot="b", supervisor_pid=0, max_in_flight_bytes=1 << 20,
        board=Board(1), settings=settings,
    )  # fmt: skip
    report = Report(home.spool.run_directory / "r.json", "consumer")
    putter, waiting = Putter(writer, home.spool.settings, report), Waiting(home.spool.directory)
    member = Member(source, context, putter, Room(1), waiting, report, f"c-{slot}")
    member.close()
    network: Any = sls
    member.control = member.saving = member.data = network
    member.shards = {0: SUBJECT, 1: OTHER}
    member.fence.acknowledge(boottime())
    waiting.watch(("p", "l", 0))
    return Process(writer, member, Saver(member, threading.Event()))
