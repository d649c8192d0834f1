"""The door to SLS: one try, short time-outs, errors that say what to do, and no help from the environment."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_calls import Knobs
from tests.waiting import poll
from tests.worker.consuming import source_of
from worker import cursor, sls_errors
from worker.credentials import Credentials, parse_keys
from worker.settings import SourceSettings
from worker.sls import SlsClient
from worker.sls_address import choose_proxies
from worker.sls_answer import parse_pull
from worker.sls_errors import SlsError, classify


@contextmanager
def client(source: SourceSettings, read: float = 30.0, deadline: float = 60.0) -> Iterator[SlsClient]:
    made = SlsClient(source, Credentials(source))
    made.limit(30.0, read, deadline)
    try:
        yield made
    finally:
        made.close()


@given(st.integers(0, (1 << 63) - 1))
def test_cursors_go_there_and_back(number: int) -> None:
    assert cursor.to_number(cursor.to_text(number)) == number


NUMBERS = st.one_of(st.text("0123456789²³¹-. e", max_size=20), st.text(max_size=9), st.sampled_from(["MTIz", "NDU2"]))
HEADERS = ("x-log-cursor", "x-log-count", "x-log-bodyrawsize", "x-log-cursor-time", "x-log-end-of-cursor")


@given(st.fixed_dictionaries(dict.fromkeys(HEADERS, NUMBERS)))
@example({"x-log-cursor": "MTIz", "x-log-count": "0", "x-log-bodyrawsize": "0", "x-log-cursor-time": "²"})
@example({"x-log-cursor": "MTIz", "x-log-count": "0", "x-log-bodyrawsize": "0", "x-log-cursor-time": "9" * 400})
@example({"x-log-cursor": "MTIz", "x-log-count": "9" * 30, "x-log-bodyrawsize": "1"})
def test_whatever_the_headers_of_a_pull_say_it_is_a_pull_or_no_answer_of_sls(headers: dict[str, str]) -> None:
    with suppress(sls_errors.BadAnswer):
        pull = parse_pull(b"", headers, 5)
        assert pull.next >= 5
        assert 0 <= pull.groups < 1 << 32
        assert pull.arrived < 1 << 63, "both are written down"


@pytest.mark.parametrize("text", ["", "!", "MTIz!", "LTE=", "MS41", "é", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(sls_errors.BadAnswer):
        cursor.to_number(text)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "ConsumerNotMatch", sls_errors.Revoked),
        (404, "ConsumerNotExsit", sls_errors.Revoked),
        (400, "ShardNotExist", sls_errors.Revoked),
        (400, "InvalidCursor", sls_errors.InvalidCursor),
        (400, "NotExistConsumerWithBody", sls_errors.ForgottenConsumer),
        (404, "ConsumerGroupNotExist", sls_errors.GroupNotFound),
        (400, "ConsumerGroupAlreadyExist", sls_errors.GroupExists),
        (403, "ConsumerGroupQuotaExceed", sls_errors.QuotaExceeded),
        (401, "SignatureNotMatch", sls_errors.CredentialsRefused),
        (401, "Unauthorized", sls_errors.CredentialsRefused),
        (403, "SecurityTokenExpired", sls_errors.CredentialsRefused),
        (403, "InvalidAccessKeyId.NotFound", sls_errors.CredentialsRefused),
        (403, "Unauthorized", sls_errors.Forbidden),
        (403, "ShardReadQuotaExceed", sls_errors.Throttled),
        (429, "", sls_errors.Throttled),
        (404, "ProjectNotExist", sls_errors.NotFound),
        (400, "RequestTimeTooSkewed", sls_errors.ClockSkew),
        (500, "InternalServerError", sls_errors.Unavailable),
        (503, "", sls_errors.Unavailable),
        (400, "ParameterInvalid", sls_errors.BadRequest),
        (407, "", sls_errors.ProxyRefused),
        (302, "", sls_errors.BadAnswer),
    ],
)
def test_each_refusal_is_named_for_what_to_do(status: int, code: str, kind: type[SlsError]) -> None:
    found = classify(status, code, "words\nof SLS")
    assert type(found) is kind
    assert found.hint
    assert "\n" not in found.error


def test_a_refused_call_is_tried_once_and_at_once(tmp_path: Path) -> None:
    """The SDK sleeps a second ten times for a 500."""
    with SlsEmulator() as sls, client(source_of(sls)) as made:
        sls.faults.add("status", status=500)
        with pytest.raises(sls_errors.Unavailable):
            made.shards()
        assert sum(sls.service.counts.values()) == 1


def test_silence_and_dribble_end_by_the_clock(tmp_path: Path) -> None:
    with SlsEmulator() as sls:
        sls.fill(1_000)
        begin = sls.store().shards[0].first
        sls.faults.add("hang", "pull", seconds=60, count=1)
        sls.faults.add("slow", "pull", amount=1000, count=1)
        for read, words in ((2.0, "timed out"), (30.0, "too slowly")):
            with (
                client(source_of(sls), read, deadline=3.0) as made,
                pytest.raises(sls_errors.Unreachable, match=words),
            ):
                made.pull_raw(0, begin, 100)


def test_nobody_there_is_unreachable_and_a_strange_certificate_is_said() -> None:
    with socket.socket() as nobody, SlsEmulator(tls=True) as sls:
        nobody.bind(("127.0.0.1", 0))  # kept, so that nobody else has it; it does not listen
        port = nobody.getsockname()[1]
        with client(source_of(sls, endpoint=f"http://127.0.0.1:{port}")) as made, pytest.raises(sls_errors.Unreachable):
            made.shards()
        with client(source_of(sls, ca_file=None)) as made, pytest.raises(sls_errors.TlsRefused, match="certificate"):
            made.shards()


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "other-ca.pem"
    wrong.write_text("")
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with SlsEmulator(tls=True) as sls, client(source_of(sls)) as made:
        assert list(made.shards()) == [0]


def test_without_a_ca_file_the_machine_says_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    with SlsEmulator(tls=True) as sls:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(sls.ca_file))
        with client(source_of(sls, ca_file=None)) as made:
            assert list(made.shards()) == [0]


def test_a_proxy_is_the_setting_or_the_environments_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://corp:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example.com")
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    assert choose_proxies("", "cn-hangzhou.log.aliyuncs.com")["https"] == "http://corp:3128"
    assert choose_proxies("", "inside.example.com") == {}
    assert choose_proxies("", "127.0.0.1") == {}
    assert choose_proxies("http://mine:1", "x.example.com") == {"http": "http://mine:1", "https": "http://mine:1"}


def test_a_project_is_named_in_the_host_through_a_proxy() -> None:
    with SlsEmulator() as sls:
        source = source_of(sls, endpoint="http://cn-hangzhou.log.aliyuncs.com", proxy=sls.proxy, allow_plaintext=True)
        with client(source) as made:
            assert list(made.shards()) == [0]
        assert sls.service.requests[-1].headers["host"].startswith("p.cn-hangzhou")


def test_plain_http_needs_leave() -> None:
    with SlsEmulator() as sls:
        for endpoint in ("http://cn-hangzhou.log.aliyuncs.com", "http://10.0.0.7:80", "ftp://x", "https://"):
            with pytest.raises(sls_errors.Misconfigured), client(source_of(sls, endpoint=endpoint)):
                pass
        with client(source_of(sls, endpoint="cn-hangzhou.log.aliyuncs.com")) as made:
            assert made._endpoint == "cn-hangzhou.log.aliyuncs.com:443"
            assert made.http_type == "https://"
        with client(source_of(sls, endpoint="https://[::1]:9443")) as made:
            assert made._endpoint == "[::1]:9443"


@pytest.mark.parametrize("region", ["", "cn-hangzhou"])
def test_a_token_is_sent_and_a_file_of_keys_is_read_again(tmp_path: Path, region: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"AccessKeyId": "sts", "AccessKeySecret": "s1", "SecurityToken": "t1"}')
    with SlsEmulator(keys=[AccessKey("sts", "s1", token="t1")]) as sls:
        source = source_of(sls, access_key_id="", access_key_secret="", credentials_file=path, region=region)
        with client(source) as made:
            assert list(made.shards()) == [0]
            sls.service.keys["sts"] = AccessKey("sts", "s2", token="t2")
            with pytest.raises(sls_errors.CredentialsRefused):
                made.shards()
            path.write_text('{"access_key_id": "sts", "access_key_secret": "s2", "security_token": "t2"}')
            poll(lambda: works(made), "the new keys are taken")
            path.write_text('{"access_key_id": "st')
            made._auth.credentials_provider._credentials._looked = 0.0
            assert list(made.shards()) == [0], "a half-written file changes nothing"


def works(made: SlsClient) -> bool:
    try:
        return list(made.shards()) == [0]
    except sls_errors.CredentialsRefused:
        return False


def test_a_file_of_keys_that_never_was_readable_says_what_it_should_hold(tmp_path: Path) -> None:
    with SlsEmulator() as sls, client(source_of(sls, credentials_file=tmp_path / "none")) as made:
        with pytest.raises(sls_errors.Misconfigured) as found:
            made.shards()
        assert "access_key_id" in found.value.hint


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"access_key_id": "a"}', b'{"access_key_secret": "topsecret"}'])
def test_keys_that_cannot_be_read_are_never_echoed(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as found:
        parse_keys(data)
    assert "topsecret" not in str(found.value)


@pytest.mark.parametrize("token", ["tops\necret", "tops\u200becret", "tops ecret"])
def test_a_token_that_no_header_may_hold_is_not_shown_by_who_refuses_to_send_it(tmp_path: Path, token: str) -> None:
    path = tmp_path / "keys.json"
    keys = {"access_key_id": "ak", "access_key_secret": "sk", "security_token": token}
    path.write_text(json.dumps(keys))
    with SlsEmulator() as sls, client(source_of(sls, credentials_file=path)) as made:
        with pytest.raises(sls_errors.Misconfigured, match="blank or a character") as found:
            made.shards()
        assert "tops" not in f"{found.value.error} {found.value.hint}"
        path.write_text(json.dumps(keys | {"access_key_secret": "sk\n", "security_token": ""}))
        assert list(made.shards()) == [0], "a line's end is none of the key"


@pytest.mark.parametrize("text", ["", "[]x", "<html>", '{"a": 1}', "3", "null"])
@pytest.mark.parametrize("operation", ["list_shards", "list_groups", "get_checkpoint", "heartbeat", "cursor"])
def test_an_answer_of_another_kind_is_an_error_of_ours(answers: tuple[SlsEmulator, SlsClient], operation: str,
                                                       text: str) -> None:  # fmt: skip
    sls, made = answers
    ask: dict[str, Any] = {
        "list_shards": made.shards,
        "list_groups": made.groups,
        "get_checkpoint": lambda: made.checkpoints("g"),
        "heartbeat": lambda: made.heartbeat("g", "c", []),
        "cursor": lambda: made.get_cursor_at(0, "end"),
    }
    sls.faults.clear()
    sls.faults.add("body", operation, text=text)
    with pytest.raises(SlsError):
        ask[operation]()


@pytest.fixture(scope="module")
def answers() -> Iterator[tuple[SlsEmulator, SlsClient]]:
    with SlsEmulator() as sls, client(source_of(sls)) as made:
        made.create_group("g", 30)
        yield sls, made


def test_headers_in_any_case_are_read() -> None:
    with SlsEmulator(knobs=Knobs(title_case_headers=True)) as sls, client(source_of(sls)) as made:
        sls.fill(500)
        assert made.pull_raw(0, made.get_cursor_at(0, "begin"), 10).groups > 0


@pytest.mark.parametrize("region", ["", "cn-hangzhou"])
def test_a_query_with_every_kind_of_sign_is_signed_right(region: str) -> None:
    query = "* | where __topic__ != 'a b&c=d/é~*+%'"
    with SlsEmulator() as sls, client(source_of(sls, query=query, region=region)) as made:
        sls.fill(500)
        assert made.pull_raw(0, made.get_cursor_at(0, "begin"), 10).groups > 0
        assert sls.store().shards[0].pulls[-1].query == query


def test_what_we_lean_on_in_the_sdk_is_still_there() -> None:
    """Private names of a pinned series: when one goes, this says so before a customer does."""
    import inspect

    from aliyun.log import LogClient
    from aliyun.log.auth import AuthV1, AuthV4

    made: Any = LogClient
    sdk = made("http://127.0.0.1", "a", "b", source="")
    for name in ("_session", "_auth", "_isRowIp", "_logHost", "_endpoint", "_port", "http_type", "_user_agent"):
        assert hasattr(sdk, name), name
    sdk._session.close()
    wanted = ["method", "project", "body", "resource", "params", "headers", "respons_body_type", "compute_content_hash"]
    assert list(inspect.signature(made._send).parameters)[1:] == wanted
    assert list(inspect.signature(SlsClient._send).parameters)[1:] == [*wanted, "admit"]
    assert callable(AuthV1._getGMT)
    assert callable(AuthV4._do_sign_request)
