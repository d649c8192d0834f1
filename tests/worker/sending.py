"""A real sender process over a real lane, before a real HEC: what the sender's tests share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buffer import outside
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import DeadLetter, Pull, ShardKey
from buffer.writer import LaneWriter
from tests.emulators.generator_wire import frame
from tests.waiting import poll
from worker.board import Board
from worker.child import ChildContext
from worker.envelope import id_head
from worker.settings import HecSettings, LogSettings, RouteSettings, WorkerSettings

SPAWN = multiprocessing.get_context("spawn")


def varint(number: int) -> bytes:
    """Protobuf's."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """A length-delimited one."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def log_group(topic: str, logs: list[dict[str, str]]) -> bytes:
    """A LogGroup, written from SLS's schema."""
    body = b""
    for log in logs:
        contents = b"".join(field(2, field(1, k.encode()) + field(2, v.encode())) for k, v in log.items())
        body += field(1, b"\x08" + varint(1_700_000_000) + contents)
    return body + field(3, topic.encode()) + field(4, b"10.0.0.1")


class Sending:
    """A spool with one lane, and sender processes that serve it."""

    def __init__(
        self, work: Path, urls: list[str], token: str, *, routes: tuple[RouteSettings, ...] = (), **hec: Any
    ) -> None:
        self.settings = WorkerSettings(
            sources=(),
            routes=routes,
            hec=HecSettings(urls=tuple(urls), token=token, **hec),
            spool=SpoolSettings(directory=work / "spool", min_free_bytes=1 << 20),
            log=LogSettings(),
        )
        self.spool = Spool.open(self.settings.spool)
        self.lane = lane_directory(self.spool.directory, self.spool.id, 0)
        self.writer = LaneWriter.open(self.lane, self.settings.spool)
        self.board = Board(1)
        self.process: Any = None
        self._cursor = 1000
        self.expected: list[str] = []

    def put(self, topic: str = "t", logs: int = 10, groups: int = 1, size: int = 20, spoil: bool = False) -> list[str]:
        """One pull durably; the ids its events must have, reckoned from the design's sentence."""
        raw = b"".join(
            frame(log_group(topic, [{"n": str(i), "pad": "x" * size} for i in range(logs)])) for _ in range(groups)
        )
        body = raw[:-3] if spoil else raw
        pull = Pull(
            key=ShardKey("p", "l", "g", "", 0, 1), epoch=1, source="s", codec="none", raw_size=len(body),
            begin=self._cursor, next=self._cursor + groups, groups=groups, sparse=False, suspect=False, arrived=1.0,
            pulled=2.0, body=body,
        )  # fmt: skip
        self.writer.put([pull])
        ids = [f"{id_head('p', 'l', 0)}{self._cursor + g}-{i}" for g in range(groups) for i in range(logs)]
        self._cursor += groups
        if not spoil:
            self.expected += ids
        return ids

    def start(self) -> None:
        """Another sender process."""
        context = ChildContext(
            kind="sender", slot=0, index=0, consumers=1, senders=1, spool_id=self.spool.id,
            run_directory=self.spool.run_directory, boot="b", supervisor_pid=os.getpid(),
            max_in_flight_bytes=64 << 20, board=self.board, settings=self.settings,
        )  # fmt: skip
        self.process = SPAWN.Process(target=run_sender, args=(context,))
        self.process.start()

    def stop(self) -> int:
        """TERM; its exit code."""
        self.process.terminate()
        self.process.join(30)
        code: int = self.process.exitcode
        self.process.close()
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(30)
        self.process.close()
        self.process = None

    def dead(self) -> list[DeadLetter]:
        """From the files."""
        return [letter for _, letter in outside.dead(self.spool.directory)]

    def waiting(self) -> int:
        """Batches, from the index."""
        return sum(lane.batches for lane in self.spool.lanes())

    def books(self) -> dict[str, int]:
        """All terms."""
        return self.spool.stats().books

    def holds(self) -> list[dict[str, Any]]:
        """As the sender reports them."""
        from supervisor.status import read_reports

        return [h for r in read_reports(self.spool.run_directory, ["sender-0"]).values() for h in r["holds"]]

    def wait_empty(self, what: str = "the lane is drained", deadline: float = 60) -> None:
        """Until nothing waits."""
        poll(lambda: self.waiting() == 0, f"{what}: {self.holds()}", deadline)

    def assert_all_once(self, stored: Counter[str]) -> None:
        """Lost: none; duplicated: none; invented: none."""
        assert stored == Counter(self.expected)

    def assert_none_lost(self, stored: Counter[str]) -> None:
        """Duplicates may be."""
        assert stored.keys() == set(self.expected)

    def close(self) -> None:
        """Give it all back."""
        if self.process is not None:
            self.kill()
        self.writer.close()
        self.spool.close()


def run_sender(context: ChildContext) -> None:
    """The child's target."""
    from worker.sender import main

    sys.exit(main(context))


@contextlib.contextmanager
def sending(work: Path, urls: list[str], token: str, **options: Any) -> Iterator[Sending]:
    """Closed at the end, whatever happens."""
    made = Sending(work, urls, token, **options)
    try:
        yield made
    finally:
        made.close()
