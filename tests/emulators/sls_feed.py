"""New logs at a steady rate, as a living service has them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.emulators.sls_store import Logstore

if TYPE_CHECKING:
    from tests.emulators.sls import SlsEmulator

#: seconds between two appends
STEP = 0.1


class Feeder:
    """One thread that appends generated logs; behind a stall it catches up."""

    def __init__(self, sls: SlsEmulator) -> None:
        self._sls = sls
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, logs_per_second: float, store: Logstore, shard: int | None = None) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, args=(logs_per_second, store, shard), daemon=True, name="sls-feed"
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None

    def _run(self, logs_per_second: float, store: Logstore, shard: int | None) -> None:
        started, made = time.monotonic(), 0
        while not self._stopping.wait(STEP):
            due = int((time.monotonic() - started) * logs_per_second) - made
            if due > 0:
                self._sls.fill(due, shard=shard, store=store)
                made += due
