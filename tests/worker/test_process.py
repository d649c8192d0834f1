"""A child's end, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What `once` and a stop may still send. The module's last object sends it, when the interpreter has taken the handlers away.
CODE = """
import os, signal, sys
from types import SimpleNamespace
from worker.process import begin, run

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{name}):
        kill(pid, number)

last = Last()
def main(context):
    begin(context)
    return 0
log = SimpleNamespace(level="info", file=None)
sys.exit(run(main, SimpleNamespace(name="sender-0", supervisor_pid=os.getppid(), once=True, settings=SimpleNamespace(log=log))))
"""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_while_a_child_ends_makes_its_end_no_death(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name=name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
