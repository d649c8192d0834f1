"""The whole house, as a user runs it: both emulators as processes, and `sls-siem supervise` between them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "supervisor"]


class Remote:
    """An emulator in a process of its own, spoken to over HTTP."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        with log.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=err, text=True
            )
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{module} did not start: {log.read_text()[-2000:]}")
        self.ready: dict[str, Any] = json.loads(line)
        self.port = int(self.ready["port"])

    def get(self, what: str) -> Any:
        """GET /_control/<what>, JSON."""
        return json.loads(self.text(what))

    def text(self, what: str) -> str:
        """GET /_control/<what>, as it comes."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_control/{what}", timeout=60) as answer:
            found: bytes = answer.read()
        return found.decode()

    def post(self, what: str, **given: Any) -> Any:
        """POST /_control/<what>."""
        return self.send(what, given)

    def send(self, what: str, given: Any, method: str = "POST") -> Any:
        """Any method, any JSON."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/_control/{what}", data=json.dumps(given).encode(), method=method
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.loads(answer.read() or b"null")

    def stop(self) -> None:
        """TERM, and wait."""
        self.process.terminate()
        self.process.wait(timeout=30)
        if self.process.stdout:
            self.process.stdout.close()


@dataclass
class House:
    """One supervisor between two emulators, on a directory of its own."""

    work: Path
    shards: int = 8
    consumers: int = 2
    senders: int = 2
    sls_options: tuple[str, ...] = ()
    hec_options: tuple[str, ...] = ()
    hec_module: str = "tests.emulators.hec"
    toml: str = ""
    """Added at the end of the settings."""
    hec_toml: str = ""
    source_toml: str = ""
    heartbeat: str = 'heartbeat_interval = "1s"\nconsumer_timeout = "6s"'
    """Empty: the defaults, with which shards change hands later."""
    prefix: tuple[str, ...] = ()
    """A command in front of `sls-siem supervise`: a cgroup."""
    program: tuple[str, ...] = tuple(PROGRAM)
    """In place of `sls-siem`."""
    variables: dict[str, str] = field(default_factory=dict)
    """Added to the supervisor's environment."""
    more_environment: dict[str, str] = field(default_factory=dict)
    supervisor: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True, exist_ok=True)
        self.sls = Remote(
            "tests.emulators.sls", "--shards", str(self.shards), *self.sls_options, log=self.work / "sls.log"
        )
        self.hec = Remote(self.hec_module, *self.hec_options, log=self.work / "hec.log")
        self.config = self.work / "sls-siem.toml"
        self.configure()
        return self

    @property
    def spool(self) -> Path:
        """Its directory, or a link to it."""
        return self.work / "spool"

    def configure(self) -> None:
        """Write the settings anew."""
        self.config.write_text(self.settings())
        self.config.chmod(0o600)

    def settings(self) -> str:
        """As a user would write them."""
        return f"""
[supervisor]
workers = {self.consumers}
senders = {self.senders}
[memory]
budget = "2GiB"
[[source]]
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:{self.sls.port}"
consumer_group = "g"
start = "begin"
access_key_id = "ak"
access_key_secret = "sk"
{self.heartbeat}
{self.source_toml}
[hec]
urls = ["http://127.0.0.1:{self.hec.port}"]
token = "{self.hec.ready["token"]}"
{self.hec_toml}
[spool]
directory = "{self.spool}"
min_free_bytes = "64MiB"
[status]
listen = "127.0.0.1:0"
{self.toml}
"""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.kill_tree()
        self.sls.stop()
        self.hec.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Without what would change the settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLS_", "SPLUNK_"))}
        return kept | self.more_environment

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """`sls-siem supervise`, in a process group of its own, its log in a file."""
        with (self.work / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [*self.prefix, *self.program, "supervise", "--config", str(self.config), *options],
                cwd=ROOT, stderr=log, stdout=log, start_new_session=True, env=self.environment | self.variables,
            )  # fmt: skip
        return self.supervisor

    def stop(self, deadline: float = 40) -> int:
        """TERM; its exit code."""
        assert self.supervisor is not None
        self.supervisor.send_signal(signal.SIGTERM)
        return self.supervisor.wait(timeout=deadline)

    def tree(self) -> list[int]:
        """The supervisor and its children, from the kernel."""
        assert self.supervisor is not None
        pids = [self.supervisor.pid]
        for task in Path(f"/proc/{self.supervisor.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the listener's threads come and go
                pids += [int(p) for p in task.read_text().split()]
        return pids

    def kill_tree(self) -> None:
        """kill -9 of all of them at once, as the OOM killer's worst day."""
        assert self.supervisor is not None
        for pid in self.tree():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.supervisor.wait(timeout=30)

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Another `sls-siem` command with the same settings."""
        return subprocess.run(
            [*PROGRAM, *command, "--config", str(self.config)],
            cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=self.environment,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """status.json, or nothing yet: what an earlier supervisor left behind says nothing of this one."""
        path = self.spool / "run" / "status.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        if self.supervisor and found["supervisor"]["pid"] != self.supervisor.pid:
            return {}
        return found

    def expected(self) -> set[str]:
        """The ids of all that the SLS emulator stored, reckoned by it."""
        return set(self.sls.text("expected").split())

    def delivered(self) -> Counter[str]:
        """sls_id -> how often the HEC emulator stored it."""
        return Counter(self.hec.text("ids").split())

    def wait_delivered(self, deadline: float = 120) -> None:
        """Until every expected id is there at least once."""
        expected = self.expected()

        def is_delivered() -> bool:
            enough = self.hec.get("stats")["distinct"] >= len(expected)  # the ids of a long run are many
            return enough and not expected - self.delivered().keys()

        poll(is_delivered, f"{len(expected)} events delivered; {self.tail()}", deadline, 0.3)

    def log(self) -> str:
        """Of the supervisor and its children."""
        log = self.work / "supervisor.log"
        return log.read_text() if log.exists() else ""

    def tail(self) -> str:
        """Its end, for a failure's message."""
        return self.log()[-3000:]
