"""`/metrics`, `/healthz`, `/readyz`, `/status` and `/`: read-only, loopback by default, no secrets.

It serves what the loop has put into `Board`s of ready-made bytes: a slow or hostile client costs a thread, a few seconds
and nothing else. Only GET; the Host header must name this machine (against DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from supervisor.page import PAGE

#: Seconds for a whole request; connections at once.
PATIENCE, MOST = 5.0, 32


@dataclass(slots=True)
class Shown:
    """What the loop last made ready. Replaced whole, so no lock."""

    status: bytes = b"{}"
    metrics: bytes = b""
    ready: bool = False
    alive_until: float = 0.0
    """Monotonic: `/healthz` is 200 while the loop turns."""
    history: bytes = field(default=b"[]")


class PortTaken(Exception):
    """Exit 75."""


class Listener:
    """A thread with a server; closed with the process."""

    def __init__(self, listen: str, shown: Shown) -> None:
        host, _, port = listen.rpartition(":")
        slots = threading.BoundedSemaphore(MOST)

        class Handler(_Handler):
            """Bound to this listener's facts."""

            content = shown
            names = allowed_names(host)

        class Server(ThreadingHTTPServer):
            """Bounded in threads, each bounded in time."""

            daemon_threads = True
            allow_reuse_address = True
            address_family = socket.AF_INET6 if ":" in host.strip("[]") else socket.AF_INET

            def process_request(self, request: Any, address: Any) -> None:
                if not slots.acquire(blocking=False):
                    self.shutdown_request(request)
                    return
                request.settimeout(PATIENCE)
                super().process_request(request, address)

            def process_request_thread(self, request: Any, address: Any) -> None:
                try:
                    super().process_request_thread(request, address)
                finally:
                    slots.release()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away is nobody's error."""

        try:
            self._server = Server((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise PortTaken(f"cannot listen on {listen}: {error.strerror}") from error
        self.address = f"{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="listener", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def allowed_names(host: str) -> set[str] | None:
    """The Host headers that are ours; None (any) when somebody chose to listen beyond loopback."""
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return {"localhost", "127.0.0.1", "[::1]", host} if loopback else None


class _Handler(BaseHTTPRequestHandler):
    content: Shown
    names: set[str] | None
    server_version = "sls-siem"
    sys_version = ""
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        name = (
            self.headers.get("Host", "").rsplit(":", 1)[0]
            if not self.headers.get("Host", "").endswith("]")
            else self.headers["Host"]
        )
        if self.names is not None and name not in self.names:
            self._answer(403, b"this Host is not served\n")
            return
        path = self.path.partition("?")[0]
        shown = self.content
        if path == "/metrics":
            self._answer(200, shown.metrics, "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/status":
            self._answer(200, shown.status, "application/json")
        elif path == "/history":
            self._answer(200, shown.history, "application/json")
        elif path == "/healthz":
            import time

            alive = time.monotonic() < shown.alive_until
            self._answer(200 if alive else 503, b"ok\n" if alive else b"the loop does not turn\n")
        elif path == "/readyz":
            self._answer(200 if shown.ready else 503, b"ready\n" if shown.ready else b"not ready\n")
        elif path == "/":
            self._answer(200, PAGE, "text/html; charset=utf-8")
        else:
            self._answer(404, b"/metrics /healthz /readyz /status /\n")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are not logged."""
