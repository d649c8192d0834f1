"""One shared array between the supervisor and its children: numbers up, levels down, one writer per cell.

No lock: a double is written in one store, and a torn read is not possible on the machines we run on. It survives
`kill -9` of anyone, which multiprocessing's locks and queues do not (facts: Event.set hung in 8 of 12 after a kill).
"""

from __future__ import annotations

import multiprocessing
import time
from ctypes import Array, c_double
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")
_MEMORY, _SPOOL, _LETTERS, _FIRST_CHILD = 0, 1, 2, 3


class Board:
    """Levels for all, a heartbeat for each child. Built by the supervisor, handed to every child."""

    def __init__(self, children: int) -> None:
        self._cells: Array[c_double] = _SPAWN.RawArray(c_double, _FIRST_CHILD + children)

    def beat(self, index: int) -> None:
        """The child at `index` made progress, or waits for something known."""
        self._cells[_FIRST_CHILD + index] = time.monotonic()

    def last_beat(self, index: int) -> float:
        """Monotonic seconds of the last beat; 0.0 before the first."""
        return float(self._cells[_FIRST_CHILD + index])

    def clear_beat(self, index: int) -> None:
        """Before a child is started anew."""
        self._cells[_FIRST_CHILD + index] = 0.0

    @property
    def memory_level(self) -> int:
        """0 to 3, at 70, 85 and 95 % of the budget."""
        return int(self._cells[_MEMORY])

    @memory_level.setter
    def memory_level(self, level: int) -> None:
        self._cells[_MEMORY] = level

    @property
    def spool_level(self) -> int:
        """0: pull; 1: stop pulling."""
        return int(self._cells[_SPOOL])

    @spool_level.setter
    def spool_level(self, level: int) -> None:
        self._cells[_SPOOL] = level

    @property
    def letters_level(self) -> int:
        """0: bury; 1: the dead letters of all lanes together have reached their quota, and no lane is read on."""
        return int(self._cells[_LETTERS])

    @letters_level.setter
    def letters_level(self, level: int) -> None:
        self._cells[_LETTERS] = level

    def __reduce__(self) -> Any:
        return _restore, (self._cells,)


def _restore(cells: Any) -> Board:
    board = Board.__new__(Board)
    board._cells = cells  # noqa: SLF001 - our own
    return board
