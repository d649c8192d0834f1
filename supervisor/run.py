"""`supervise`, `consume` and `send` from the settings to the exit code. Errors at the start are two lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

from buffer.errors import SpoolError, SpoolLocked
from buffer.spool import Spool
from supervisor.listener import Listener, PortTaken
from supervisor.logfile import Tee
from supervisor.publish import Publisher
from supervisor.settings import Settings
from supervisor.supervise import Supervisor
from supervisor.systemd import Notifier
from worker import logs
from worker.process import harden

EXIT_IO, EXIT_HELD = 74, 75


def run(settings: Settings, reload: Callable[[], Settings], once: bool = False) -> int:
    """`supervise`: the exit code. Errors at the start are two lines."""
    tee = Tee(settings.log.file) if settings.log.file else None
    try:
        logs.configure("supervisor", settings.log.level)
        harden()
        return _run_on_spool(settings, reload, once, tee)
    finally:
        if tee:
            tee.close()


def _run_on_spool(settings: Settings, reload: Callable[[], Settings], once: bool, tee: Tee | None) -> int:
    notifier = Notifier()
    try:
        spool = Spool.open(settings.spool)
    except SpoolError as error:
        return refuse(error)
    try:
        publisher = Publisher(settings, spool)
        try:
            listener = Listener(settings.status.listen, publisher.shown) if settings.status.listen else None
        except PortTaken as error:
            return complain(error, "another supervisor? `ss -ltnp` tells; set status.listen", EXIT_HELD)
        try:
            if listener:
                publisher.listening = listener.address
            return Supervisor(settings, reload, spool, publisher, notifier, once=once, tee=tee).run()
        except SpoolError as error:
            return refuse(error)
        finally:
            if listener:
                listener.close()
    finally:
        spool.close()


def refuse(error: SpoolError) -> int:
    """The exit code for a spool that cannot be used."""
    return complain(error, error.hint, EXIT_HELD if isinstance(error, SpoolLocked) else EXIT_IO)


def complain(error: object, hint: str, code: int) -> int:
    """Two lines."""
    sys.stderr.write(f"error: {error}\nhint: {hint or 'see docs/operations.md'}\n")
    return code
