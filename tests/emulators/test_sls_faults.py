"""Each fault does what it says, to the calls it names, as often as it says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import lz4.block
import pytest
from aliyun.log import LogException

from tests.emulators import generator_wire as wire
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll


@pytest.fixture
def sls() -> Iterator[SlsEmulator]:
    with SlsEmulator(shards=2) as emulator:
        emulator.fill(400)
        yield emulator


@pytest.fixture
def client(sls: SlsEmulator) -> Iterator[SlsClient]:
    with SlsClient(sls) as made:
        yield made


def test_a_status_comes_with_its_code_as_often_as_asked(sls: SlsEmulator, client: SlsClient) -> None:
    fault = sls.faults.add("status", "pull", status=429, code="Busy", shard=0, after=1, count=2)
    begin = [client.cursor(0), client.cursor(1)]
    assert [client.pull(0, begin[0])[0] for _ in range(4)] == [200, 429, 429, 200]
    assert client.pull(1, begin[1])[0] == 200
    assert (fault.matched, fault.happened) == (4, 2)
    sls.faults.add("status", "pull", status=502, text="<html>bad gateway</html>")
    assert client.pull(0, begin[0])[2] == b"<html>bad gateway</html>"
    sls.faults.clear()
    assert client.pull(0, begin[0])[0] == 200


def test_a_probability_is_one(sls: SlsEmulator, client: SlsClient) -> None:
    sls.faults.add("status", "list_shards", status=500, probability=0.5)
    answers = [client.call("GET", "/logstores/l/shards")[0] for _ in range(100)]
    assert 25 < answers.count(500) < 75


def test_a_dropped_connection_ends_without_an_answer(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    sls.faults.add("drop", "pull", count=1)
    with pytest.raises(LogException, match="Connection aborted"):
        client.pull(0, begin)
    assert client.pull(0, begin)[0] == 200


def test_after_the_call_only_the_answer_is_lost(sls: SlsEmulator, client: SlsClient) -> None:
    client.sdk.create_consumer_group("p", "l", "g", 30, False)
    client.sdk.heart_beat("p", "l", "g", "c", [])
    sls.faults.add("drop_after", "checkpoint", count=1)
    with pytest.raises(LogException, match="Connection aborted"):
        client.sdk.update_check_point("p", "l", "g", 0, client.cursor(0), "c", False)
    assert sls.checkpoints("g")[0] == sls.store().shards[0].first
    sls.faults.add("status_after", "checkpoint", count=1, status=403, code="Odd")
    with pytest.raises(LogException, match="Odd"):
        client.sdk.update_check_point("p", "l", "g", 1, client.cursor(1), "c", False)
    assert sls.checkpoints("g")[1] == sls.store().shards[1].first


def test_a_delay_is_late_and_a_hang_ends_with_the_clients_patience(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    sls.faults.add("delay", "pull", seconds=0.3, count=1)
    started = time.monotonic()
    assert client.pull(0, begin)[0] == 200
    assert time.monotonic() - started >= 0.3
    sls.faults.add("hang", "pull", count=1)
    client.sdk.timeout = (1, 0.2)
    with pytest.raises(LogException, match="timed out"):
        client.pull(0, begin)


def test_bodies_are_spoiled_and_headers_lie(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    _, good, body = client.pull(0, begin)

    def pull(kind: str, **keys: object) -> tuple[dict[str, str], bytes]:
        sls.faults.add(kind, "pull", count=1, **keys)
        status, headers, found = client.pull(0, begin)
        assert status == 200
        return headers, found

    assert pull("garbage")[1] != body
    flipped = pull("flip")[1]
    assert (len(flipped), sum(a != b for a, b in zip(flipped, body, strict=True))) == (len(body), 1)
    assert int(pull("wrong_count", amount=-1)[0]["x-log-count"]) == int(good["x-log-count"]) - 1
    assert int(pull("wrong_size", amount=5)[0]["x-log-bodyrawsize"]) == int(good["x-log-bodyrawsize"]) + 5
    assert pull("cut")[1] == body[: len(body) // 2]
    assert pull("empty")[1] == b""
    assert not {"x-log-cursor", "x-log-count", "x-log-bodyrawsize"} & pull("no_headers")[0].keys()
    assert pull("body", text="<html>")[1] == b"<html>"
    assert "x-log-compresstype" not in pull("no_headers", names=["x-log-compresstype"])[0]
    assert client.pull(0, begin)[2] == body


def test_a_truncated_body_ends_before_its_length(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    sls.faults.add("truncate", "pull", count=1)
    with pytest.raises(LogException, match="IncompleteRead"):
        client.pull(0, begin)


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_a_bomb_is_small_on_the_wire_and_true_to_its_header(sls: SlsEmulator, client: SlsClient, size: int) -> None:
    begin = client.cursor(0)
    sls.faults.add("bomb", "pull", amount=size)
    _, headers, body = client.pull(0, begin)
    assert headers["x-log-bodyrawsize"] == str(size)
    assert len(body) < size / 200 + 100
    assert lz4.block.decompress(body, uncompressed_size=size) == b"\0" * size


def test_a_slow_answer_trickles(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    size = len(client.pull(0, begin)[2])
    sls.faults.add("slow", "pull", amount=size * 2, count=1)
    started = time.monotonic()
    assert len(client.pull(0, begin)[2]) == size
    assert time.monotonic() - started > 0.3


def test_faults_are_chosen_by_consumer_and_an_empty_heartbeat_is_one(sls: SlsEmulator, client: SlsClient) -> None:
    client.sdk.create_consumer_group("p", "l", "g", 30, False)
    sls.faults.add("empty", "heartbeat", consumer="bad-*")
    heartbeat = "/logstores/l/consumergroups/g"
    answers = [
        client.call("POST", heartbeat, {"type": "heartbeat", "consumer": name}, b"[]")[2] for name in ("bad-1", "good")
    ]
    assert answers == [b"", b"[]"]
    assert client.call("POST", heartbeat, {"type": "heartbeat", "consumer": "bad-1"}, b"[]")[0] == 200


def test_connections_can_be_cut_while_they_wait(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    sls.faults.add("hang", "pull", count=1)
    failed: list[BaseException] = []

    def pull() -> None:
        try:
            client.pull(0, begin)
        except LogException as error:
            failed.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    poll(lambda: sls.faults.dump()[0]["happened"], "the pull hangs")
    assert sls.server.drop_connections() == 1
    thread.join(60)
    assert failed


def test_everything_that_happened_is_on_record(sls: SlsEmulator, client: SlsClient) -> None:
    begin = client.cursor(0)
    _, headers, body = client.pull(0, begin)
    sls.faults.add("status", "pull", status=503, code="ServerBusy", count=1)
    assert json.loads(client.pull(0, begin)[2])["errorCode"] == "ServerBusy"
    last = list(sls.service.requests)[-3:]
    assert [(one.operation, one.shard, one.status, one.code, one.fault) for one in last] == [
        ("cursor", 0, 200, "", ""),
        ("pull", 0, 200, "", ""),
        ("pull", 0, 503, "ServerBusy", "status"),
    ]
    record = sls.store().shards[0].pulls[-1]
    assert (record.count, record.raw_bytes) == (int(headers["x-log-count"]), int(headers["x-log-bodyrawsize"]))
    assert record.next - record.cursor == len(wire.parse_list(lz4.block.decompress(body, record.raw_bytes)))
