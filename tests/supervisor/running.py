"""One supervisor process with small children, and what a test asks about it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]

#: A supervisor whose children are the functions of tests/supervisor/children.py.
PROGRAM = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))  # as sls-siem does
import importlib, sys, threading
from pathlib import Path
from buffer.settings import SpoolSettings
from buffer.spool import Spool
from supervisor import child
from supervisor.config import load
from supervisor.publish import Publisher
from supervisor.supervise import Supervisor
from supervisor.systemd import Notifier
from tests.supervisor import children
from worker import logs

work, consumer, sender = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for change in sys.argv[4:]:
    name, _, value = change.partition("=")
    module, _, name = name.rpartition(".")
    setattr(importlib.import_module(module) if module else child, name, float(value))
logs.configure("supervisor")
settings = load(work / "sls-siem.toml", environment={"HOME": str(work)})
spool = Spool.open(settings.spool)
targets = {"consumer": getattr(children, consumer), "sender": getattr(children, sender)}
def reload():
    return load(work / "sls-siem.toml", environment={"HOME": str(work)})
class Buggy(Supervisor):
    def _handle_signals(self):
        if (work / "bug").exists():
            raise RuntimeError("a bug in the loop")
        if (work / "hang").exists():
            (work / "hang").unlink()
            threading.Event().wait()
        super()._handle_signals()
sys.exit(Buggy(settings, reload, spool, Publisher(settings, spool), Notifier(), targets=targets).run())
"""
SETTINGS = """
[supervisor]
workers = 2
senders = 1
stop_timeout = "30s"
[memory]
budget = "1GiB"
[[source]]
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:1"
consumer_group = "g"
start = "begin"
access_key_id = "a"
access_key_secret = "b"
[hec]
urls = ["http://127.0.0.1:1"]
token = "t"
[spool]
directory = "{work}/spool"
min_free_bytes = "1MiB"
"""


class Running:
    """One supervisor process."""

    def __init__(
        self, work: Path, consumer: str = "well", sender: str = "well", *changes: str, settings: str = SETTINGS,
        environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.work = work
        (work / "sls-siem.toml").write_text(settings.format(work=work))
        self.log = work / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(work), consumer, sender, *changes],
                cwd=ROOT, stderr=log, stdout=log, start_new_session=True,
                env=os.environ | {"CHILDREN_LOG": str(work / "lives")} | (environment or {}),
            )  # fmt: skip

    def children(self) -> list[int]:
        """From the kernel; multiprocessing's resource tracker is none of ours."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in task.read_text().split():
                with contextlib.suppress(OSError):
                    if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(int(pid))
        return found

    def lives(self) -> list[list[str]]:
        """What the children wrote: name, pid, word."""
        path = self.work / "lives"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def said(self, what: str) -> bool:
        """Whether the log has it."""
        return what in self.log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Of the log, those with that event."""
        whole = self.log.read_text().rpartition("\n")[0]  # the last may be being written
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def wait_running(self, count: int = 3) -> list[int]:
        """Until so many children have begun."""
        poll(
            lambda: len({n for n, _, w in self.lives() if w == "begun"}) >= count,
            "children begin",
            60,
        )
        return self.children()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def make_end(self) -> None:
        """Whatever has become of it."""
        for pid in [self.process.pid, *self.children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


def gone(pids: list[int]) -> bool:
    """From the kernel: neither running nor stopped; a zombie is gone."""
    return all(_is_gone(pid) for pid in pids)


def _is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except OSError:
        return True


def heeds_signals(pid: int) -> bool:
    """TERM is blocked until there is a handler, or has one: from the kernel."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(lines["SigBlk"], 16) | int(lines["SigCgt"], 16)) >> (signal.SIGTERM - 1) & 1)
