"""Connections to Splunk as urllib3 makes them, and what it does not tell: whether one was reused, which address a name
had, when the peer's certificate ends; and the total deadline of a request, which socket time-outs are not.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError

from worker.certificate import not_after


class Call:
    """One request on its way, in the thread that makes it."""

    __slots__ = ("connection", "deadline", "was_cut")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.connection: Any = None
        self.was_cut = False

    @property
    def is_stale(self) -> bool:
        """The connection had answered before, and not yet to this request."""
        return self.connection is not None and self.connection.answers > 0 and self.connection.is_waiting

    @property
    def expires(self) -> float | None:
        """When the peer's certificate ends, Unix seconds."""
        found: float | None = getattr(self.connection, "expires", None)
        return found


class Watch:
    """What the threads of one client share."""

    def __init__(self) -> None:
        self.addresses: dict[tuple[str, int], str] = {}
        """The last address of each name that could be reached: used where the name cannot be resolved just now."""
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def call(self, seconds: float) -> Iterator[Call]:
        """Around one request; it is cut off after so many seconds."""
        made = Call(time.monotonic() + seconds)
        with self._lock:
            self._calls[threading.get_ident()] = made
        try:
            yield made
        finally:
            with self._lock:
                del self._calls[threading.get_ident()]

    def took(self, connection: Any) -> None:
        """This thread's request goes over it."""
        with self._lock:
            call = self._calls.get(threading.get_ident())
            if call is not None:
                call.connection = connection

    def cut_overdue(self, now: float) -> None:
        """From any thread: an answer that trickles byte by byte meets no time-out of a socket."""
        with self._lock:
            for call in self._calls.values():
                sock = getattr(call.connection, "sock", None)
                if now > call.deadline and sock is not None and not call.was_cut:
                    call.was_cut = True
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS: another thread reads from it


class _Watched:
    """What both kinds add; in front of urllib3's class."""

    watch: Watch
    answers = 0
    is_waiting = False
    expires: float | None = None

    def _new_conn(self: Any) -> socket.socket:
        """Of urllib3's: the socket. By the last known address where there is no name service."""
        name, known = self.host, self.watch.addresses.get((self.host, self.port))
        self.answers = 0
        try:
            made: socket.socket = super()._new_conn()  # type: ignore[misc]
        except NameResolutionError:
            if known is None:
                raise
            self.host = known
            try:
                made = super()._new_conn()  # type: ignore[misc]
            finally:
                self.host = name
        self.watch.addresses[name, self.port] = made.getpeername()[0]
        return made

    def request(self: Any, *arguments: Any, **named: Any) -> None:
        """As urllib3's."""
        self.watch.took(self)
        self.is_waiting = True
        super().request(*arguments, **named)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        """As urllib3's."""
        found = super().getresponse()  # type: ignore[misc]
        self.is_waiting = False
        self.answers += 1
        return found


def pool_classes(watch: Watch) -> dict[str, type[HTTPConnectionPool]]:
    """For a PoolManager's `pool_classes_by_scheme`."""

    class Plain(_Watched, HTTPConnection):
        pass

    class Encrypted(_Watched, HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            certificate = self.sock.getpeercert(binary_form=True) if hasattr(self.sock, "getpeercert") else None
            self.expires = not_after(certificate) if certificate else None

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    Plain.watch = Encrypted.watch = watch
    return {"http": PlainPool, "https": EncryptedPool}
