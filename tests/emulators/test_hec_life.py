"""The HEC emulator against facts/hec.md 6B, by number: channels and acks, states, balancers, faults, the record."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_client import code, post
from tests.emulators.hec_rules import Token
from tests.waiting import poll


@pytest.fixture
def hec() -> Iterator[HecEmulator]:
    with HecEmulator(knobs=Knobs(keep_envelopes=True)) as made:
        yield made


def test_6b_17_18_19_channels_and_acknowledgements() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec:
        assert code(post(hec, '{"event":1}')) == (400, 10, None)
        assert code(post(hec, '{"event":1}', X_Splunk_Request_Channel="no-guid")) == (400, 11, None)
        one, two = str(uuid.uuid4()), str(uuid.uuid4())
        ids = [post(hec, '{"event":1}', X_Splunk_Request_Channel=c)[1]["ackId"] for c in (one, one, two)]
        assert ids == [0, 1, 0]

        def poll_acks(channel: str) -> Any:
            return post(hec, '{"acks":[0,7]}', "/services/collector/ack", X_Splunk_Request_Channel=channel)[1]["acks"]

        assert poll_acks(one) == {"0": True, "7": False}
        assert poll_acks(one) == {"0": False, "7": False}, "true is said once"
        assert poll_acks(two) == {"0": True, "7": False}, "each channel has its own"
        cloud = replace(hec.knobs, profile="cloud")
        hec.knobs = cloud
        assert code(post(hec, '{"event":1}')) == (400, 28, None)


def test_6b_20_polling_with_a_token_that_does_not_acknowledge_is_said_before_the_channel(hec: HecEmulator) -> None:
    assert code(post(hec, '{"acks":[0]}', "/services/collector/ack")) == (400, 14, None)
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as acking:
        channel = str(uuid.uuid4())
        post(acking, '{"event":1}', X_Splunk_Request_Channel=channel)
        found = post(
            acking, '{"acks":[0]}', "/services/collector/ack", X_Splunk_Request_Channel=channel,
            Content_Type="application/json; charset=utf-8",
        )  # fmt: skip
        assert found == (200, {"acks": {"0": True}})


def acking_post(hec: HecEmulator, channel: str, body: str = '{"event":1}') -> tuple[int, Any]:
    return post(hec, body, X_Splunk_Request_Channel=channel)


def ask(hec: HecEmulator, channel: str, *ids: int) -> Any:
    body = json.dumps({"acks": ids})
    return post(hec, body, "/services/collector/ack", X_Splunk_Request_Channel=channel)[1]["acks"]


def test_6b_21_too_many_channels_are_refused_and_too_many_acks_forgotten() -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    with HecEmulator(tokens=[Token(TOKEN, ack=True)], knobs=Knobs(max_channels=1, max_pending=2)) as hec:
        for _ in range(3):
            assert acking_post(hec, one)[0] == 200
        assert code(acking_post(hec, two)) == (429, 27, None)
        hec.knobs.version = 8
        assert code(acking_post(hec, two)) == (503, 9, None)
        assert ask(hec, one, 0, 1, 2) == {"0": False, "1": True, "2": True}


def test_6b_22_the_ids_of_an_idle_channel_are_forgotten() -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec:
        acking_post(hec, one)
        hec.knobs.max_idle = 0.0
        acking_post(hec, two)
        hec.knobs.max_idle = 600.0
        assert ask(hec, one, 0) == {"0": False}


def test_6b_23_a_request_that_is_taken_in_part_gets_no_ack_id() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec:
        found = acking_post(hec, str(uuid.uuid4()), '{"event":{"sls_id":"a"}}{"event":null}')
        assert code(found) == (400, 6, 1)
        assert "ackId" not in found[1]
        assert set(hec.stored) == {"a"}
        poll(lambda: hec.unsure == {"a"}, "it is noted once the answer is away")


def test_6b_24_nearly_full_is_accepted_and_busy_is_not(hec: HecEmulator) -> None:
    hec.knobs.near_full = True
    assert code(post(hec, '{"event":1}'))[:2] == (200, 24)
    hec.knobs.near_full, hec.knobs.ack_near_full = False, True
    assert code(post(hec, '{"event":1}'))[:2] == (200, 25)
    hec.knobs.queue_full = True
    assert code(post(hec, '{"event":1}')) == (429, 26, None)
    hec.knobs.version, hec.knobs.number_when_full = 8, 0
    assert code(post(hec, '{"event":1}')) == (503, 9, 0)
    assert hec.total == 2


def test_6b_25_without_a_user_agent_the_answer_is_http_1_0_and_the_connection_ends(hec: HecEmulator) -> None:
    with socket.create_connection(("127.0.0.1", hec.server.port), timeout=10) as line:
        line.sendall(b"GET /services/collector/health HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while piece := line.recv(4096):
            received += piece
    assert received.startswith(b"HTTP/1.0 200")


def test_6b_26_detention_is_404_everywhere(hec: HecEmulator) -> None:
    hec.knobs.detention = True
    assert post(hec, '{"event":1}')[0] == 404
    assert requests.get(f"{hec.url}/services/collector/health", timeout=10).status_code == 404
    assert post(hec, '{"acks":[0]}', "/services/collector/ack")[0] == 404


def test_6b_27_raw_lines_take_their_metadata_from_the_query_and_the_host_from_the_proxy(hec: HecEmulator) -> None:
    raw = "/services/collector/raw?sourcetype=st&index=main&source=s"
    assert code(post(hec, "one\r\ntwo\n\n", raw)) == (200, 0, None)
    assert [e["event"] for e in hec.envelopes] == ["one", "two"]
    assert hec.envelopes[0] == {"host": "127.0.0.1", "sourcetype": "st", "index": "main", "source": "s", "event": "one"}
    hec.knobs.connection_host = "proxied_ip"
    post(hec, "three", raw, X_Forwarded_For="10.1.2.3, 10.9.9.9")
    assert hec.envelopes[-1]["host"] == "10.1.2.3"
    post(hec, "four", f"{raw}&host=h")
    assert hec.envelopes[-1]["host"] == "h"


@pytest.mark.parametrize("sticky", [True, False])
def test_6b_28_indexers_behind_one_address_have_their_own_acks_and_a_cookie_leads_back(sticky: bool) -> None:
    channel = str(uuid.uuid4())
    with HecEmulator(tokens=[Token(TOKEN, ack=True)], indexers=4, knobs=Knobs(sticky=sticky)) as hec:
        with requests.Session() as session:
            session.headers.update({"Authorization": f"Splunk {TOKEN}", "X-Splunk-Request-Channel": channel})
            url = f"{hec.url}/services/collector/event"
            ids = [session.post(url, data='{"event":1}', timeout=10).json()["ackId"] for _ in range(20)]
            cookies = session.cookies.get_dict()
            hec.knobs.session = 1
            again = session.post(url, data='{"event":1}', timeout=10)
        assert (ids == list(range(20))) is sticky
        assert len({r.indexer for r in list(hec.requests)[:20]}) == (1 if sticky else 4)
        assert bool(cookies) is sticky
        assert ("Set-Cookie" in again.headers) is sticky, "the session has moved on command"


def refused(hec: HecEmulator) -> None:
    with pytest.raises(requests.ConnectionError):
        post(hec, '{"event":1}')


def test_6b_29_pause_and_resume_lose_nothing_that_was_accepted_and_stopping_while_paused_ends(hec: HecEmulator) -> None:
    accepted: list[str] = []
    stop = threading.Event()

    def work(name: int) -> None:
        number = 0
        while not stop.is_set():
            one = f"{name}-{number}"
            if post(hec, json.dumps({"event": {"sls_id": one}}))[0] == 200:
                accepted.append(one)
                number += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = len(accepted)
        poll(lambda b=before: len(accepted) > b + 5, "it takes")  # type: ignore[misc]
        hec.outage(True)
        paused = hec.answers["503/9"]
        poll(lambda p=paused: hec.answers["503/9"] > p + 3, "it is paused")  # type: ignore[misc]
        hec.outage(False)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert set(hec.stored) == set(accepted)
    with HecEmulator() as other:
        other.outage(True, hang=3600)
        thread = threading.Thread(target=refused, args=(other,))
        thread.start()
        poll(lambda: other.server.connections, "a request hangs")
    thread.join(20)
    assert not thread.is_alive(), "it ended with the emulator"


BROKEN: dict[str, dict[str, Any]] = {
    "closed before it is read": {"read": 0},
    "closed in the body": {"read": 1000},
    "closed after it is read": {"drop": True},
    "closed after the status": {"code": 0, "sent": 0, "after": True},
    "garbage": {"raw": "\x00\x01garbage\r\n\r\n"},
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())
def test_6b_30_connections_end_where_the_script_says(hec: HecEmulator, fault: dict[str, Any]) -> None:
    hec.script.append(fault)
    large = json.dumps({"event": {"sls_id": "a", "pad": "x" * 3_000_000}})
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        post(hec, large)
    stored = {"a"} if fault.get("after") else set()
    poll(lambda: hec.unsure == stored, "it is noted once the answer is away")
    assert set(hec.stored) == stored
    assert code(post(hec, large))[:2] == (200, 0)


def test_6b_30_scripted_answers_stalls_and_slow_reading(hec: HecEmulator) -> None:
    location = {"Location": "/en-US/"}
    hec.script.extend(
        [{"status": 502, "body": "<html>"}, {"status": 303, "body": "", "headers": location}, {"hang": 0.05}]
    )
    assert post(hec, '{"event":1}')[0] == 502
    found = requests.post(
        f"{hec.url}/services/collector", data='{"event":1}', headers={"Authorization": f"Splunk {TOKEN}"}, timeout=10,
        allow_redirects=False,
    )  # fmt: skip
    assert (found.status_code, found.headers["Location"]) == (303, "/en-US/")
    assert post(hec, '{"event":1}')[0] == 200
    hec.script.append({"read_rate": 100_000})
    assert code(post(hec, '{"event":"' + "x" * 20_000 + '"}')) == (200, 0, None)


def test_6b_30_a_certificate_may_be_bad() -> None:
    with HecEmulator(tls=True) as hec:
        assert hec.authority
        health = f"{hec.url}/services/collector/health"
        assert requests.get(health, verify=hec.ca_file, timeout=10).status_code == 200
        for bad in (hec.authority.issue("ended", days=-1), hec.authority.issue("other", names="DNS:elsewhere")):
            hec.authority.use(*bad)
            with pytest.raises(requests.exceptions.SSLError):
                requests.get(health, verify=hec.ca_file, timeout=10)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(health, timeout=10)


def test_6b_31_the_record_tells_what_came_and_how_often(hec: HecEmulator) -> None:
    for _ in range(2):
        post(hec, '{"event":{"sls_id":"a"}}')
    assert hec.stored == {"a": 2}
    assert [r.status for r in hec.requests] == [200, 200]
    assert not hec.unsure, "both were told so"
    hec.script.append({"status": 504, "body": "<html>", "after": True})
    post(hec, '{"event":{"sls_id":"b"}}')
    assert hec.unsure == {"b"}


def test_a_crash_forgets_acks_and_what_was_not_acknowledged() -> None:
    channel = str(uuid.uuid4())
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec:
        acking_post(hec, channel, '{"event":{"sls_id":"safe"}}')
        assert ask(hec, channel, 0) == {"0": True}
        hec.knobs.ack_delay = -1
        acking_post(hec, channel, '{"event":{"sls_id":"lost"}}')
        hec.crash(lose_unacked=True)
        assert set(hec.stored) == {"safe"}
        assert acking_post(hec, channel)[1]["ackId"] == 0, "ids begin anew"
