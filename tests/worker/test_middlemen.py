"""Real middle-men: nginx as load balancer, squid as proxy. Whatever they answer, nothing is lost, and what is sent twice is
what may have been taken.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.emulators.hec_tls import HecAuthority
from tests.waiting import poll
from tests.worker.middlemen import Nginx, Squid
from tests.worker.sending import Sending, quick

ROUND_ROBIN = """
upstream splunk { SERVERS }
server { listen 127.0.0.1:{port}; EXTRA
  location / { proxy_pass http://splunk; proxy_http_version 1.1; proxy_set_header Connection ""; } }
"""
BY_COOKIE = """
split_clients $request_id $fresh { 25% 0; 25% 1; 25% 2; * 3; }
map $cookie_route $route { "" $fresh; default $cookie_route; }
map $route $backend { BACKENDS }
server { listen 127.0.0.1:{port};
  location / { add_header Set-Cookie "route=$route; Path=/" always; proxy_pass http://$backend; } }
"""


@contextlib.contextmanager
def splunks(count: int = 4, **token: Any) -> Iterator[list[HecEmulator]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(HecEmulator(tokens=[Token(TOKEN, **token)])) for _ in range(count)]


def round_robin(hecs: list[HecEmulator], extra: str = "", upstream: str = "") -> str:
    servers = upstream + " ".join(f"server 127.0.0.1:{hec.server.port} max_fails=0;" for hec in hecs)
    return ROUND_ROBIN.replace("SERVERS", servers).replace("EXTRA", extra)


def stored(hecs: list[HecEmulator]) -> Counter[str]:
    return sum((hec.stored for hec in hecs), Counter())


def acked(hecs: list[HecEmulator]) -> set[str]:
    return set().union(*(hec.acked for hec in hecs))


def assert_only_unsure_twice(house: Sending, hecs: list[HecEmulator]) -> None:
    """Lost: none. Twice: only what was stored without its sender being told so; and that is counted."""
    found = stored(hecs)
    house.assert_none_lost(found)
    twice = {one for one, times in found.items() if times > 1}
    assert twice <= set().union(*(hec.unsure for hec in hecs))
    house.stop()
    assert house.metric("hec_possible_duplicates_total") >= sum(times - 1 for times in found.values())


def test_nginx_spreads_requests_over_indexers_and_all_arrive_once() -> None:
    with (
        splunks() as hecs,
        Nginx(round_robin(hecs)) as nginx,
        quick([nginx.url], TOKEN, max_request_bytes=4096) as house,
    ):
        house.start()
        for _ in range(30):
            house.put(logs=20)
        house.wait_empty()
        house.assert_all_once(stored(hecs))
        assert all(hec.stored for hec in hecs)


@pytest.mark.parametrize("how", ["cookie", "channel"])
def test_nginx_sticky_by_cookie_or_channel_acknowledges_everything(how: str) -> None:
    with splunks(ack=True) as hecs:
        backends = " ".join(f"{n} 127.0.0.1:{hec.server.port};" for n, hec in enumerate(hecs))
        by_channel = round_robin(hecs, upstream="hash $http_x_splunk_request_channel consistent; ")
        http = BY_COOKIE.replace("BACKENDS", backends) if how == "cookie" else by_channel
        with Nginx(http) as nginx, quick([nginx.url], TOKEN, ack="required", max_request_bytes=4096) as house:
            house.start()
            for _ in range(20):
                house.put(logs=20)
            house.wait_empty()
            house.assert_all_once(stored(hecs))
            poll(lambda: acked(hecs) == set(house.expected), "it is noted once the answer is away")


def test_nginx_without_stickiness_is_never_taken_for_acknowledgement() -> None:
    with (
        splunks(ack=True) as hecs,
        Nginx(round_robin(hecs)) as nginx,
        quick([nginx.url], TOKEN, ack="required", ack_timeout=1.0) as house,
    ):
        house.start()
        for _ in range(8):
            house.put(logs=5)
        poll(lambda: house.waiting() == 0 or any("sticky" in h["hint"] for h in house.holds()), "held, unless by luck")
        house.stop()
        delivered = house.books().get("delivered", 0)
        poll(lambda: delivered <= len(acked(hecs)), "it is noted once the answer is away")


def test_nginx_502_with_no_indexer_left_and_back() -> None:
    with splunks(2) as hecs, Nginx(round_robin(hecs)) as nginx, quick([nginx.url], TOKEN) as house:
        for hec in hecs:
            hec.server.stop()
        house.put()
        house.start()
        poll(lambda: any("502" in h["error"] for h in house.holds()), "held")
        for hec in hecs:
            hec.server.start()
        house.wait_empty()
        house.assert_all_once(stored(hecs))


def test_nginx_504_of_an_indexer_that_took_it_all_the_same_repeats_and_counts_it() -> None:
    with (
        splunks(1) as hecs,
        Nginx(round_robin(hecs, "proxy_read_timeout 6s;")) as nginx,
        quick([nginx.url], TOKEN) as house,
    ):
        gate = threading.Event()
        hecs[0].script.append({"gate": gate, "after": True})
        house.put()
        house.start()
        house.wait_empty()
        gate.set()
        assert set(hecs[0].stored.values()) == {2}
        poll(lambda: set(hecs[0].stored) <= hecs[0].unsure, "the indexer has seen that nobody waited")
        assert_only_unsure_twice(house, hecs)


def test_nginx_413_teaches_a_size() -> None:
    with (
        splunks(1) as hecs,
        Nginx(round_robin(hecs, "client_max_body_size 50k;")) as nginx,
        quick([nginx.url], TOKEN, gzip=False) as house,
    ):
        house.put(logs=1000, size=500)
        house.start()
        house.wait_empty()
        house.assert_all_once(stored(hecs))
        assert not house.dead()
        assert max(r.bytes for r in hecs[0].requests) <= 50 << 10


def test_nginx_wants_a_client_certificate() -> None:
    clients, servers = HecAuthority(), HecAuthority()
    certificate, key = servers.issue("nginx")
    tls = (
        f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_client_certificate {clients.ca_file}; "
        "ssl_verify_client on;"
    )
    mine = clients.issue("client", usage="clientAuth")
    with splunks(1) as hecs, Nginx(round_robin(hecs, tls).replace("{port};", "{port} ssl;", 1)) as nginx:
        url = nginx.url.replace("http:", "https:")
        with quick([url], TOKEN, ca_file=servers.ca_file) as house:
            house.put()
            house.start()
            poll(house.holds, "held without one")
            assert not hecs[0].requests
        with quick([url], TOKEN, ca_file=servers.ca_file, client_cert=mine[0], client_key=mine[1]) as house:
            house.put()
            house.start()
            house.wait_empty()
            house.assert_all_once(stored(hecs))
    for one in (clients, servers):
        one.close()


def test_nginx_that_keeps_connections_for_few_requests_costs_nothing() -> None:
    limits = "keepalive_requests 3;"
    with (
        splunks(2) as hecs,
        Nginx(round_robin(hecs, limits)) as nginx,
        quick([nginx.url], TOKEN, max_request_bytes=4096) as house,
    ):
        house.start()
        for _ in range(40):
            house.put(logs=20)
        house.wait_empty()
        house.assert_all_once(stored(hecs))
        house.stop()
        assert house.metric("hec_possible_duplicates_total") == 0


def test_nginx_is_reloaded_again_and_again_during_traffic() -> None:
    with (
        splunks(2) as hecs,
        Nginx(round_robin(hecs)) as nginx,
        quick([nginx.url], TOKEN, max_request_bytes=4096) as house,
    ):
        house.start()
        for number in range(60):
            house.put(logs=20)
            if number % 10 == 5:
                nginx.configure(round_robin(hecs[:: -1 if number % 20 == 5 else 1]))
                nginx.reload()
                poll(lambda n=number: len(stored(hecs)) >= n * 10, "traffic")  # type: ignore[misc]
        house.wait_empty()
        assert_only_unsure_twice(house, hecs)


# squid


@contextlib.contextmanager
def splunk(encrypted: bool) -> Iterator[tuple[HecEmulator, dict[str, Any]]]:
    with HecEmulator(tls=encrypted) as hec:
        yield hec, {"ca_file": Path(hec.ca_file)} if encrypted else {}


@pytest.mark.parametrize("users", [{}, {"fred": "s3cret p@ss"}], ids=["no user", "user"])
@pytest.mark.parametrize("encrypted", [True, False], ids=["https", "http"])
def test_squid_is_passed_with_and_without_a_user(encrypted: bool, users: dict[str, str]) -> None:
    with splunk(encrypted) as (hec, tls), Squid(users) as squid:
        login = "fred:s3cret%20p%40ss@" if users else ""
        with quick([hec.url], TOKEN, proxy=f"http://{login}127.0.0.1:{squid.port}", **tls) as house:
            house.start()
            for _ in range(5):
                house.put()
            house.wait_empty()
            house.assert_all_once(hec.stored)
            house.stop()
        poll(lambda: any("CONNECT" in line if encrypted else "POST" in line for line in squid.lines()), "squid saw it")


def test_squid_of_the_environment_is_passed_where_the_settings_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with splunk(encrypted=False) as (hec, _), Squid() as squid:
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{squid.port}")
        with quick([hec.url], TOKEN) as house:
            house.put()
            house.start()
            house.wait_empty()
            house.assert_all_once(hec.stored)
        poll(lambda: any("POST" in line for line in squid.lines()), "squid saw it")


@pytest.mark.parametrize("encrypted", [True, False], ids=["row 24, https", "row 24, http"])
def test_squid_refuses_the_user_until_it_knows_him(encrypted: bool) -> None:
    with (
        splunk(encrypted) as (hec, tls),
        Squid({"fred": "other"}) as squid,
        quick([hec.url], TOKEN, proxy=f"http://fred:mine@127.0.0.1:{squid.port}", **tls) as house,
    ):
        house.put()
        house.start()
        poll(lambda: any("hec.proxy" in h["hint"] for h in house.holds()), "held")
        assert "mine" not in str(house.holds())
        assert not hec.requests
        squid.set_users({"fred": "mine"})
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_squid_cannot_reach_splunk_and_that_is_not_the_proxys_fault() -> None:
    with splunk(encrypted=True) as (hec, tls), Squid() as squid:
        hec.server.stop()
        with quick([hec.url], TOKEN, proxy=f"http://127.0.0.1:{squid.port}", **tls) as house:
            house.put()
            house.start()
            poll(lambda: any("is Splunk running" in h["hint"] for h in house.holds()), "held")
            hec.server.start()
            house.wait_empty()
            house.assert_all_once(hec.stored)
            house.stop()
            assert house.metric("hec_possible_duplicates_total") == 0


def test_squid_is_gone_and_comes_back() -> None:
    with (
        splunk(encrypted=True) as (hec, tls),
        Squid() as squid,
        quick([hec.url], TOKEN, proxy=f"http://127.0.0.1:{squid.port}", **tls) as house,
    ):
        house.start()
        house.put()
        house.wait_empty()
        squid.stop()
        house.put()
        poll(lambda: any("proxy" in h["hint"] for h in house.holds()), "held")
        squid.start()
        house.wait_empty()
        house.assert_none_lost(hec.stored)
