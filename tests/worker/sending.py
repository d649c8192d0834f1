"""A real sender over a real lane, before a real HEC: what the sender's tests share.

It is a process of its own where it is to be killed, and a thread here elsewhere, which starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from buffer import outside
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import DeadLetter, Pull, ShardKey
from buffer.writer import LaneWriter
from tests.emulators.generator_wire import count_logs, frame, parse_list
from tests.waiting import poll
from worker.board import Board
from worker.child import ChildContext
from worker.envelope import id_head
from worker.process import Stopping
from worker.sender import Sender
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
        self, work: Path, urls: list[str], token: str, *, routes: tuple[RouteSettings, ...] = (),
        in_thread: bool = False, memory: int = 64 << 20, spool: dict[str, Any] | None = None, **hec: Any,
    ) -> None:  # fmt: skip
        self.settings = WorkerSettings(
            sources=(),
            routes=routes,
            hec=HecSettings(urls=tuple(urls), token=token, **hec),
            spool=SpoolSettings(
                directory=work / "spool", min_free_bytes=1 << 20, force_file_system=True, **(spool or {})
            ),
            log=LogSettings(),
        )
        self.spool = Spool.open(self.settings.spool)
        self.lane = lane_directory(self.spool.directory, self.spool.id, 0)
        self.writer = LaneWriter.open(self.lane, self.settings.spool)
        self.board = Board(1)
        self.process: Any = None
        self.sender: Sender | None = None
        self._in_thread, self._memory = in_thread, memory
        self.hosts: Path | None = None
        """The sender's own /etc/hosts, in a mount namespace: needs root."""
        self.name_server = "127.0.0.1"
        """Whom it asks then. Nobody is there."""
        self.target: Callable[[ChildContext, Path | None, str], None] = run_sender
        """What its process runs."""
        self._thread: threading.Thread | None = None
        self._stopping: Stopping | None = None
        self._cursor = 1000
        self.expected: list[str] = []
        self.code = 0
        self.defect: BaseException | None = None

    def put(self, topic: str = "t", logs: int = 10, groups: int = 1, size: int = 20, spoil: bool = False) -> list[str]:
        """One pull durably; the ids its events must have, reckoned from the design's sentence."""
        made = [(topic, [{"n": str(i), "pad": "x" * size} for i in range(logs)]) for _ in range(groups)]
        return self.put_mixed(made, spoil=spoil)

    def put_mixed(self, groups: list[tuple[str, list[dict[str, str]]]], spoil: bool = False) -> list[str]:
        """One pull of these groups: topic and logs of each."""
        raw = b"".join(frame(log_group(topic, logs)) for topic, logs in groups)
        return self.put_raw(raw[:-3] if spoil else raw, [len(logs) for _, logs in groups], spoil=spoil)

    def put_raw(self, raw: bytes, logs: list[int], *, spoil: bool = False, **pulled: Any) -> list[str]:
        """One pull of these bytes, said to hold groups with so many logs each."""
        given: dict[str, Any] = {
            "codec": "none", "raw_size": len(raw), "body": raw, "groups": len(logs), "suspect": False, "sparse": False
        } | pulled  # fmt: skip
        pull = Pull(
            key=ShardKey("p", "l", "g", "", 0, 1), epoch=1, source="s", begin=self._cursor,
            next=self._cursor + len(logs), arrived=1.0, pulled=2.0, **given,
        )  # fmt: skip
        self.writer.put([pull])
        ids = [f"{id_head('p', 'l', 0)}{self._cursor + g}-{i}" for g, count in enumerate(logs) for i in range(count)]
        self._cursor += len(logs)
        if not spoil:
            self.expected += ids
        return ids

    @property
    def put_count(self) -> int:
        """Events put so far."""
        return len(self.expected)

    def start(self) -> None:
        """Another sender."""
        context = ChildContext(
            kind="sender", slot=0, index=0, consumers=1, senders=1, spool_id=self.spool.id,
            run_directory=self.spool.run_directory, boot="b", supervisor_pid=os.getpid(),
            max_in_flight_bytes=self._memory, board=self.board, settings=self.settings,
        )  # fmt: skip
        if self._in_thread:
            self._stopping = Stopping()
            self.sender = Sender(context, self._stopping)
            self._thread = threading.Thread(target=self._run, args=(self.sender,), name="sender-0")
            self._thread.start()
            return
        self.process = SPAWN.Process(target=self.target, args=(context, self.hosts, self.name_server))
        self.process.start()

    def _run(self, sender: Sender) -> None:
        try:
            self.code = sender.run()
        except BaseException as error:
            self.defect = error  # raised where the test waits
        finally:
            sender.close()

    def stop(self) -> int:
        """TERM; its exit code."""
        if self._thread is not None and self._stopping is not None:
            self._stopping.set()
            if self.sender is not None and self.defect is None:
                os.write(self.sender._wake_write, b".")
            self._thread.join(30)
            assert not self._thread.is_alive(), "the sender does not stop"
            self._thread = self._stopping = self.sender = None
            if self.defect is not None:
                raise self.defect
            return self.code
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

    def open_ids(self) -> list[str]:
        """The ids of the events in batches that were not acked, and of the letters that wait: from the files."""
        found = [letter.sls_id for letter in self.dead()]
        for pull in outside.pulls(self.spool.directory):
            head = id_head(pull.key.project, pull.key.logstore, pull.key.shard)
            for place, group in enumerate(parse_list(pull.body)):
                found += [f"{head}{pull.begin + place}-{row}" for row in range(count_logs(group))]
        return found

    def turns_a_second(self, seconds: int = 3) -> int:
        """The most that the loop of a sender in a thread turns between two of its reports."""
        assert self.sender is not None
        sender, counts = self.sender, [0]
        turn, tell = sender._turn, sender._tell

        def turned() -> None:
            counts[-1] += 1
            turn()

        def told() -> None:
            counts.append(0)
            tell()

        sender._turn, sender._tell = turned, told  # type: ignore[method-assign]
        poll(lambda: len(counts) > seconds + 1 or self.defect, "seconds go by")
        sender._turn, sender._tell = turn, tell  # type: ignore[method-assign]
        return max(counts[1:-1])

    def rss(self) -> int:
        """Of the process, bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def books(self) -> dict[str, int]:
        """All terms."""
        return self.spool.stats().books

    def assert_books(self, **expected: int) -> None:
        """These terms as given; events and LogGroups balance."""
        books = self.books()
        assert {name: books[name] for name in expected} == expected
        assert books["put"] == books["settled"] + books["waiting"] + books["set_aside"] + books["purged"]
        assert books["decoded"] == books["delivered"] + books["filtered"] + books["buried"]

    def holds(self) -> list[dict[str, Any]]:
        """As the sender reports them; of one in a thread without waiting for its file."""
        if self.sender is not None:
            with self.sender._report._lock:
                return [dict(hold) for hold in self.sender._report._holds.values()]
        from supervisor.status import read_reports

        return [h for r in read_reports(self.spool.run_directory, ["sender-0"]).values() for h in r["holds"]]

    def wait_empty(self, what: str = "the lane is drained", deadline: float = 60) -> None:
        """Until nothing waits."""
        try:
            poll(lambda: self.waiting() == 0 or self.defect, what, deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; holds: {self.holds()}") from None
        if self.defect is not None:
            raise self.defect

    def assert_all_once(self, stored: Counter[str]) -> None:
        """Lost: none; duplicated: none; invented: none."""
        assert stored == Counter(self.expected)

    def assert_none_lost(self, stored: Counter[str]) -> None:
        """Duplicates may be."""
        assert stored.keys() == set(self.expected)

    def remembers(self, name: str) -> str | None:
        """A small fact out of the lane's database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.lane / 'cache.db'}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT value FROM memo WHERE name = ?", (name,)).fetchall()
        return rows[0][0] if rows else None

    def metric(self, name: str, **labels: str) -> float:
        """A counter of the sender's, added up over the labels that are not given."""
        from supervisor.status import read_reports

        if self.sender is not None:
            self.sender._report.write()
        rows = [
            row
            for report in read_reports(self.spool.run_directory, ["sender-0"]).values()
            for row in report["metrics"].get(name, [])
        ]
        return float(sum(value for found, value in rows if labels.items() <= found.items()))

    gauge = metric

    def close(self) -> None:
        """Give it all back."""
        if self._thread is not None:
            self.stop()
        if self.process is not None:
            self.kill()
        self.writer.close()
        self.spool.close()


