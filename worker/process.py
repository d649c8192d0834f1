"""What every child does first, in this order, and what it must not forget.

1. Die with the supervisor: a child that outlives it would run beside its replacement under the same name.
2. Print every thread's stack on SIGABRT, so that a hung child says where it hangs.
3. Handlers, and only then unblock the signals that the supervisor blocked over our birth.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from worker import logs
from worker.child import ChildContext

log = logs.get_logger()
EXIT_DEFECT = 70
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
#: What the supervisor blocks while a child is born.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: glibc gives memory back badly when megabytes come and go; with the first three a child is 1.4 to 3.5 times faster. With
#: one arena malloc_trim gives back the end of the heap too: in an arena of a thread's own it stays taken for ever.
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "1",
}


#: Seconds without work until freed memory is given back; and between two times while the memory level is not 0.
TRIM_AFTER = 5.0


class Stopping:
    """Set by TERM; threads and loops wait on it instead of sleeping.

    Over an eventfd and not a threading.Event: a handler that sets an Event while its own thread is inside the Event's
    lock waits for itself, for ever.
    """

    def __init__(self) -> None:
        self._asked = False
        self._file = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.consumers_done = False
        """Set by USR1 in `--once`: no consumer lives, so empty lanes stay empty."""

    def set(self) -> None:
        """Ask to stop. Allowed in a handler."""
        if not self._asked:
            self._asked = True
            os.eventfd_write(self._file, 1)

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake at once when asked to stop; True then."""
        if not self._asked:
            waiting = select.poll()
            waiting.register(self._file, select.POLLIN)  # never read: it wakes every thread
            waiting.poll(max(0.0, seconds) * 1000)
        return self._asked


def begin(context: ChildContext) -> Stopping:
    """Call before anything else."""
    alone = not context.supervisor_pid
    if not alone:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != context.supervisor_pid:
            os._exit(0)
    faulthandler.enable()
    stopping = Stopping()
    stopping.consumers_done = alone and context.once

    def on_term(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    def on_usr1(_number: int, _frame: FrameType | None) -> None:
        stopping.consumers_done = True

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGUSR1, on_usr1)
    signal.signal(signal.SIGINT, on_term if alone else signal.SIG_IGN)  # Ctrl-C is for the supervisor
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    name_process(f"sls-siem: {context.name}")
    harden()
    logs.configure(context.name, context.settings.log.level)
    return stopping


def run(main: Callable[[ChildContext], int], context: ChildContext) -> int:
    """The outermost line of a child: a defect is one line with its stack, and never exit 0."""
    try:
        return main(context)
    except Exception as error:
        log.critical("defect", exc_info=error)
        return EXIT_DEFECT
    finally:
        # Python's end gives signals their defaults back: one that comes then would make a clean end a death.
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End a process whose work is done, without waiting for its threads: the interpreter would join one that waits for an answer
    of Splunk's, or for a name, until its time-out. Nothing is lost by it: what counts is on disk before."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def harden() -> None:
    """As many descriptors as we may have; no core dump, which would hold secrets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def name_process(title: str) -> None:
    """For ps: the whole title where the kernel lets us, else the short name."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_NAME, title.removeprefix("sls-siem: ").encode()[:15], 0, 0, 0)
    with contextlib.suppress(OSError, ValueError, IndexError):
        _overwrite_arguments(title)


def _overwrite_arguments(title: str) -> None:
    """Write over argv's memory, whose place the kernel tells in /proc/self/stat (fields 48 and 49)."""
    with open("/proc/self/stat", encoding="latin-1") as stat:  # noqa: PTH123 - one read
        fields = stat.read().rsplit(")", 1)[1].split()
    start, end = int(fields[45]), int(fields[46])
    if not 0 < end - start < 1 << 16:
        return
    data = title.encode()[: end - start - 1].ljust(end - start, b"\0")
    ctypes.memmove(start, data, len(data))


class Trimmer:
    """When freed memory goes back to the kernel: at every change of the memory level, every few seconds while it is not 0,
    and once when work has ended: a backlog that was drained leaves tens of megabytes in each child, which malloc keeps."""

    def __init__(self) -> None:
        self._level = 0
        self._next = 0.0
        self._worked = False
        self._busy_at = 0.0

    def look(self, level: int, *, busy: bool, now: float) -> bool:
        """Whether to trim now. `busy`: there is work in hand; `now` is monotonic."""
        if busy:
            self._worked, self._busy_at = True, now
        ended = self._worked and now - self._busy_at >= TRIM_AFTER
        due = level != self._level or (level > 0 and now >= self._next) or ended
        if due:
            self._level, self._next = level, now + TRIM_AFTER
            self._worked = self._worked and not ended
        return due


def trim_memory() -> None:
    """Give freed memory back to the kernel."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
