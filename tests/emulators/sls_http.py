"""A small, fast HTTP/1.1 server on threads: keep-alive, absolute-form, CONNECT, TLS, and answers that break on purpose.

One thread a connection: a client that is slow, hangs or dies troubles nobody else, and big bodies are sent without the
GIL.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    500: "Internal Server Error",
}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str  # decoded
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names
    body: bytes
    host: str
    peer: str
    connection: int


@dataclass(slots=True)
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False  # nothing is answered
    sent: int | None = None  # only so many bytes of the body, then the connection ends
    rate: int | None = None  # bytes a second
    close: bool = False
    raw: bytes | None = None  # these bytes, which need be no HTTP, and the connection ends
    version: str = "1.1"
    told: Callable[[bool], None] | None = None  # is called with whether all of it was handed to the network


@dataclass(frozen=True, slots=True)
class Reading:
    """How the body of a request is read: not past so many bytes (then the connection ends), at so many bytes a second."""

    upto: int | None = None
    rate: int | None = None


class _Ended(Exception):
    """The peer is gone, or does not speak HTTP."""


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


class HttpServer:
    def __init__(
        self,
        handle: Callable[[Request], Response],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Callable[[], ssl.SSLContext] | None = None,
        encrypted: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._handle, self._tls, self._encrypted, self._now = handle, tls, encrypted, now
        self._address = (host, port)
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._served = 0
        self._cuts = 0
        self._is_kept = False
        self.stopping = threading.Event()
        self.keep_alive: float | None = None
        self.send_buffer: int | None = None
        """Bytes of a connection's own buffer: little, and an answer has left only when the client has read nearly all of it."""
        self.greet: Callable[[str, str], Reading | None] | None = None  # method and target, before the body is read
        self.port = port

    def start(self, host: str | None = None) -> None:
        """`host`: at another address of this machine, with the same port."""
        self.stopping.clear()
        if not self._is_kept:
            self._keep_port()
        self._address = (host or self._address[0], self.port)
        self._listener = socket.create_server(self._address, backlog=512, reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True, name="sls-accept").start()

    def _keep_port(self) -> None:
        """A socket that never listens: nobody else is given the port while the server is stopped."""
        with socket.socket() as keeper:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(self._address)
            self.port, self._is_kept = keeper.getsockname()[1], True
            weakref.finalize(self, os.close, keeper.detach())

    def stop(self) -> None:
        """Close the port and every connection; `start` takes the same port again."""
        self.stopping.set()
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop_connections()

    def drop_connections(self, spare: int = 0) -> int:
        """Cut every connection but number `spare`; how many."""
        with self._lock:
            self._cuts += 1
            open_now = [one for number, one in self._connections.items() if number != spare]
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(open_now)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                connection, address = listener.accept()
            except OSError:
                return
            self._served += 1
            thread = threading.Thread(
                target=self._serve,
                args=(connection, f"{address[0]}:{address[1]}", self._served, listener, self._cuts),
                daemon=True,
                name="sls-serve",
            )
            thread.start()

    def _serve(
        self, connection: socket.socket, peer: str, number: int, listener: socket.socket, cuts: int
    ) -> None:  # fmt: skip
        with contextlib.suppress(OSError, _Ended):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.send_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
            connection = self._encrypt(connection) if self._encrypted else connection
            if self._talk(connection, peer, number, listener, cuts):
                cuts = self._cuts
                connection = self._encrypt(connection)
                self._talk(connection, peer, number, listener, cuts)
        with contextlib.suppress(OSError):
            connection.close()

    def _encrypt(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            raise _Ended
        try:
            return self._tls().wrap_socket(connection, server_side=True)
        except (OSError, ssl.SSLError):
            connection.close()
            raise

    def _talk(
        self, connection: socket.socket, peer: str, number: int, listener: socket.socket, cuts: int
    ) -> bool:  # fmt: skip
        """Answer until the peer goes; True when it asked for a tunnel, at whose other end we are too."""
        with self._lock:
            if listener is not self._listener or cuts != self._cuts:
                return False  # it was cut during the handshake, by a stop or without one
            self._connections[number] = connection
        try:
            return self._answer_all(connection, peer, number)
        except (_Ended, ValueError):
            return False
        finally:
            with self._lock:
                self._connections.pop(number, None)

    def _answer_all(self, connection: socket.socket, peer: str, number: int) -> bool:
        buffer = bytearray()
        while not self.stopping.is_set():
            connection.settimeout(self.keep_alive)
            request = _read_request(connection, buffer, peer, number, self.greet)
            connection.settimeout(None)
            if request.method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                return True
            response = self._handle(request)
            was_sent = False
            try:
                self._answer(connection, request, response)
                was_sent = not response.drop and response.sent is None and response.raw is None
            finally:
                if response.told is not None:
                    response.told(was_sent)
            if response.close or response.drop or request.headers.get("connection", "").lower() == "close":
                return False
        return False

    def _answer(self, connection: socket.socket, request: Request, response: Response) -> None:
        if response.drop or self.stopping.is_set():
            response.drop = True
            return
        if response.raw is not None:
            connection.sendall(response.raw)
            response.drop = True
            return
        head = [f"HTTP/{response.version} {response.status} {_REASONS.get(response.status, 'Status')}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        head.append(f"Date: {_date(int(self._now()))}")
        head.append(f"Content-Length: {len(response.body)}\r\n\r\n")
        body = b"" if request.method == "HEAD" else response.body
        if response.sent is not None:
            body, response.close = body[: response.sent], True
        start = "\r\n".join(head).encode("latin-1")
        if response.rate is not None:
            self._trickle(connection, start + body, response.rate)
        elif len(body) < 65536:
            connection.sendall(start + body)
        else:
            connection.sendall(start)
            connection.sendall(body)

    def _trickle(self, connection: socket.socket, data: bytes, rate: int) -> None:
        step = max(1, rate // 10)
        for at in range(0, len(data), step):
            connection.sendall(data[at : at + step])
            if self.stopping.wait(0.1):
                return


def _read_request(
    connection: socket.socket, buffer: bytearray, peer: str, number: int,
    greet: Callable[[str, str], Reading | None] | None = None,
) -> Request:  # fmt: skip
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        _more(connection, buffer)
        if buffer[:2] == b"\x16\x03":  # TLS, to a port that does not speak it
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            raise _Ended
    head = bytes(buffer[:end]).decode("latin-1")
    del buffer[: end + 4]
    first, _, rest = head.partition("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise _Ended
    headers = {}
    for line in rest.split("\r\n") if rest else ():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "100-continue" in headers.get("expect", "").lower():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    reading = greet(words[0], words[1]) if greet else None
    if reading is not None:
        _read_badly(connection, buffer, int(headers.get("content-length") or 0), reading)
    body = _read_body(connection, buffer, headers)
    return _request(words[0], words[1], headers, body, peer=peer, number=number)


def _read_badly(connection: socket.socket, buffer: bytearray, size: int, reading: Reading) -> None:
    upto = size if reading.upto is None else min(reading.upto, size)
    while len(buffer) < upto:
        data = connection.recv(min(upto - len(buffer), max(1, (reading.rate or 1 << 20) // 10)))
        if not data:
            raise _Ended
        buffer += data
        if reading.rate is not None:
            time.sleep(0.1)
    if reading.upto is not None:
        raise _Ended


def _request(method: str, target: str, headers: dict[str, str], body: bytes, *, peer: str, number: int) -> Request:
    if method == "CONNECT":
        return Request(method, target, {}, headers, body, target, peer, number)
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = headers.get("host", "") or parts.netloc
    return Request(method, unquote(parts.path) or "/", query, headers, body, host, peer, number)


def _read_body(connection: socket.socket, buffer: bytearray, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(connection, buffer)
    size = int(headers.get("content-length") or 0)
    while len(buffer) < size:
        _more(connection, buffer)
    body = bytes(buffer[:size])
    del buffer[:size]
    return body


def _read_chunks(connection: socket.socket, buffer: bytearray) -> bytes:
    body = b""
    while True:
        while (end := buffer.find(b"\r\n")) < 0:
            _more(connection, buffer)
        size = int(bytes(buffer[:end]).split(b";")[0], 16)
        while len(buffer) < end + 2 + size + 2:
            _more(connection, buffer)
        body += bytes(buffer[end + 2 : end + 2 + size])
        del buffer[: end + 2 + size + 2]
        if size == 0:
            return body


def _more(connection: socket.socket, buffer: bytearray) -> None:
    data = connection.recv(262144)
    if not data:
        raise _Ended
    buffer += data
