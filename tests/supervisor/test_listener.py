"""The listener against slow and hostile clients: real sockets, both sides."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from supervisor import listener
from supervisor.listener import Listener, PortTaken, Shown
from tests.waiting import poll

Patience = Callable[[float], None]
PATHS = ("/", "/status", "/history", "/metrics", "/healthz", "/readyz")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    shown = Shown(
        status=b'{"state":"running"}', metrics=lambda: b"m 1\n", ready=True, alive_until=time.monotonic() + 600
    )
    made = Listener("127.0.0.1:0", shown)
    yield int(made.address.rpartition(":")[2])
    made.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Of the listener with those that connect from now on: at first more than a slow machine needs to ask."""

    def change(seconds: float) -> None:
        monkeypatch.setattr(listener, "PATIENCE", seconds)

    change(60.0)
    return change


def test_no_name_server_is_asked_for_our_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be away, and each look-up then takes as long as resolv.conf says: signals would wait so long at the start."""
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", asked.append)
    Listener("0.0.0.0:0", Shown()).close()
    assert asked == []


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    """One request, as an ordinary client sends it."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        client.close()


def raw(port: int, data: bytes) -> socket.socket:
    """A client that sends just this."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(data)
    return client


def until_closed(client: socket.socket) -> bytes:
    """All that the listener says before it hangs up."""
    found = b""
    try:
        while data := client.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    finally:
        client.close()
    return found


def threads() -> int:
    return sum("process_request_thread" in t.name for t in threading.enumerate())


@pytest.mark.parametrize("path", PATHS)
def test_every_path_answers_and_forbids_what_a_page_does_not_need(port: int, path: str) -> None:
    status, body, headers = ask(port, path)
    assert (status, bool(body)) == (200, True)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert ask(port, path + "?x=1")[0] == 200


def test_nothing_else_is_found(port: int) -> None:
    for path in ("/nothing", "/../etc/passwd", "/%2e%2e/", "/status/"):
        assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_only_get(port: int, method: str) -> None:
    status, _, headers = ask(port, "/status", method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "", "[::1", "localhost.evil"]
)
def test_a_foreign_host_header_is_refused(port: int, host: str) -> None:
    """A web page that resolves its own name to us may not read us."""
    assert ask(port, "/status", Host=host)[0] == 403
    assert b" 403 " in until_closed(raw(port, b"GET /status HTTP/1.0\r\n\r\n"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:80", "[::1]:9464", "[::1]"])
def test_our_own_names_are_served(port: int, host: str) -> None:
    assert ask(port, "/status", Host=host)[0] == 200


def test_who_listens_beyond_loopback_is_asked_by_any_name() -> None:
    made = Listener("0.0.0.0:0", Shown(metrics=lambda: b"m 1\n"))
    try:
        assert ask(int(made.address.rpartition(":")[2]), "/metrics", Host="siem-1.corp")[0] == 200
    finally:
        made.close()


def test_a_client_that_trickles_is_hung_up_on_however_busy_it_keeps(port: int, patience: Patience) -> None:
    """A time-out for each byte would give it for ever."""
    patience(1.0)
    client = raw(port, b"GET / HTTP/1.1\r\n")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            try:
                client.sendall(b"X-A: b\r\n")
            except OSError:
                return

    sender = threading.Thread(target=trickle)
    sender.start()
    began = time.monotonic()
    try:
        assert until_closed(client) == b""
    finally:
        stop.set()
        sender.join()
    assert time.monotonic() - began < 15
    poll(lambda: threads() == 0, "its thread is free", 30)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\0" * 100_000,
        b"GET\r\n\r\n",
        b"",
    ],
    ids=["giant header", "giant path", "many headers", "TLS", "zeros", "no path", "nothing"],
)
def test_nonsense_costs_little_and_the_next_client_is_served(port: int, data: bytes, patience: Patience) -> None:
    patience(1.0)
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    with contextlib.suppress(OSError):
        client.sendall(data)
    assert b" 200 " not in until_closed(client)[:64]
    patience(60.0)
    assert ask(port, "/healthz")[0] == 200


def test_a_crowd_is_turned_away_and_when_it_has_gone_all_is_as_before(port: int, patience: Patience) -> None:
    patience(5.0)
    crowd = [raw(port, b"GET / HTTP/1.1\r\n") for _ in range(4 * listener.MOST)]
    assert threads() <= listener.MOST
    turned_away = sum(until_closed(client) == b"" for client in crowd)
    assert turned_away == len(crowd)
    poll(lambda: threads() == 0, "their threads are free", 30)
    patience(60.0)
    assert [ask(port, "/healthz")[0] for _ in range(2 * listener.MOST)] == [200] * 2 * listener.MOST


def test_a_client_that_asks_and_does_not_read_is_hung_up_on(patience: Patience) -> None:
    patience(5.0)
    made = Listener("127.0.0.1:0", Shown(metrics=lambda: bytes(64 << 20)))
    try:
        client = socket.socket()
        client.settimeout(30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(made.address.rpartition(":")[2])))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 200", "it is being served"
        poll(lambda: threads() == 0, "nobody waits for it", 30)
        client.close()
    finally:
        made.close()


def test_health_follows_the_loop_and_a_taken_port_is_said() -> None:
    shown = Shown()
    made = Listener("127.0.0.1:0", shown)
    port = int(made.address.rpartition(":")[2])
    try:
        assert (ask(port, "/healthz")[0], ask(port, "/readyz")[0]) == (503, 503)
        shown.alive_until, shown.ready = time.monotonic() + 600, True
        assert (ask(port, "/healthz")[0], ask(port, "/readyz")[0]) == (200, 200)
        with pytest.raises(PortTaken):
            Listener(made.address, shown)
    finally:
        made.close()
