"""`/metrics`, `/healthz`, `/readyz`, `/status` and `/`: read-only, loopback by default, no secrets.

It serves ready-made bytes that the loop has put into `Shown`, and metrics that are put together once a second at most: a
slow or hostile client costs a thread, a few kilobytes, a few seconds and nothing else. Only GET; the Host header must name
this machine (against DNS rebinding).
"""

from __future__ import annotations

import io
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from supervisor.page import PAGE, POLICY

#: Seconds for a whole request, and again for its answer; connections at once; bytes of a request.
PATIENCE, MOST, LONGEST = 5.0, 32, 16 << 10


@dataclass(slots=True)
class Shown:
    """What the loop last made ready, or ready to be made. Replaced whole, so no lock."""

    status: bytes = b"{}"
    metrics: Callable[[], bytes] = bytes
    """Makes the text, once for each picture: most pictures nobody asks for it."""
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
            request_queue_size = 2 * MOST
            allow_reuse_address = True
            address_family = socket.AF_INET6 if ":" in host.strip("[]") else socket.AF_INET

            def server_bind(self) -> None:
                """Not HTTPServer's: it asks the name server for our name, and at a start that one may be away."""
                TCPServer.server_bind(self)

            def process_request(self, request: Any, address: Any) -> None:
                if not slots.acquire(blocking=False):
                    self.shutdown_request(request)
                    return
                try:
                    super().process_request(request, address)
                except BaseException:  # no thread was to be had
                    slots.release()
                    raise

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


def host_of(header: str) -> str:
    """The Host header without its port."""
    return header if header.endswith("]") else header.rsplit(":", 1)[0]


class _Patient(io.RawIOBase):
    """A socket that is read until a deadline and up to a size, however the bytes trickle; then it is at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = time.monotonic() + PATIENCE
        self._left = LONGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As io wants it. TimeoutError ends the handler, silently."""
        if not self._left:
            raise TimeoutError("too long a request")
        self._connection.settimeout(max(0.001, self._until - time.monotonic()))
        found = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= found
        return found


class _Handler(BaseHTTPRequestHandler):
    content: Shown
    names: set[str] | None
    server_version = "sls-siem"
    sys_version = ""
    protocol_version = "HTTP/1.0"

    def setup(self) -> None:
        """The library's time-out is for each byte, which a slow client has for ever."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Patient(self.connection))

    def do_GET(self) -> None:
        if self.names is not None and host_of(self.headers.get("Host", "")) not in self.names:
            self._answer(403, b"this Host is not served\n")
            return
        self._answer(*self._found(self.path.partition("?")[0]))

    def _found(self, path: str) -> tuple[int, bytes, str]:
        shown, plain = self.content, "text/plain; charset=utf-8"
        if path == "/metrics":
            return 200, shown.metrics(), "text/plain; version=0.0.4; charset=utf-8"
        if path == "/status":
            return 200, shown.status, "application/json"
        if path == "/history":
            return 200, shown.history, "application/json"
        if path == "/":
            return 200, PAGE, "text/html; charset=utf-8"
        if path == "/healthz":
            alive = time.monotonic() < shown.alive_until
            return (200, b"ok\n", plain) if alive else (503, b"the loop does not turn\n", plain)
        if path == "/readyz":
            return (200, b"ready\n", plain) if shown.ready else (503, b"not ready\n", plain)
        return 404, b"/metrics /healthz /readyz /status /\n", plain

    def do_POST(self) -> None:
        """Nothing can be changed from here."""
        self._answer(405, b"only GET\n")

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - the library's names

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.connection.settimeout(PATIENCE)
        self.send_response(status)
        if status == 405:
            self.send_header("Allow", "GET")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are not logged."""
