"""Children for the supervisor's tests: each writes its life into a file that the test reads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from worker.child import ChildContext
from worker.process import Stopping, begin, trim_memory

#: Bytes of the whole tree: of the 192 MiB that are allowed it, more than 85 % and less than 95 %.
BURST = 176 << 20


def _note(context: ChildContext, word: str) -> None:
    file = os.open(os.environ["CHILDREN_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{context.name} {os.getpid()} {word}\n".encode())
    os.close(file)


def well(context: ChildContext) -> None:
    """Beats, and drains on TERM."""
    _work(context, begin(context))


def _work(context: ChildContext, stopping: Stopping) -> None:
    _note(context, "begun")
    while not stopping.wait(0.1):
        context.board.beat(context.index)
    _note(context, "drained")


def dies(context: ChildContext) -> None:
    """At once."""
    begin(context)
    sys.exit(3)


def wrong_settings(context: ChildContext) -> None:
    """As a child that cannot use its settings."""
    begin(context)
    sys.exit(78)


def flaps(context: ChildContext) -> None:
    """Beats once, and dies."""
    begin(context)
    context.board.beat(context.index)
    sys.exit(3)


def damaged(context: ChildContext) -> None:
    """Says again and again that its lane is to be rebuilt."""
    begin(context)
    _note(context, "begun")
    sys.exit(65)


def hangs(context: ChildContext) -> None:
    """Beats once and never again, with a thread beside it."""
    begin(context)
    _note(context, "begun")
    threading.Thread(target=waits_beside, daemon=True).start()
    context.board.beat(context.index)
    while True:
        time.sleep(60)


def waits_beside() -> None:
    """For nothing."""
    threading.Event().wait()


def stubborn(context: ChildContext) -> None:
    """Beats, and does not care for TERM."""
    begin(context)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _note(context, "begun")
    while True:
        context.board.beat(context.index)
        time.sleep(0.1)


def slow_boot(context: ChildContext) -> None:
    """Takes its time before the first beat."""
    stopping = begin(context)
    stopping.wait(1.0)
    _work(context, stopping)


def leaks(context: ChildContext) -> None:
    """A quarter of the budget more each turn, in slot 0."""
    stopping = begin(context)
    _note(context, "begun")
    kept: list[bytes] = []
    while not stopping.wait(0.1):
        context.board.beat(context.index)
        if context.slot == 0 and len(kept) < 8:
            kept.append(b"x" * (110 << 20))
    _note(context, "drained")


def real_consumer(context: ChildContext) -> None:
    """The program's own."""
    from supervisor.processes import consumer_main

    consumer_main(context)


def balloon(context: ChildContext) -> None:
    """While the file `blow` is there, larger by the turn until pulling has to stop; without it, small again. It looks for itself
    how large the tree is: the supervisor may stand still meanwhile.
    """
    from supervisor.memory import usage

    stopping = begin(context)
    _note(context, "begun")
    blow = context.run_directory.parent.parent / "blow"
    kept: list[bytes] = []
    while not stopping.wait(0.1):
        context.board.beat(context.index)
        if not blow.exists():
            kept.clear()
            trim_memory()
        elif context.board.memory_level < 2 and sum(usage(_tree(context.supervisor_pid)).values()) < BURST:
            kept.append(b"x" * (1 << 20))


def _tree(supervisor: int) -> list[int]:
    return [supervisor, *map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())]
