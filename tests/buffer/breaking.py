"""Plays a scene of `stage` under strace: traced, killed before its n-th system call, or with errors injected."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import poll

#: Every system call by which the spool changes something on disk.
WRITE_CLASS = (
    "openat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "unlink", "unlinkat", "rename",
    "renameat", "renameat2", "mkdir", "mkdirat", "link", "linkat", "mknodat", "sendfile", "copy_file_range",
)  # fmt: skip
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")


@dataclass(frozen=True, slots=True)
class Point:
    """The n-th call of that name."""

    call: str
    number: int


class Stage:
    """A `stage` process, and directories for its scenes."""

    def __init__(self, mode: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sls-siem-stage-", dir="/dev/shm"))
        self._log = (self.home / "log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.buffer.stage", mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def points(self, scene: str) -> list[Point]:
        """Every write-class call that the scene makes, in order; of openat only those that create."""
        out = self.home / "trace"
        self.play(scene, "-o", str(out), "-e", f"trace={','.join(WRITE_CLASS)}")
        counts: Counter[str] = Counter()
        found = []
        for matched in map(_LINE.match, out.read_text().splitlines()):
            if matched and matched[1] in WRITE_CLASS:
                counts[matched[1]] += 1
                if matched[1] != "openat" or "O_CREAT" in matched[2]:
                    found.append(Point(matched[1], counts[matched[1]]))
        return found

    def kill(self, scene: str, point: Point) -> tuple[int, list[str]]:
        """SIGKILL before that call: how the process ended, and what is not as promised afterwards."""
        return self.play(scene, "-e", f"inject={point.call}:signal=SIGKILL:when={point.number}")

    def fail(self, scene: str, call: str, error: str, when: str) -> tuple[int, list[str]]:
        """That call fails, as `when` says in strace's words; how the process ended, and what is not as promised."""
        return self.play(scene, "-e", f"inject={call}:error={error}:when={when}")

    def play(self, scene: str, *options: str) -> tuple[int, list[str]]:
        """The scene under strace with these options: how its process ended, and what is not as promised."""
        self._number += 1
        directory = self.home / str(self._number)
        directory.mkdir()
        answer, child = self._ask("prepare", scene, directory).split()
        assert answer == "ready", self.log()
        with self._strace(int(child), options):
            status = int(self._ask("go").split()[1])
        found: list[str] = json.loads(self._ask("check", scene, directory))
        shutil.rmtree(directory)
        return status, found

    def log(self) -> str:
        """What the processes said."""
        self._log.seek(0)
        return self._log.read()[-4000:]

    def _strace(self, child: int, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        if "-o" not in options:
            options = ("-o", "/dev/null", *options)
        strace = subprocess.Popen(["strace", "-f", "-qq", "-p", str(child), *options])
        status = Path(f"/proc/{child}/status")
        poll(
            lambda: "TracerPid:\t0\n" not in status.read_text() or strace.poll() is not None,
            "strace holds it",
            30,
            0.001,
        )
        assert strace.poll() is None, "strace could not attach"
        return strace

    def _ask(self, *words: object) -> str:
        assert self._process.stdin
        assert self._process.stdout
        print(*words, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, self.log()
        return answer


def can_trace() -> bool:
    """Whether strace is here and may attach."""
    return shutil.which("strace") is not None and os.geteuid() == 0
