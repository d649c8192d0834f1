"""Cases 42 to 49 of facts/hec.md 6A and rows 43, 44, 49 to 52 of its table: connections, names, certificates.

Real sockets, real certificates out of openssl, a name service of its own in a mount namespace.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_tls import HecAuthority
from tests.waiting import poll
from tests.worker.sending import Sending, quick, sending
from worker.hec import HecClient
from worker.settings import HecSettings


def held(house: Sending, hint: str) -> None:
    poll(lambda: any(hint in h["hint"] for h in house.holds()), f"held with {hint!r}")


@contextmanager
def deaf_port() -> Iterator[int]:
    """Its queue is full: whoever connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@contextmanager
def ending_port(greeting: bytes = b"") -> Iterator[int]:
    """It accepts and ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    line.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_row_44_6a_42_refused_or_deaf_then_well_is_delivered_once() -> None:
    with HecEmulator() as hec, deaf_port() as deaf:
        hec.server.stop()
        with quick([hec.url, f"http://127.0.0.1:{deaf}"], hec.token, connect_timeout=0.5) as house:
            house.put()
            house.start()
            poll(lambda: len(house.holds()) == 2, "both are held")
            hec.server.start()
            house.wait_empty()
            house.assert_all_once(hec.stored)
            house.stop()
            assert house.metric("hec_possible_duplicates_total") == 0, "nothing was sent"


@pytest.mark.root
def test_row_43_6a_42_a_name_that_cannot_be_resolved_then_can_is_delivered_once(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    with HecEmulator() as hec, sending(tmp_path, [f"http://splunk.test:{hec.server.port}"], hec.token) as house:
        house.hosts = hosts
        house.put()
        house.start()
        held(house, "DNS")
        hosts.write_text("127.0.0.1 splunk.test\n")
        house.wait_empty()
        house.assert_all_once(hec.stored)


@pytest.mark.root
def test_row_43_a_name_is_resolved_anew_for_each_connection_and_the_last_good_address_serves_without_dns(
    tmp_path: Path,
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 splunk.test\n")
    with (
        HecEmulator() as old,
        HecEmulator(host="127.0.0.2", port=old.server.port) as new,
        sending(tmp_path, [f"http://splunk.test:{old.server.port}"], TOKEN) as house,
    ):
        house.hosts = hosts
        house.start()
        house.put()
        house.wait_empty()
        hosts.write_text("127.0.0.2 splunk.test\n")
        old.server.drop_connections()
        house.put()
        house.wait_empty()
        assert len(new.stored) == 10
        hosts.write_text("127.0.0.1 localhost\n")
        new.server.drop_connections()
        house.put()
        house.wait_empty("there is no name service any more")
        assert len(new.stored) == 20
        assert not house.holds()


def test_connections_are_aged_out_so_that_load_spreads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.hec.OLDEST_CONNECTION", 0.3)
    with HecEmulator() as hec:
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        began = time.monotonic()

        def connections() -> int:
            client.post(hec.url, hec.token, [b'{"event":1}'])
            return hec.server._served

        poll(lambda: connections() >= 4, "new ones are made", every=0.001)
        client.close()
        assert time.monotonic() - began > 3 * 0.3, "and the old ones are used until then"


def test_what_failed_goes_again_on_a_connection_of_its_own() -> None:
    """A balancer of connections leads one that is kept to the same indexer, the one in trouble, until it is aged out."""
    with HecEmulator() as hec, quick([hec.url], hec.token, in_flight=1) as house:
        kept = house.settings.hec.in_flight + 2  # a connection a thread
        hec.script.extend([{"status": 503, "code": 9}] * (kept + 1))
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        used = [r.connection for r in hec.posts()]
        assert len(set(used)) == len(used) == kept + 2


def test_6a_47_an_answer_that_trickles_is_cut_at_the_total_deadline() -> None:
    """Each byte comes in time; the whole would take a minute."""
    with HecEmulator() as hec, quick([hec.url], hec.token, timeout=5.0, connect_timeout=0.5) as house:
        hec.script.append({"status": 200, "code": 0, "rate": 3})
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        house.stop()
        assert house.metric("hec_requests_total", status="timeout") == 1
        assert house.metric("hec_possible_duplicates_total") == 10


def test_6a_48_no_answer_in_time_is_sent_again_and_never_twice_at_once() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, timeout=5.0, in_flight=4) as house:
        hec.script.extend([{"hang": 60, "after": True}] * 2)
        house.put()
        house.start()
        house.wait_empty()
        assert hec.stored == dict.fromkeys(house.expected, 3), "taken each time, which the sender cannot know"
        house.stop()
        assert house.metric("hec_requests_total", status="timeout") == 2
        assert house.metric("hec_possible_duplicates_total") == 20


def test_row_46_a_server_that_reads_slowly_is_no_reason_to_send_twice() -> None:
    with HecEmulator() as hec, quick([hec.url], hec.token, gzip=False) as house:
        hec.script.append({"read_rate": 200_000})
        house.put(logs=100, size=2000)
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)


# TLS


@pytest.fixture(scope="module")
def authority() -> Iterator[HecAuthority]:
    made = HecAuthority()
    yield made
    made.close()


BAD: dict[str, dict[str, Any]] = {
    "row 49, 6A 49, expired": {"days": -1},
    "row 49, 6A 49, another name": {"names": "DNS:elsewhere.test"},
}


@pytest.mark.parametrize("how", BAD.values(), ids=BAD.keys())
def test_a_bad_certificate_is_held_and_a_new_one_ends_it(authority: HecAuthority, how: dict[str, Any]) -> None:
    with HecEmulator(tls=authority) as hec, quick([hec.url], hec.token, ca_file=authority.ca_file) as house:
        authority.use(*authority.issue("bad", **how))
        house.put()
        house.start()
        held(house, "certificate")
        assert not hec.requests
        authority.use(*authority.issue("good"))
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_49_6a_49_an_unknown_ca_is_held_and_other_urls_go_on(authority: HecAuthority) -> None:
    authority.use(*authority.issue("good"))
    with (
        HecEmulator(tls=True) as stranger,
        HecEmulator(tls=authority) as hec,
        quick([stranger.url, hec.url], TOKEN, ca_file=authority.ca_file) as house,
    ):
        house.start()
        for _ in range(10):
            house.put()
        house.wait_empty()
        held(house, "certificate")
        assert not stranger.requests
        house.assert_all_once(hec.stored)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_without_a_ca_file_the_machine_says_whom_to_trust(
    authority: HecAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """As an administrator does who has added a company's own CA to the system's."""
    authority.use(*authority.issue("good"))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    place = shutil.copy(authority.ca_file, tmp_path / "ca.pem")
    if variable == "SSL_CERT_DIR":
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True)
        place = tmp_path
    monkeypatch.setenv(variable, str(place))
    with HecEmulator(tls=authority) as hec, quick([hec.url], hec.token) as house:
        house.put()
        house.start()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_row_49_a_ca_file_that_is_replaced_is_used_without_a_restart(authority: HecAuthority, tmp_path: Path) -> None:
    """Also one that is not there for a while, as when it is being replaced."""
    authority.use(*authority.issue("good"))
    ca = tmp_path / "ca.pem"
    other = HecAuthority()
    shutil.copy(other.ca_file, ca)
    with HecEmulator(tls=authority) as hec, quick([hec.url], hec.token, ca_file=ca) as house:
        house.put()
        house.start()
        held(house, "certificate")
        ca.unlink()
        poll(lambda: any("certificate" in h["hint"] and "invalid path" in h["error"] for h in house.holds()), "missing")
        shutil.copy(authority.ca_file, ca)
        house.wait_empty()
        house.assert_all_once(hec.stored)
    other.close()


def test_row_50_a_handshake_that_ends_early_is_tried_again() -> None:
    with ending_port() as port, quick([f"https://127.0.0.1:{port}"], TOKEN) as house:
        house.put()
        house.start()
        poll(lambda: house.metric("hec_requests_total") >= 2, "tried again")
        assert {h["kind"] for h in house.holds()} == {"endpoint"}
        house.stop()
        assert house.metric("hec_possible_duplicates_total") == 0, "nothing was sent"
        assert house.waiting() == 1


def test_row_51_a_client_certificate_is_asked_for_given_and_replaced_when_its_file_changes(tmp_path: Path) -> None:
    clients = HecAuthority()
    authority = HecAuthority(client_ca=clients.ca_file)
    bad, good = (HecAuthority(), clients)
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"

    def install(pair: tuple[Path, Path]) -> None:
        shutil.copy(pair[1], key)
        shutil.copy(pair[0], cert)

    install(bad.issue("client", usage="clientAuth"))
    options: dict[str, Any] = {"ca_file": authority.ca_file, "client_cert": cert, "client_key": key}
    with HecEmulator(tls=authority) as hec, quick([hec.url], hec.token, **options) as house:
        house.put()
        house.start()
        held(house, "client_cert")
        assert not hec.requests
        install(good.issue("client", usage="clientAuth", days=5))
        house.wait_empty()
        house.assert_all_once(hec.stored)
        poll(
            lambda: 4 * 86400 < house.gauge("certificate_left_seconds", endpoint="client") <= 5 * 86400,
            "its end is told",
        )
        poll(lambda: house.gauge("certificate_left_seconds", endpoint=hec.url), "and Splunk's")
        assert 29 * 86400 < house.gauge("certificate_left_seconds", endpoint=hec.url) <= 30 * 86400
    for one in (clients, authority, bad):
        one.close()


def test_a_certificate_that_ends_within_a_fortnight_is_said_once(tmp_path: Path) -> None:
    """Splunk's and ours; one that lasts is not spoken of."""
    clients = HecAuthority()
    authority, lasting = HecAuthority(client_ca=clients.ca_file), HecAuthority()
    cert, key = clients.issue("client", usage="clientAuth", days=13)
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.ca_file.read_text() + lasting.ca_file.read_text())
    options: dict[str, Any] = {"ca_file": ca, "client_cert": cert, "client_key": key}
    authority.use(*authority.issue("soon", days=5))
    with (
        capture_logs() as lines,
        HecEmulator(tls=authority) as hec,
        HecEmulator(tls=lasting) as other,
        quick([hec.url, other.url], TOKEN, **options) as house,
    ):
        house.start()
        for _ in range(4):  # in turn to either
            house.put()
            house.wait_empty()
        poll(lambda: house.gauge("certificate_left_seconds", endpoint=other.url), "both certificates were seen")

        def said() -> dict[str, float]:
            return {one["endpoint"]: one["days_left"] for one in lines if one["event"] == "a certificate ends soon"}

        poll(lambda: len(said()) == 2, "said")
        sender, turns = house.sender, set()
        assert sender is not None
        poll(lambda: turns.add(sender._report_at) or len(turns) > 3, "the numbers are told again and again")  # type: ignore[func-returns-value]
        found = [one for one in lines if one["event"] == "a certificate ends soon"]
        assert len(found) == 2, "once each"
        assert {one["log_level"] for one in found} == {"warning"}
        assert said().keys() == {hec.url, "client"}
        assert 4 < said()[hec.url] <= 5
        assert 12 < said()["client"] <= 13
    for one in (clients, authority, lasting):
        one.close()


def test_row_51_without_a_client_certificate_it_is_held(authority: HecAuthority) -> None:
    wants = HecAuthority(client_ca=authority.ca_file)
    with HecEmulator(tls=wants) as hec, quick([hec.url], hec.token, ca_file=wants.ca_file) as house:
        house.put()
        house.start()
        held(house, "client_cert")
        assert not hec.requests
    wants.close()


def test_row_52_https_to_a_port_that_speaks_http_is_held() -> None:
    with HecEmulator() as hec, quick([hec.url.replace("http:", "https:")], hec.token) as house:
        house.put()
        house.start()
        held(house, "http and https are mixed up")
        assert house.waiting() == 1


def test_row_52_http_to_a_port_that_speaks_https_is_held(authority: HecAuthority) -> None:
    with HecEmulator(tls=authority) as hec, quick([hec.url.replace("https:", "http:")], hec.token) as house:
        house.put()
        house.start()
        poll(house.holds, "held")
        assert house.waiting() == 1
