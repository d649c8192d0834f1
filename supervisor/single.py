"""One child alone, in this process: `consume` and `send`, hidden commands for a debugger.

It takes the spool's lock as a supervisor does, so it never runs beside one. Nothing restarts it or watches its memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from buffer.errors import SpoolError
from buffer.spool import Spool
from supervisor import memory
from supervisor.run import refuse
from supervisor.settings import Settings
from worker import logs
from worker.board import Board
from worker.child import ChildContext


def run_one(settings: Settings, kind: str, slot: int, *, once: bool) -> int:
    """Until TERM, Ctrl-C or, with `once`, all is read or sent; the exit code. Exceptions reach the debugger."""
    logs.configure(f"{kind}-{slot}", settings.log.level)
    try:
        spool = Spool.open(settings.spool)
    except SpoolError as error:
        return refuse(error)
    try:
        spool.recover()
        return _main(kind)(_context(settings, spool, kind, slot, once=once))
    except SpoolError as error:
        return refuse(error)
    finally:
        spool.close()


def _main(kind: str) -> Callable[[ChildContext], int]:
    if kind == "consumer":
        from worker.consumer import main as consume

        return consume
    from worker.sender import main as send

    return send


def _context(settings: Settings, spool: Spool, kind: str, slot: int, *, once: bool) -> ChildContext:
    consumers, senders = settings.supervisor.workers, settings.supervisor.senders
    budget = memory.budget(settings.memory.budget)
    return ChildContext(
        kind=kind, slot=slot, index=0, consumers=consumers, senders=senders, spool_id=spool.id,
        run_directory=spool.run_directory, boot=f"{os.getpid()}-alone", supervisor_pid=0,
        max_in_flight_bytes=memory.in_flight_bytes(budget, consumers + senders),
        board=Board(1), settings=settings.for_children(), once=once,
    )  # fmt: skip
