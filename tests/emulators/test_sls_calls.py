"""Every call of the service, made by the SDK's own LogClient, with both signatures."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aliyun.log import LogClient, LogException, LogItem, PutLogsRequest

from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.emulators.sls_pull import decompress
from tests.emulators.sls_store import DAY, decode_cursor, encode_cursor


@pytest.fixture
def sls() -> Iterator[SlsEmulator]:
    with SlsEmulator(shards=2) as emulator:
        yield emulator


@pytest.fixture(params=["v1", "v4"])
def client(request: pytest.FixtureRequest, sls: SlsEmulator) -> Iterator[SlsClient]:
    with SlsClient(sls, auth_version=request.param, region="cn-hangzhou") as made:
        yield made


def refusal(call: object, *arguments: object, **keys: object) -> tuple[int, str]:
    with pytest.raises(LogException) as found:
        call(*arguments, **keys)  # type: ignore[operator]
    return found.value.get_resp_status(), found.value.get_error_code()


def test_the_sdk_reads_back_byte_for_byte_what_was_stored(sls: SlsEmulator, client: SlsClient) -> None:
    stored = Generator(nasty=0.2).data(400)
    sls.append(stored, shard=0)
    answer = client.sdk.pull_logs("p", "l", 0, client.cursor(0), count=1000)
    assert answer.get_loggroup_count() == len(stored)
    assert wire.parse_list(answer._raw_uncompressed_body) == stored
    assert answer.get_next_cursor() == client.cursor(0, "end")
    assert len(answer.get_loggroup_list().LogGroups) == len(stored)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "deflate", ""])
def test_each_codec_is_answered_as_asked(sls: SlsEmulator, codec: str) -> None:
    stored = Generator().data(200)
    sls.append(stored, shard=0)
    with SlsClient(sls) as client:
        status, headers, body = client.pull(0, client.cursor(0), codec=codec)
    assert (status, headers.get("x-log-compresstype", "")) == (200, codec)
    assert wire.parse_list(decompress(body, codec, int(headers["x-log-bodyrawsize"]))) == stored
    assert int(headers["x-log-count"]) == len(stored)
    assert headers["x-log-end-of-cursor"] == "1"
    assert int(headers["x-log-read-last-cursor"]) == decode_cursor(headers["x-log-cursor"]) - 1


def test_a_service_without_zstd_answers_lz4() -> None:
    with SlsEmulator(knobs=Knobs(zstd=False)) as sls, SlsClient(sls) as client:
        sls.fill(50)
        assert client.pull(0, client.cursor(0), codec="zstd")[1]["x-log-compresstype"] == "lz4"


def test_a_pull_is_bounded_by_count_by_bytes_and_by_its_end_cursor(sls: SlsEmulator) -> None:
    sls.fill(2000, shard=0)
    with SlsClient(sls) as client:
        begin = client.cursor(0)
        assert client.pull(0, begin, 7)[1]["x-log-count"] == "7"
        stop = encode_cursor(decode_cursor(begin) + 3)
        assert client.pull(0, begin, end_cursor=stop)[1]["x-log-cursor"] == stop
        sls.knobs.max_pull_bytes = 60_000
        headers = client.pull(0, begin)[1]
        assert 1 <= int(headers["x-log-count"]) <= 4
        assert int(headers["x-log-bodyrawsize"]) <= 60_000
        sls.knobs.max_pull_bytes = 1
        assert client.pull(0, begin)[1]["x-log-count"] == "1"


def test_an_empty_pull_has_no_body_and_the_same_cursor(sls: SlsEmulator) -> None:
    with SlsClient(sls) as client:
        end = client.cursor(1, "end")
        status, headers, body = client.pull(1, end)
    assert (status, body, headers["x-log-cursor"]) == (200, b"", end)
    assert (headers["x-log-count"], headers["x-log-bodyrawsize"]) == ("0", "0")
    assert "x-log-compresstype" not in headers


def test_cursors_by_time_are_those_of_arrival(sls: SlsEmulator, client: SlsClient) -> None:
    sls.clock.freeze(1_800_000_000.0)
    for _ in range(3):
        sls.fill(40, shard=0)
        sls.clock.advance(100)
    begin = decode_cursor(client.cursor(0))
    assert decode_cursor(client.cursor(0, "1800000050")) == begin + 1
    assert decode_cursor(client.cursor(0, "1800000100")) == begin + 1
    assert decode_cursor(client.cursor(0, "1900000000")) == begin + 3
    assert client.sdk.get_cursor_time("p", "l", 0, client.cursor(0)).get_cursor_time() == 1_800_000_000
    assert client.sdk.get_previous_cursor_time("p", "l", 0, client.cursor(0, "end")).get_cursor_time() == 1_800_000_200


def test_what_retention_took_is_an_invalid_cursor(sls: SlsEmulator, client: SlsClient) -> None:
    sls.fill(400, shard=0)
    old = client.cursor(0)
    sls.clock.advance(20 * DAY)
    sls.fill(80, shard=0)
    sls.clock.advance(11 * DAY)
    assert refusal(client.sdk.pull_logs, "p", "l", 0, old) == (400, "InvalidCursor")
    assert decode_cursor(client.cursor(0)) == decode_cursor(old) + 10
    beyond = encode_cursor(sls.store().shards[0].end + 1)
    assert refusal(client.sdk.pull_logs, "p", "l", 0, beyond) == (400, "InvalidCursor")
    assert refusal(client.sdk.pull_logs, "p", "l", 0, "%%%") == (400, "ParameterInvalid")


def test_split_and_merge_make_children_and_leave_parents_readable(sls: SlsEmulator, client: SlsClient) -> None:
    sls.fill(80, shard=0)
    first = client.sdk.split_shard("p", "l", 0, "3f" + "0" * 30).get_shards_info()
    assert [(one["shardID"], one["status"]) for one in first] == [(0, "readonly"), (2, "readwrite"), (3, "readwrite")]
    merged = client.sdk.merge_shard("p", "l", 2).get_shards_info()
    assert [one["shardID"] for one in merged] == [4, 2, 3]
    assert client.sdk.pull_logs("p", "l", 0, client.cursor(0)).get_loggroup_count() == 2
    shown = client.sdk.list_shards("p", "l").get_shards_info()
    assert {one["shardID"]: one["status"] for one in shown} == {
        0: "readonly",
        1: "readwrite",
        2: "readonly",
        3: "readonly",
        4: "readwrite",
    }
    assert all(one["createTime"] > 0 for one in shown)
    assert refusal(client.sdk.split_shard, "p", "l", 0, "3f" + "0" * 30) == (400, "ParameterInvalid")
    sls.clock.advance(31 * DAY)
    assert refusal(client.sdk.pull_logs, "p", "l", 0, encode_cursor(1)) == (400, "ShardNotExist")
    assert [one["shardID"] for one in client.sdk.list_shards("p", "l").get_shards_info()] == [1, 4]


def test_groups_are_made_changed_listed_and_deleted(sls: SlsEmulator, client: SlsClient) -> None:
    client.sdk.create_consumer_group("p", "l", "g", 30, False)
    assert refusal(client.sdk.create_consumer_group, "p", "l", "g", 30, False) == (400, "ConsumerGroupAlreadyExist")
    client.sdk.update_consumer_group("p", "l", "g", 60, True)
    shown = [one.to_string() for one in client.sdk.list_consumer_group("p", "l").get_consumer_groups()]
    assert shown == ["ConsumerGroup [consumerGroupName=g, timeout=60, inOrder=True]"]
    client.sdk.delete_consumer_group("p", "l", "g")
    assert refusal(client.sdk.heart_beat, "p", "l", "g", "c", []) == (404, "ConsumerGroupNotExist")


def test_the_thirty_first_group_is_too_many(sls: SlsEmulator, client: SlsClient) -> None:
    for number in range(30):
        client.sdk.create_consumer_group("p", "l", f"g{number}", 30, False)
    assert refusal(client.sdk.create_consumer_group, "p", "l", "h", 30, False) == (403, "ConsumerGroupQuotaExceed")


def test_checkpoints_belong_to_the_holder_unless_forced(sls: SlsEmulator, client: SlsClient) -> None:
    sdk = client.sdk
    sdk.create_consumer_group("p", "l", "g", 30, False)
    assert refusal(sdk.heart_beat, "p", "l", "g", "a", [0]) == (400, "NotExistConsumerWithBody")
    assert sdk.heart_beat("p", "l", "g", "a", []).get_shards() == [0, 1]
    at = client.cursor(0)
    assert sdk.get_check_point("p", "l", "g").get_consumer_group_check_points()[0]["checkpoint"] == ""
    sdk.update_check_point("p", "l", "g", 0, at, "a", False)
    assert refusal(sdk.update_check_point, "p", "l", "g", 0, at, "b", False) == (404, "ConsumerNotExist")
    sdk.heart_beat("p", "l", "g", "b", [])
    assert refusal(sdk.update_check_point, "p", "l", "g", 0, at, "b", False) == (404, "ConsumerNotMatch")
    sls.fill(40, shard=0)
    sdk.update_check_point("p", "l", "g", 0, client.cursor(0, "end"), "b", True)
    shown = sdk.get_check_point("p", "l", "g", 0).get_consumer_group_check_points()
    assert [(one["shard"], one["checkpoint"], one["consumer"]) for one in shown] == [(0, client.cursor(0, "end"), "a")]
    assert abs(shown[0]["updateTime"] / 1e6 - time.time()) < 60
    assert sdk.get_check_point("p", "l", "g", 77).get_consumer_group_check_points() == []
    assert refusal(sdk.update_check_point, "p", "l", "g", 0, "?", "a", False) == (400, "InvalidShardCheckPoint")
    seen = [(one.consumer, one.force, one.error) for one in sls.store().checkpoints]
    assert seen[:2] == [("a", False, ""), ("b", False, "ConsumerNotExist")]


def test_other_clients_can_write(sls: SlsEmulator, client: SlsClient) -> None:
    for codec in ("lz4", "zstd"):
        items = [LogItem(int(time.time()), contents=[("k", codec)])]
        client.sdk.put_logs(PutLogsRequest("p", "l", "t", "src", items, compress=True, compress_type=codec))
    assert sorted(shard.end - shard.first for shard in sls.store().shards.values()) == [1, 1]
    groups = [wire.parse_group(wire.parse_list(shard.framed[0])[0]) for shard in sls.store().shards.values()]
    assert {group.logs[0].pairs for group in groups} == {((b"k", b"lz4"),), ((b"k", b"zstd"),)}


def test_logstore_and_project_tell_about_themselves(sls: SlsEmulator, client: SlsClient) -> None:
    assert client.sdk.get_logstore("p", "l").get_ttl() == 30
    assert client.sdk.get_project("p").get_region() == "cn-hangzhou"
    assert client.sdk.list_logstore("p").get_logstores() == ["l"]
    client.sdk.create_logstore("p", "new", ttl=7, shard_count=3)
    assert client.sdk.get_logstore("p", "new").get_shard_count() == 3
    client.sdk.delete_logstore("p", "new")
    assert refusal(client.sdk.list_shards, "p", "new") == (404, "LogStoreNotExist")
    assert refusal(client.sdk.list_shards, "q", "l") == (404, "ProjectNotExist")


def test_a_shard_and_a_logstore_made_anew_have_other_cursors(sls: SlsEmulator) -> None:
    with SlsClient(sls) as client:
        sls.fill(80, shard=0)
        old, made = client.cursor(0), sls.store().shards[0].created
        time.sleep(0.01)
        sls.recreate_shard(0)
        assert refusal(client.sdk.pull_logs, "p", "l", 0, old) == (400, "InvalidCursor")
        assert int(sls.store().shards[0].created) > int(made), "createTime tells them apart"
        sls.add_logstore("l", 5, first_cursor=1000)
        assert decode_cursor(client.cursor(4)) == 1000


@pytest.mark.parametrize(
    ("query", "topics"),
    [
        ("* | where __topic__ = 'waf_access_log'", {b"waf_access_log"}),
        ("* | where warn_user = 'root'", {b"aegis-log-crack"}),
        ("shop.example.com", {b"waf_access_log"}),
        ("*", None),
    ],
)
def test_a_query_filters_groups_and_moves_the_cursor_over_them_all(
    sls: SlsEmulator, query: str, topics: set[bytes] | None
) -> None:
    sls.append(Generator(logs_per_group=10).data(4000), shard=0)
    with SlsClient(sls) as client:
        status, headers, body = client.pull(0, client.cursor(0), query=query, pullMode="scan_on_stream")
        assert headers["x-log-cursor"] == client.cursor(0, "end")
    found = [
        wire.parse_group(one) for one in wire.parse_list(decompress(body, "lz4", int(headers["x-log-bodyrawsize"])))
    ]
    assert (status, int(headers["x-log-count"]), headers["x-log-rawdatacount"]) == (200, len(found), "400")
    assert len(found) == 400 if topics is None else 0 < len(found) < 400
    assert topics is None or {group.topic for group in found} == topics


def test_a_shard_has_a_read_quota(sls: SlsEmulator) -> None:
    sls.clock.freeze()
    sls.fill(400, shard=0)
    sls.knobs.read_bytes_per_second = 1000.0
    with SlsClient(sls) as client:
        begin = client.cursor(0)
        assert [client.pull(0, begin)[0] for _ in range(2)] == [200, 403]
        assert json.loads(client.pull(0, begin)[2])["errorCode"] == "ShardReadQuotaExceed"
        assert client.pull(1, client.cursor(1))[0] == 200
        sls.clock.advance(3600)
        assert client.pull(0, begin)[0] == 200
        sls.knobs.read_bytes_per_second, sls.knobs.read_calls_per_second = None, 2.0
        sls.clock.advance(3600)
        assert [client.pull(0, begin)[0] for _ in range(3)] == [200, 200, 403]


def test_wrong_keys_old_tokens_and_wrong_clocks_are_refused(sls: SlsEmulator) -> None:
    sls.service.keys["sts"] = AccessKey("sts", "s", token="good", expires=time.time() + 3600)
    calls = {
        ("ak", "wrong", None): (401, "SignatureNotMatch"),
        ("nobody", "sk", None): (401, "Unauthorized"),
        ("sts", "s", None): (401, "Unauthorized"),
        ("sts", "s", "bad"): (401, "Unauthorized"),
    }
    for version in ("v1", "v4"):
        for (ak, sk, token), expected in calls.items():
            with SlsClient(sls, ak, sk, token, auth_version=version, region="cn-hangzhou") as client:
                assert refusal(client.sdk.list_shards, "p", "l") == expected
        with SlsClient(sls, "sts", "s", "good", auth_version=version, region="cn-hangzhou") as client:
            assert client.sdk.list_shards("p", "l").count == 2
            sls.clock.skew = 7200.0
            assert refusal(client.sdk.list_shards, "p", "l") == (400, "RequestTimeTooSkewed")
            sls.clock.skew = 0.0
    sls.service.keys["sts"].expires = time.time() - 1
    with SlsClient(sls, "sts", "s", "good") as client, pytest.raises(LogException, match="has expired"):
        client.sdk.list_shards("p", "l")


def test_a_missing_permission_is_named(sls: SlsEmulator) -> None:
    sls.service.keys["ak"].allowed = frozenset({"log:GetCursorOrData"})
    with SlsClient(sls) as client:
        client.cursor(0)
        with pytest.raises(
            LogException, match=r"action: log:ConsumerGroupHeartBeat, resource: acs:log:.*/consumergroup/g"
        ):
            client.sdk.heart_beat("p", "l", "g", "c", [])


def test_it_is_reached_as_a_proxy_by_any_name(sls: SlsEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", sls.proxy)
    monkeypatch.setenv("http_proxy", sls.proxy)
    for version in ("v1", "v4"):
        sdk: Any = LogClient(
            "http://cn-hangzhou.log.aliyuncs.com", "ak", "sk", auth_version=version, region="cn-hangzhou"
        )
        assert sdk.list_shards("p", "l").count == 2
        assert refusal(sdk.list_shards, "other", "l") == (404, "ProjectNotExist")
        sdk._session.close()


def test_it_is_reached_over_tls_directly_and_through_a_connect_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with SlsEmulator(tls=True) as sls, SlsClient(sls) as client:
        assert client.sdk.list_shards("p", "l").count == 1
    with SlsEmulator() as sls:
        monkeypatch.setenv("HTTPS_PROXY", sls.proxy)
        monkeypatch.setenv("https_proxy", sls.proxy)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sls.ca_file))
        secure: Any = LogClient("https://cn-hangzhou.log.aliyuncs.com", "ak", "sk")
        assert secure.list_shards("p", "l").count == 1
        secure._session.close()


def test_it_stops_and_comes_back_on_the_same_port_with_its_data(sls: SlsEmulator) -> None:
    sls.fill(40, shard=0)
    with SlsClient(sls) as client:
        begin, port = client.cursor(0), sls.port
        sls.stop()
        with pytest.raises(LogException, match=r"refused|aborted|reset"):
            client.pull(0, begin)
        sls.start()
        assert (sls.port, client.pull(0, begin)[0]) == (port, 200)


def test_a_proxy_that_rewrites_header_names_is_played(sls: SlsEmulator) -> None:
    sls.knobs.title_case_headers = True
    with SlsClient(sls) as client:
        found = client.sdk._session.get(f"{sls.endpoint}/logstores/l/shards", timeout=10)
    assert "X-Log-Requestid" in list(found.headers)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_ends_the_connection_and_nothing_else(sls: SlsEmulator, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sls.port), 60) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""
    with SlsClient(sls) as client:
        assert client.cursor(0)


@pytest.mark.parametrize(
    ("method", "resource", "status", "code"),
    [
        ("POST", "/logstores/l/consumergroups/", 400, "PostBodyInvalid"),
        ("PATCH", "/logstores/l/consumergroups/g", 405, "InvalidMethod"),
        ("GET", "/elsewhere", 404, "InvalidUri"),
        ("GET", "/logstores/l/shards/zero", 400, "ParameterInvalid"),
        ("GET", "/logstores/l/shards/0", 400, "ParameterInvalid"),
    ],
)
def test_calls_that_do_not_exist_are_refused_in_json(
    sls: SlsEmulator, method: str, resource: str, status: int, code: str
) -> None:
    with SlsClient(sls) as client:
        found = client.call(method, resource)
    assert (found[0], json.loads(found[2])["errorCode"]) == (status, code)
    assert len(found[1]["x-log-requestid"]) == 24
