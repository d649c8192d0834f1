"""The children's processes: born by spawn from the main thread, with TERM, INT and HUP blocked over their birth."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from worker.child import ChildContext
from worker.process import HANDLED, MALLOC, leave, run

Target = Callable[[ChildContext], None]


def consumer_main(context: ChildContext) -> None:
    """Where a consumer's process begins."""
    from worker.consumer import main

    leave(run(main, context))


def sender_main(context: ChildContext) -> None:
    """Where a sender's process begins."""
    from worker.sender import main

    leave(run(main, context))


TARGETS: dict[str, Target] = {"consumer": consumer_main, "sender": sender_main}


class Processes:
    """By the child's index. Signals go only to processes that were not reaped: a pid is not used again before that."""

    def __init__(self, targets: dict[str, Target] | None = None) -> None:
        self._targets = targets or TARGETS
        self._spawn = multiprocessing.get_context("spawn")
        self._living: dict[int, Any] = {}

    def prepare(self) -> None:
        """Before the first birth. The tracker's own first start unblocks the signals that are blocked (CPython gh-127586)."""
        os.environ.update(MALLOC)
        resource_tracker.ensure_running()

    def start(self, index: int, context: ChildContext) -> int:
        """Its pid. Raises OSError when the machine has no process, descriptor or memory left."""
        process = self._spawn.Process(
            target=self._targets[context.kind], args=(context,), name=context.name, daemon=False
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        self._living[index] = process
        return process.pid or 0

    @property
    def sentinels(self) -> list[int]:
        """One for each living process; readable when it has ended."""
        return [process.sentinel for process in self._living.values()]

    def signal(self, index: int, number: int) -> None:
        """To one of them; it may have ended just now."""
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(self._living[index].pid, number)

    def kill_all(self) -> None:
        """-9."""
        for index in list(self._living):
            self.signal(index, signal.SIGKILL)

    def reap(self) -> list[tuple[int, int]]:
        """(index, exit code) of those that have ended since."""
        ended = []
        for index, process in list(self._living.items()):
            if not process.is_alive():
                process.join()
                ended.append((index, process.exitcode))
                process.close()
                del self._living[index]
        return ended
