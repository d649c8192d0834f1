"""What a child is told at birth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.board import Board
from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildContext:
    """Plain data for one child: pickled to it by spawn, never changed after."""

    kind: str
    """`consumer` or `sender`."""
    slot: int
    """Kept over restarts: consumer-0 … N-1, sender-0 … M-1."""
    index: int
    """The child's cell on the board."""
    consumers: int
    senders: int
    spool_id: str
    run_directory: Path
    boot: str
    """Names this run of the supervisor (what slots decided in an earlier run does not count)."""
    supervisor_pid: int
    """0: nobody's child, under a debugger."""
    max_in_flight_bytes: int
    """Bytes pulled and not yet put, or read and not yet settled: budget / (4 * children)."""
    board: Board
    settings: WorkerSettings
    once: bool = False
    """`supervise --once`: a consumer ends when every shard it holds is read to the end that it had at start;
    a sender ends when its lanes are empty and no consumer lives (SIGUSR1 from the supervisor says so)."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.slot}"
