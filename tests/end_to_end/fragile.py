"""`sls-siem supervise` whose children leak when they are told to, and whose patience is short: for the day in minutes.

A file `<spool>/leak-<child>` tells: while it is there, the child grows. All else is the program as it is.
"""

from __future__ import annotations

import os
import threading
import time

from supervisor import child, memory, processes
from worker import putter, reader
from worker.child import ChildContext

#: Seconds: without a beat; between two recyclings.
HANG_TIMEOUT, RECYCLE_EVERY = float(os.environ.get("FRAGILE_HANG_TIMEOUT", "8")), 10.0
STEP = 16 << 20


def leaky(context: ChildContext) -> None:
    """Watch for the file, in a thread of its own."""
    told = context.settings.spool.directory / f"leak-{context.name}"

    def leak() -> None:
        kept: list[bytes] = []
        while True:
            time.sleep(0.1)
            if told.exists() and len(kept) < 128:
                kept.append(b"x" * STEP)

    threading.Thread(target=leak, daemon=True).start()


def consumer_main(context: ChildContext) -> None:
    """The program's own, and the leak."""
    leaky(context)
    putter.SLOW_PUT, putter.PUT_SECONDS = 2.0, float(os.environ.get("FRAGILE_PUT_SECONDS", "120"))
    reader.CALL_SECONDS = float(os.environ.get("FRAGILE_CALL_SECONDS", "150"))
    processes.consumer_main(context)


def sender_main(context: ChildContext) -> None:
    """The program's own, and the leak."""
    leaky(context)
    processes.sender_main(context)


def main() -> None:
    """As `sls-siem`."""
    child.HANG_TIMEOUT, memory.RECYCLE_EVERY = HANG_TIMEOUT, RECYCLE_EVERY
    processes.TARGETS.update(consumer=consumer_main, sender=sender_main)
    from supervisor.__main__ import main as program

    program()


if __name__ == "__main__":
    main()