def run_sender(context: ChildContext, hosts: Path | None, name_server: str) -> None:
    """The child's target."""
    from worker.sender import main

    if hosts is not None:
        use_hosts(hosts, name_server)

    sys.exit(main(context))


def use_hosts(hosts: Path, name_server: str) -> None:
    """This file is /etc/hosts for this process, and this address the only name server."""
    import ctypes

    # A slave, not private: else whatever another test has mounted just now stays mounted here after that test's umount.
    new_namespace, slave, bind = 0x20000, 1 << 19 | 16384, 4096
    resolver = hosts.with_name("resolv.conf")
    resolver.write_text(f"nameserver {name_server}\noptions timeout:1 attempts:1\n")
    libc = ctypes.CDLL(None, use_errno=True)
    calls = [libc.unshare(new_namespace), libc.mount(b"none", b"/", None, slave, None)]
    calls += [
        libc.mount(str(mine).encode(), theirs, None, bind, None)
        for mine, theirs in ((hosts, b"/etc/hosts"), (resolver, b"/etc/resolv.conf"))
    ]
    if any(calls):
        raise OSError(ctypes.get_errno(), "no mount namespace")


@contextlib.contextmanager
def sending(work: Path, urls: list[str], token: str, **options: Any) -> Iterator[Sending]:
    """Closed at the end, whatever happens."""
    made = Sending(work, urls, token, **options)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def quick(urls: list[str], token: str, **options: Any) -> Iterator[Sending]:
    """A sender in a thread, its spool in memory: for what depends on no kill and no disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=where) as work,
        sending(Path(work), urls, token, in_thread=True, **options) as it,
    ):
        yield it
