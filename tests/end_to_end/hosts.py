"""Hosts of their own: network namespaces joined to the emulators by a veth pair each, so that one can be cut off alone.

with Net() as net, SlsEmulator(host="0.0.0.0", ...) as sls:
    one, two = net.host(tmp_path / "one", sls), net.host(tmp_path / "two", sls)
    one.start()
    one.cut()          # nothing comes through any more, and nobody says so
    one.rejoin()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from buffer.outside import pulls
from buffer.values import Pull
from tests.emulators.sls import SlsEmulator

ROOT = Path(__file__).resolve().parents[2]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def reason_against() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    name = f"sls-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    ip("netns", "del", name)
    return ""


class Net:
    """The tests' end of every cable."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            host.vanish()

    def host(self, work: Path, sls: SlsEmulator, hec_port: int = 9, **changes: Any) -> Host:
        """A new one, with its cable plugged in."""
        made = Host(work, sls, hec_port, len(self.hosts) + 1, **changes)
        self.hosts.append(made)
        return made


@dataclass
class Host:
    """One `sls-siem supervise` behind one cable. It knows the emulators by its end's other address."""

    work: Path
    sls: SlsEmulator
    hec_port: int
    number: int
    start_at: str = "begin"
    checkpoint: str = "spooled"
    timeout: float = 6.0
    endpoint: str = ""
    """Instead of the address; {port} is the emulator's."""
    resolver: str = ""
    """/etc/resolv.conf inside."""
    supervisor: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.name = f"sls-{os.getpid() % 100_000}-{self.number}"
        self.cable = f"sl{os.getpid() % 100_000}x{self.number}"
        net = f"10.{200 + os.getpid() % 50}.{self.number}"
        self.outside, self.inside = f"{net}.1", f"{net}.2"
        ip("netns", "add", self.name)
        if self.resolver:
            Path("/etc/netns", self.name).mkdir(parents=True)
            Path("/etc/netns", self.name, "resolv.conf").write_text(self.resolver.format(outside=self.outside))
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{self.outside}/30", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        for words in (
            ["addr", "add", f"{self.inside}/30", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            ip("-n", self.name, *words)
        self.config = self.work / "sls-siem.toml"
        self.config.write_text(self.settings())

    @property
    def spool(self) -> Path:
        return self.work / "spool"

    def settings(self) -> str:
        endpoint = self.endpoint.format(port=self.sls.port) or f"http://{self.outside}:{self.sls.port}"
        return f"""
[supervisor]
workers = 1
senders = 1
checkpoint = "{self.checkpoint}"
[memory]
budget = "1GiB"
[[source]]
project = "p"
logstore = "l"
endpoint = "{endpoint}"
consumer_group = "siem"
start = "{self.start_at}"
access_key_id = "ak"
access_key_secret = "sk"
heartbeat_interval = "500ms"
consumer_timeout = "{self.timeout}s"
allow_plaintext = true
[hec]
urls = ["http://{self.outside}:{self.hec_port}"]
token = "00000000-0000-4000-8000-000000000001"
allow_plaintext = true
[spool]
directory = "{self.spool}"
min_free_bytes = "1MiB"
force_file_system = true
[status]
listen = ""
"""

    @property
    def environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("SLS_", "SPLUNK_"))}

    def start(self) -> None:
        with (self.work / "log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "supervisor", "supervise", "--config", str(self.config)],
                cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=self.environment,
            )  # fmt: skip

    def stop(self) -> int:
        assert self.supervisor is not None
        self.supervisor.send_signal(signal.SIGTERM)
        return self.supervisor.wait(timeout=40)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another `sls-siem` command on its disk; the host need not be up."""
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *command, "--config", str(self.config)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=self.environment,
        )  # fmt: skip

    def tree(self) -> list[int]:
        assert self.supervisor is not None
        found = [self.supervisor.pid]
        for task in Path(f"/proc/{self.supervisor.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # threads come and go
                found += [int(pid) for pid in task.read_text().split()]
        return found

    def die(self) -> None:
        """The power goes: every process at once, and nobody tells the other end of a connection."""
        self.cut()
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.supervisor is not None
        self.supervisor.wait(timeout=30)

    def lose_disk(self) -> None:
        shutil.rmtree(self.spool)

    def cut(self) -> None:
        """Whatever is sent either way is lost in silence."""
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("addr", "del", f"{self.outside}/30", "dev", self.cable)

    def rejoin(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("addr", "add", f"{self.outside}/30", "dev", self.cable)

    def vanish(self) -> None:
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.die()
        for words in (["link", "del", self.cable], ["netns", "del", self.name]):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(*words)
        shutil.rmtree(f"/etc/netns/{self.name}", ignore_errors=True)

    # What can be seen of it

    @property
    def id(self) -> str:
        """In its consumer's name."""
        try:
            return (self.spool / "id").read_text().strip()
        except FileNotFoundError:
            return "(not yet)"

    def pulls(self) -> list[Pull]:
        """What waits in its spool."""
        return list(pulls(self.spool)) if (self.spool / "lanes").exists() else []

    def groups(self) -> Counter[tuple[int, int]]:
        """(shard, cursor) -> how often it waits there."""
        return Counter((pull.key.shard, at) for pull in self.pulls() for at in range(pull.begin, pull.next))

    def shards(self) -> set[int]:
        """Those that SLS gives it."""
        return {number for number, owner in self.sls.owners("siem").items() if self.id in owner}

    def source_hold(self) -> dict[str, Any]:
        """What its status says of SLS; empty when all is well."""
        try:
            found: list[dict[str, Any]] = orjson.loads((self.spool / "run" / "status.json").read_bytes())["holds"]
        except (OSError, ValueError, KeyError):
            return {}
        return next((one for one in found if one["kind"] == "source"), {})

    def tail(self) -> str:
        return (self.work / "log").read_text()[-2000:]
