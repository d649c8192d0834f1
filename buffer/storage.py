"""What the rest of the program needs of a queue on disk, and no more: so that another kind of store (segment files, say) could
take the place of diskcache one day. tests/buffer/test_storage.py is the contract that each must pass; `buffer/values.py` has what
goes through it.

Errors are those of `buffer/errors.py`: SpoolFull waits, SpoolBroken stops puts, the others end the process that meets them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from buffer.values import Answer, Batch, DeadLetter, Position, Pull, ShardKey, Tally


class Intake(Protocol):
    """The consumer's side of one queue. One process has it at a time."""

    def put(self, pulls: Sequence[Pull]) -> list[Answer]:
        """Store what is new of them; returns when it would survive a power cut. On any error none is stored."""

    def position(self, key: ShardKey) -> Position | None:
        """How far this queue has a shard."""

    def start_epoch(self, key: ShardKey, epoch: int, checkpoint: int | None) -> None:
        """A new epoch without P: what comes next is stored whatever was put before."""

    def note_checkpoints(self, rows: Mapping[ShardKey, tuple[int, int]]) -> None:
        """Key → (epoch, C), once SLS has acknowledged them."""

    def skip_lost(self, key: ShardKey, epoch: int, cursor: int, source: str, groups: int) -> None:
        """LogGroups that retention took before they were pulled: counted, and passed over."""

    def backlog_age(self) -> float:
        """Seconds since the oldest waiting batch was put; 0 when none waits."""

    def close(self) -> None:
        """Give it back; twice is fine."""


class Outlet(Protocol):
    """The sender's side of one queue. One process has it at a time."""

    def read(self, after: int, limit: int, max_bytes: int) -> list[Batch]:
        """Batches after that id, oldest first, at least one; nothing is removed, and the same may be read again."""

    def ack(
        self, batches: Sequence[Batch], buried: Sequence[DeadLetter] = (), tally: Tally | None = None,
        set_aside: Sequence[tuple[Batch, int, str]] = (),
    ) -> None:  # fmt: skip
        """Done with these, in any order, and these letters are dead or parked: both or neither."""

    def may_bury(self) -> bool:
        """False at a full quota of dead letters: then the queue is not read on."""

    def due(self, limit: int, max_bytes: int) -> list[DeadLetter]:
        """Letters to send now, oldest first."""

    def parked(self) -> dict[str, int]:
        """Hold → letters that wait for it."""

    def oldest_parked(self, hold: str, after: str = "") -> DeadLetter | None:
        """The probe of a hold; with `after`, an id, the oldest of those that stand behind that one."""

    def release(self, hold: str) -> int:
        """The hold has ended: parked becomes due. How many."""

    def settle_dead(self, delivered: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> None:
        """What was sent again: gone, or back with its new state. Both or neither."""

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact over restarts."""

    def recall(self, name: str) -> str | None:
        """A fact that was remembered."""

    def bell(self) -> int:
        """A descriptor that is readable once something was put."""

    def quiet(self) -> None:
        """Forget the rings so far."""

    def close(self) -> None:
        """Give it back; twice is fine."""
