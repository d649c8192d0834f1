"""What stands between us and Splunk in the field: nginx as load balancer, squid as proxy, as Debian has them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.waiting import poll


def need(program: str) -> str:
    """Its path; in CI it must be there."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"needs {program}: apt-get install {program}")
    assert found, f"{program} is not installed"
    return found


class Program:
    """A server in the foreground, on a port and in a directory of its own."""

    def __init__(self, command: list[str], work: tempfile.TemporaryDirectory[str]) -> None:
        self._command, self._work = command, work
        self.directory = Path(work.name)
        # It never listens: nobody else is given the port while the server does not either.
        with socket.socket() as keeper:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(("127.0.0.1", 0))
            self.port: int = keeper.getsockname()[1]
            weakref.finalize(self, os.close, keeper.detach())

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Until it listens."""
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, cwd=self.directory)
        poll(self._listens, f"{self._command[0]} listens: {self.output()}", 30)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def output(self) -> str:
        """What it says."""
        return "\n".join(path.read_text("utf-8", "replace")[-1500:] for path in self.directory.glob("o*tput"))

    def signal(self, number: signal.Signals) -> None:
        """As `nginx -s` and `squid -k` do."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """TERM, then KILL."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        self._work.cleanup()


class Nginx(Program):
    """`http` is what stands in the http block; it must listen on {port}."""

    def __init__(self, http: str) -> None:
        work = tempfile.TemporaryDirectory(prefix="nginx-")
        super().__init__([need("nginx"), "-p", work.name, "-c", f"{work.name}/nginx.conf"], work)
        self.configure(http)

    def configure(self, http: str) -> None:
        """Write the configuration; HUP reads it."""
        temporary = "\n".join(
            f"{name}_temp_path {self.directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 2; pid {self.directory}/pid; error_log {self.directory}/errors;\n"
            f"events {{ worker_connections 512; }}\n"
            f"http {{ access_log {self.directory}/access; {temporary}\n{http.replace('{port}', str(self.port))} }}\n"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reload(self) -> None:
        """New workers; the old ones finish what they have."""
        self.signal(signal.SIGHUP)


class Squid(Program):
    """A forward proxy; with users it wants one of them."""

    def __init__(self, users: dict[str, str] | None = None) -> None:
        work = tempfile.TemporaryDirectory(prefix="squid-")
        Path(work.name).chmod(0o777)
        super().__init__([need("squid"), "-N", "-f", f"{work.name}/squid.conf"], work)
        self.set_users(users or {})
        helper = next(iter(Path("/usr/lib").glob("**/basic_ncsa_auth")), Path("basic_ncsa_auth"))
        auth = f"auth_param basic program {helper} {self.directory}/users\nauth_param basic credentialsttl 1 second\n"
        allowed = "acl known proxy_auth REQUIRED\nhttp_access allow known\n" if users else "http_access allow all\n"
        (self.directory / "squid.conf").write_text(
            f"http_port 127.0.0.1:{self.port}\n{auth if users else ''}{allowed}http_access deny all\n"
            f"cache deny all\npid_filename none\nshutdown_lifetime 0 seconds\nconnect_timeout 2 seconds\n"
            f"access_log stdio:{self.directory}/access\ncache_log {self.directory}/cache.log\n"
            f"coredump_dir {self.directory}\nforward_max_tries 1\nicon_directory /usr/share/squid/icons\n"
        )

    def set_users(self, users: dict[str, str]) -> None:
        """name → password."""
        lines = []
        for name, password in users.items():
            done = subprocess.run(["openssl", "passwd", "-apr1", password], capture_output=True, text=True, check=True)
            lines.append(f"{name}:{done.stdout.strip()}")
        path = self.directory / "users"
        seconds = int(path.stat().st_mtime) + 2 if path.exists() else 1_700_000_000
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        os.utime(path, (seconds, seconds))  # Squid's helper sees no change within a second

    def lines(self) -> list[str]:
        """Its access log: the witness that it was in between."""
        path = self.directory / "access"
        return path.read_text().splitlines() if path.exists() else []
