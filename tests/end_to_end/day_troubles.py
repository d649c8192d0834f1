"""What goes wrong in a day. Each begins, lasts for a while, and is mended by its own end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.waiting import poll

if TYPE_CHECKING:
    from tests.end_to_end.day import Day

KINDS = ("consumer", "sender")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# what goes wrong


@contextmanager
def child_killed(day: Day) -> Iterator[None]:
    """One of each kind."""
    for kind in KINDS:
        _signal(day.child(kind)[1], signal.SIGKILL)
    yield


@contextmanager
def child_stands_still(day: Day) -> Iterator[None]:
    """One of each kind, sometimes for so long that it counts as hung."""
    pids = [day.child(kind)[1] for kind in KINDS]
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        _signal(pid, signal.SIGCONT)


@contextmanager
def child_leaks(day: Day) -> Iterator[None]:
    name, _ = day.child()
    told = day.house.spool / f"leak-{name}"
    told.touch()
    yield
    told.unlink()


@contextmanager
def supervisor_killed(day: Day) -> Iterator[None]:
    day.kill()
    yield


@contextmanager
def tree_killed(day: Day) -> Iterator[None]:
    day.house.kill_tree()
    day.start()
    yield


@contextmanager
def supervisor_stands_still(day: Day) -> Iterator[None]:
    assert day.house.supervisor is not None
    pid = day.house.supervisor.pid
    _signal(pid, signal.SIGSTOP)
    yield
    _signal(pid, signal.SIGCONT)


@contextmanager
def restarted(day: Day) -> Iterator[None]:
    day.kill(signal.SIGTERM)
    yield


@contextmanager
def reloaded(day: Day) -> Iterator[None]:
    assert day.house.supervisor is not None
    day.house.supervisor.send_signal(signal.SIGHUP)
    yield


@contextmanager
def reloaded_with_a_bad_file(day: Day) -> Iterator[None]:
    assert day.house.supervisor is not None
    good = day.house.config.read_text()
    # One that was started just now and has not read its settings yet would end with them.
    poll(lambda: _takes_hup(day) or _stopped(day), f"it runs; {day.house.tail()}", 60)
    said = day.house.log().count("settings not reloaded")
    try:
        day.house.config.write_text(good.replace("[hec]", "[hce]"))
        day.house.supervisor.send_signal(signal.SIGHUP)
        poll(lambda: day.house.log().count("settings not reloaded") > said or _stopped(day), "it is said", 60, 0.1)
    finally:
        day.house.config.write_text(good)
    yield


def _takes_hup(day: Day) -> bool:
    """It has a handler, and nothing is blocked any more: from the kernel."""
    assert day.house.supervisor is not None
    stat = Path(f"/proc/{day.house.supervisor.pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in stat.splitlines())
    return bool((int(lines["SigCgt"], 16) & ~int(lines["SigBlk"], 16)) >> (signal.SIGHUP - 1) & 1)


def _stopped(day: Day) -> bool:
    """By another disturbance: then it reads the file when that is over, and finds it well."""
    assert day.house.supervisor is not None
    stat = Path(f"/proc/{day.house.supervisor.pid}/stat").read_text()
    return stat.rsplit(")", 1)[1].split()[0] in "TZ"


@contextmanager
def disk_full(day: Day) -> Iterator[None]:
    """To the last byte."""
    if day.disk is None:
        yield
        return
    blob = day.disk / "somebody-else's"
    with blob.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    yield
    blob.unlink()


@contextmanager
def splunk_away(day: Day) -> Iterator[None]:
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"status": 403, "code": 4},
        {"drop": True},
        {"status": 200, "body": "<html>proxy</html>"},
    )
    how = day.chance.choice(kinds)
    day.house.hec.post("outage", on=True, **how)
    yield
    day.house.hec.post("outage", on=False)


@contextmanager
def sls_in_trouble(day: Day) -> Iterator[None]:
    day.house.sls.send("faults", [
        {"kind": "status", "probability": 0.2}, {"kind": "drop", "probability": 0.1}, {"kind": "drop_after", "probability": 0.1},
        # No flipped bits: what TLS keeps off, lz4 does not find, and it ends as it should, set aside or as another text.
        {"kind": "truncate", "operation": "pull", "probability": 0.1},
        {"kind": "wrong_size", "operation": "pull", "probability": 0.1},
    ])  # fmt: skip
    day.house.sls.post("drop_connections")
    yield
    day.house.sls.send("faults", None, "DELETE")


@contextmanager
def clock_stepped(day: Day) -> Iterator[None]:
    """Within what SLS bears (15 minutes), and beyond."""
    day.clock.step(day.chance.choice((-86400, -3600, -600, -30, 30, 600, 3600, 86400 * 40)))
    yield
    day.clock.step(0)


DISTURBANCES: dict[str, Callable[[Day], AbstractContextManager[None]]] = {
    one.__name__: one
    for one in (
        child_killed, child_stands_still, child_leaks, supervisor_killed, tree_killed, supervisor_stands_still, restarted,
        reloaded, reloaded_with_a_bad_file, disk_full, splunk_away, sls_in_trouble, clock_stepped,
    )
}  # fmt: skip
