"""Looking through the spool before anyone opens a lane: at the start, and when a child says that its index is damaged.

It can take long (each body of a lost index is read), so at every step systemd is told that we live, and a signal ends it:
what is half done is begun again at the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from buffer.spool import Spool
from supervisor.systemd import Notifier
from worker import logs

log = logs.get_logger()
#: Seconds of patience that systemd is asked for, over and over, and between two askings.
PATIENCE, ASK_EVERY = 60, 1.0


class Interrupted(Exception):
    """Somebody wants the supervisor to stop."""


class Recovery:
    """`tell` is called about once a second with how long it has gone on: for the status and the health page."""

    def __init__(
        self, spool: Spool, notifier: Notifier, interrupted: Callable[[], bool], tell: Callable[[], None]
    ) -> None:
        self._spool, self._notifier, self._interrupted, self._tell = spool, notifier, interrupted, tell
        self._told_at = 0.0
        self.wanted = False
        """A child's lane is damaged: nobody is started until it is rebuilt."""

    def run(self) -> bool:
        """Sweep and rebuild. False: it was cut short. Raises SpoolError."""
        self.wanted = False
        self._told_at = 0.0
        try:
            self._beat()
            for fault in self._spool.recover(self._beat):
                log.error("recovered", lane=fault.lane, what=fault.what)
        except Interrupted:
            log.warning("asked to stop while looking through the spool")
            return False
        return True

    def _beat(self) -> None:
        if self._interrupted():
            raise Interrupted
        now = time.monotonic()
        if now - self._told_at >= ASK_EVERY:
            self._told_at = now
            self._notifier.send(
                f"EXTEND_TIMEOUT_USEC={PATIENCE}000000", "WATCHDOG=1", "STATUS=looking through the spool"
            )
            self._tell()
