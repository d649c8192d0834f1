"""New logs at a steady rate, as a living service has them; and the same ones again and again, which cost no memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING

from tests.emulators.generator import Generator
from tests.emulators.generator_wire import frame
from tests.emulators.sls_store import Logstore

if TYPE_CHECKING:
    from tests.emulators.sls import SlsEmulator

#: seconds between two appends
STEP = 0.1


class Pool:
    """Generated LogGroups that are stored by reference, over and over: hours of load in as little memory as they take once."""

    def __init__(self, raw_bytes: int) -> None:
        self._made = [(frame(one.data), one.logs) for one in Generator().groups(max_bytes=raw_bytes)]
        self._turn = cycle(self._made)
        self.bytes = sum(len(framed) for framed, _ in self._made)
        self.logs = 0
        """That were taken."""

    def take(self, logs: int) -> Iterator[bytes]:
        """Framed LogGroups until there are as many logs."""
        before = self.logs
        while self.logs - before < logs:
            framed, held = next(self._turn)
            self.logs += held
            yield framed

    def all(self) -> list[bytes]:
        """Each of them."""
        self.logs += sum(held for _, held in self._made)
        return [framed for framed, _ in self._made]


class Feeder:
    """One thread that appends generated logs; behind a stall it catches up."""

    def __init__(self, sls: SlsEmulator) -> None:
        self._sls = sls
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(
        self, logs_per_second: float, store: Logstore, shard: int | None = None, pool: Pool | None = None
    ) -> None:
        """From `pool`, or made anew."""
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, args=(logs_per_second, store, shard, pool), daemon=True, name="sls-feed"
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None

    def _run(self, logs_per_second: float, store: Logstore, shard: int | None, pool: Pool | None) -> None:
        started, made = time.monotonic(), 0
        while not self._stopping.wait(STEP):
            due = int((time.monotonic() - started) * logs_per_second) - made
            if due > 0:
                if pool is None:
                    self._sls.fill(due, shard=shard, store=store)
                    made += due
                else:
                    before = pool.logs
                    self._sls.store_framed(list(pool.take(due)), shard, store=store, border=False)
                    made += pool.logs - before
