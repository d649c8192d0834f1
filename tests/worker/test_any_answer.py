"""Whatever comes back, there is a verdict, and only Splunk's own words are a success: bytes that are no HTTP, headers and
bodies that nobody sane would send. The table's rows, one by one: test_table.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.emulators.hec import HecEmulator
from worker.hec import HecClient
from worker.settings import HecSettings
from worker.verdict import Act, Reply, judge

HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after", "Location"]),
    st.one_of(st.text(max_size=30), st.sampled_from(
        ["²", "9" * 500, "-1", "1e3", "Mon, 01 Jan 0001 00:00:00 -0000", "Mon, 01 Jan 9999 23:59:59 -0000",
         "Mon, 99 Jan 99999 99:99:99 +99999999"]
    )), max_size=2,
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 30), st.integers(), st.floats(), st.text(max_size=5))
ANSWERS = st.dictionaries(
    st.sampled_from(["code", "text", "invalid-event-number", "ackId", "ackID"]),
    st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.just("9" * 5000)),
)
BODIES = st.one_of(
    st.binary(max_size=60), st.one_of(ANSWERS, SCALARS).map(lambda answer: json.dumps(answer).encode()),
    st.just(b'{"text":"\\ud83d"}'),
    st.sampled_from([b"[" * 100_000, b"1" * 5000, b'{"code":' + b"1" * 5000 + b"}", b"\xff\xfe{\x00", b'{"code":NaN}']),
)  # fmt: skip
STATUS = st.one_of(st.integers(100, 999), st.sampled_from([200, 400, 401, 403, 404, 413, 415, 429, 503]))


@settings(max_examples=500, deadline=None)
@given(STATUS, HEADERS, BODIES, st.integers(1, 10), st.booleans(), st.floats(0, 4e9))
def test_any_answer_at_all_has_a_verdict(
    status: int, headers: dict[str, str], body: bytes, events: int, wants_ack: bool, now: float
) -> None:
    verdict = judge(Reply(status, headers, body), events=events, wants_ack=wants_ack, now=now)
    assert verdict.retry_after is None or 0 <= verdict.retry_after <= 300
    assert verdict.number is None or 0 <= verdict.number < events
    assert -1 <= verdict.code <= 999, "a label of metrics has few values"
    assert orjson.dumps(verdict.why), "it is written into dead letters"
    if verdict.act is Act.ACCEPT:
        assert status == 200
        assert json.loads(body)["code"] in {0, 24, 25}


def test_a_digit_that_is_no_number_is_no_time_to_wait() -> None:
    """U+00B2, the byte B2 of a header."""
    assert judge(Reply(503, {"Retry-After": "²"}, b'{"code":9}'), events=1).retry_after is None


@pytest.fixture(scope="module")
def hec() -> Iterator[HecEmulator]:
    with HecEmulator() as made:
        yield made


FIRST = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 101 x", b"HTTP/1.1 0 x", b"HTTP/1.1 -1", b"HTTP/2 200",
                         b"HTTP/1.1 204 x", b"HTTP/1.1 304 x", b"HTTP/1.1 99999 x", b"ICY 200 OK"])  # fmt: skip
LINES = st.sampled_from(
    [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: x", b"Content-Length: 5, 6", b"Content-Length: " + b"9" * 30,
     b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Encoding: gzip", b"Content-Encoding: deflate",
     b"Content-Encoding: gzip, gzip", b'Set-Cookie: a"=\\";;=x', b"Set-Cookie: =", b'Set-Cookie: a="\\777"', b"Retry-After: \xb2",
     b"Connection: close", b" folded", b": empty", b"x" * 70_000]
)  # fmt: skip
REST = st.one_of(st.binary(max_size=30), st.sampled_from(
    [b'{"code":0,"text":"Success"}', b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"f" * 30 + b"\r\nx", b"5\r\nhel"]
))  # fmt: skip
RAW = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda first, lines, rest: b"\r\n".join([first, *lines]) + b"\r\n\r\n" + rest,
        st.one_of(FIRST, st.binary(max_size=20)),
        st.lists(st.one_of(LINES, st.binary(max_size=30).map(lambda one: one.replace(b"\n", b""))), max_size=5),
        REST,
    ),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RAW)
def test_any_bytes_at_all_in_place_of_an_answer_are_a_reply(hec: HecEmulator, raw: bytes) -> None:
    client = HecClient(HecSettings(urls=(hec.url,), token=hec.token, timeout=60.0, connect_timeout=60.0))
    hec.script.clear()
    hec.script.append({"raw": raw.decode("latin-1"), "close": True})
    try:
        reply = client.post(hec.url, hec.token, [b'{"event":1}'], channel="c", cookies={"a": "b"})
    finally:
        client.close()
    assert judge(reply, events=1).act is not Act.ACCEPT or b'"code":0' in raw
