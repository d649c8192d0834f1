"""The kept line under a post and a pull: what requests knew, once; one connection for many calls; cookies of a balancer."""

from __future__ import annotations

import pytest
import requests

from tests.emulators.hec import HecEmulator
from tests.emulators.sls import SlsEmulator
from worker.credentials import Credentials
from worker.hec import HecClient
from worker.settings import HecSettings, SourceSettings
from worker.sls import SlsClient

EVENT = b'{"event":{"a":"b","sls_id":"%d"}}'


def test_many_posts_of_a_thread_share_one_connection() -> None:
    with HecEmulator() as hec:
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        for number in range(20):
            assert client.post(hec.url, hec.token, [EVENT % number]).status == 200
        assert hec.server.connections == 1
        assert len(hec.stored) == 20
        client.close()


def test_a_fresh_post_takes_another_connection() -> None:
    with HecEmulator() as hec:
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        for fresh in (False, True):
            assert client.post(hec.url, hec.token, [EVENT % 1], fresh=fresh).status == 200
        assert hec.server._served == 2
        client.close()


def test_a_balancers_cookie_is_told_and_goes_back_only_where_it_is_given() -> None:
    """Without acknowledgement nothing ties us to one indexer."""
    with HecEmulator() as hec:
        hec.script.append({"headers": {"Set-Cookie": "sticky=3; Path=/"}})
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        told = client.post(hec.url, hec.token, [EVENT % 1]).cookies
        client.post(hec.url, hec.token, [EVENT % 2])
        client.post(hec.url, hec.token, [EVENT % 3], cookies=told)
        assert [one.headers.get("cookie") for one in hec.requests] == [None, None, "sticky=3"]
        client.close()


def test_a_redirect_is_not_followed_and_the_token_stays_here() -> None:
    with HecEmulator() as other, HecEmulator() as hec:
        hec.script.append({"status": 307, "headers": {"Location": other.url}})
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        assert client.post(hec.url, hec.token, [EVENT % 1]).status == 307
        assert not other.requests
        client.close()


def test_many_pulls_share_one_connection_and_requests_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = requests.adapters.HTTPAdapter.get_connection_with_tls_context

    def count(
        self: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, *given: object, **named: object
    ) -> object:
        asked.append(str(request.url))
        return real(self, request, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "get_connection_with_tls_context", count)
    with SlsEmulator() as sls:
        sls.fill(500)
        source = SourceSettings(
            name="s", project="p", logstore="l", endpoint=sls.endpoint, consumer_group="g", start="begin", access_key_id="ak",
            access_key_secret="sk",
        )  # fmt: skip
        client = SlsClient(source, Credentials(source))
        cursor = client.get_cursor_at(0, "begin")
        while (pulled := client.pull_raw(0, cursor, 1)).groups:
            cursor = pulled.next
        assert len(asked) == 1
        assert sls.server.connections == 1
        client.close()
