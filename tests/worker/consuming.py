"""A consumer as a real process against an emulator of SLS, and what its lanes hold as the witness."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Batch, Pull
from tests.emulators.sls import SlsEmulator
from tests.waiting import poll
from worker.board import Board
from worker.child import ChildContext
from worker.settings import HecSettings, LogSettings, SourceSettings, WorkerSettings
from worker.verify import decompress

_SPAWN = multiprocessing.get_context("spawn")
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["worker.consumer", "tests.worker.consuming"])


def parent_of_consumers() -> int:
    """The fork server has the SDK imported already, which else costs each start a second of CPU."""
    forkserver.ensure_running()
    pid: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def run_consumer(context: ChildContext) -> None:
    from worker.consumer import main

    sys.exit(main(context))


def source_of(sls: SlsEmulator, **changes: Any) -> SourceSettings:
    """Its time-out is one that no machine stands still for: with a short one calls are given up, and shards given away."""
    made = SourceSettings(
        name="audit", project=sls.project, logstore=sls.logstore, endpoint=sls.endpoint, consumer_group="siem",
        start="begin", access_key_id="ak", access_key_secret="sk", heartbeat_interval=0.3, consumer_timeout=30.0,
        ca_file=sls.ca_file if sls.tls else None,
    )  # fmt: skip
    return replace(made, **changes)


class House:
    """A spool, a board, and consumers by slot: the supervisor's part."""

    def __init__(
        self, directory: Path, *sources: SourceSettings, consumers: int = 1, once: bool = False, boot: str = "boot",
        checkpoint: Any = "spooled", in_flight: int = 64 << 20, spawn: bool = False,
    ) -> None:  # fmt: skip
        settings = SpoolSettings(directory=directory, min_free_bytes=1 << 20, force_file_system=True)
        self.spool = Spool.open(settings)
        self.settings = settings
        self.board = Board(consumers)
        self._make: Any = _SPAWN if spawn else _FORKSERVER
        parent = os.getpid() if spawn else parent_of_consumers()
        self.context = ChildContext(
            kind="consumer", slot=0, index=0, consumers=consumers, senders=1, spool_id=self.spool.id,
            run_directory=self.spool.run_directory, boot=boot, supervisor_pid=parent,
            max_in_flight_bytes=in_flight, board=self.board, once=once,
            settings=WorkerSettings(
                sources=sources, routes=(), hec=HecSettings(urls=()), spool=settings, log=LogSettings(),
                checkpoint=checkpoint,
            ),
        )  # fmt: skip
        self.processes: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
            process.join(10)
        self.spool.close()

    def read(self, *sources: SourceSettings) -> None:
        """From the next start on."""
        self.context = replace(self.context, settings=replace(self.context.settings, sources=sources))

    def start(self, slot: int = 0, **changes: Any) -> None:
        (self.spool.run_directory / f"consumer-{slot}.json").unlink(missing_ok=True)
        self.board.clear_beat(slot)
        context = replace(self.context, slot=slot, index=slot, **changes)
        process = self._make.Process(target=run_consumer, args=(context,), name=f"consumer-{slot}")
        process.start()
        self.processes[slot] = process

    def kill(self, slot: int = 0) -> None:
        self.processes[slot].kill()
        self.processes[slot].join(10)

    def stop(self, slot: int = 0, deadline: float = 20) -> int:
        poll(lambda: self.board.last_beat(slot), "a first beat: the handlers are there")
        os.kill(self.processes[slot].pid, signal.SIGTERM)
        return self.wait(slot, deadline)

    def wait(self, slot: int = 0, deadline: float = 60) -> int:
        process = self.processes[slot]
        process.join(deadline)
        assert process.exitcode is not None, f"consumer-{slot} still runs after {deadline} s"
        return int(process.exitcode)

    def report(self, slot: int = 0) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.spool.run_directory / f"consumer-{slot}.json").read_text())
        except FileNotFoundError:
            return {"holds": [], "facts": {"shards": []}, "metrics": {}, "histograms": {}}
        return found

    def decided(self) -> dict[str, Any]:
        """Source -> its slots, in the order in which they were given."""
        found: dict[str, Any] = json.loads((self.spool.run_directory / "slots.json").read_text())["sources"]
        return found

    def turns(self, times: int, slot: int = 0) -> None:
        """The consumer has said so many times how it stands, once a second: what it would do by itself it has done."""
        for _ in range(times + 1):
            before = self.report(slot).get("time")
            poll(lambda: self.report(slot).get("time") != before, "it reports")  # noqa: B023

    def hold(self, slot: int = 0, kind: str = "source") -> dict[str, Any] | None:
        return next((one for one in self.report(slot)["holds"] if one["kind"] == kind), None)

    def batches(self, slot: int = 0) -> list[Batch]:
        directory = lane_directory(self.settings.directory, self.spool.id, slot)
        if not (directory / "cache.db").exists():
            return []
        reader = LaneReader.open(directory, self.settings)
        try:
            found: list[Batch] = []
            while more := reader.read(found[-1].id if found else 0, 1000, 1 << 40):
                found += more
            return found
        finally:
            reader.close()

    def pulls(self) -> list[Pull]:
        return [pull for slot in range(self.context.consumers) for batch in self.batches(slot) for pull in batch.pulls]

    def groups(self) -> Counter[tuple[int, int]]:
        """(shard, cursor) -> how often it is in the spool; not for sparse pulls."""
        return Counter((pull.key.shard, at) for pull in self.pulls() for at in range(pull.begin, pull.next))

    def wait_drained(self, sls: SlsEmulator, deadline: float = 40) -> None:
        poll(lambda: sls.drained("siem"), "every checkpoint at its end", deadline)


def stored(sls: SlsEmulator) -> Counter[tuple[int, int]]:
    """(shard, cursor) of everything the emulator ever stored."""
    return Counter((n, at) for n, shard in sls.store().shards.items() for at in range(shard.first, shard.end))


def body_of(pull: Pull) -> bytes:
    return decompress(pull.body, pull.codec, pull.raw_size)


def peak_memory(pid: int) -> int:
    """Bytes that a process ever had resident."""
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) << 10
