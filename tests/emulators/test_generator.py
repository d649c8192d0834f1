"""The generator makes what it says, the same for the same seed, and its ledger can be trusted."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from aliyun.log import log_logs_pb2
from google.protobuf.message import DecodeError

from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator, gen_id
from tests.emulators.generator_ids import expected_ids, gen_ids, shard_ids, sparse_ids
from tests.emulators.generator_nasty import broken_groups, nasty_groups
from tests.emulators.generator_topics import TOPICS
from tests.emulators.sls import SlsEmulator

NOW = 1_767_225_600


def text(value: Any) -> bytes:
    """The library gives bytes where the UTF-8 is wrong."""
    return value if isinstance(value, bytes) else bytes(value.encode())


def by_library(data: bytes) -> wire.ParsedGroup:
    schema: Any = log_logs_pb2
    found = schema.LogGroup()
    found.ParseFromString(data)
    logs = tuple(
        wire.ParsedLog(
            log.Time,
            log.Time_ns if log.HasField("Time_ns") else None,
            tuple((text(one.Key), text(one.Value)) for one in log.Contents),
        )
        for log in found.Logs
    )
    tags = tuple((text(tag.Key), text(tag.Value)) for tag in found.LogTags)
    return wire.ParsedGroup(text(found.Topic), text(found.Source), tags, logs)


def test_the_same_seed_makes_the_same_logs() -> None:
    first, second = (Generator(3, start=NOW, nasty=0.1).data(2000) for _ in range(2))
    assert first == second
    assert first != Generator(4, start=NOW, nasty=0.1).data(2000)


def test_protobufs_own_library_reads_what_the_reader_reads() -> None:
    for data in Generator(1, nasty=0.3).data(2000):
        assert wire.parse_group(data) == by_library(data)


@pytest.mark.parametrize("name", sorted(nasty_groups(NOW)))
def test_every_nasty_group_is_protobuf(name: str) -> None:
    data = nasty_groups(NOW)[name]
    assert wire.parse_group(data) == by_library(data)


@pytest.mark.parametrize("name", sorted(broken_groups(NOW)))
def test_a_broken_group_is_not(name: str) -> None:
    if not name.startswith("lax"):
        with pytest.raises(DecodeError):
            by_library(broken_groups(NOW)[name])


def test_the_ledger_counts_what_was_made() -> None:
    generator = Generator(1, nasty=0.1)
    made = list(generator.groups(5000))
    held = [wire.parse_group(one.data) for one in made]
    assert generator.ledger.logs == 5000 == sum(len(group.logs) for group in held)
    assert generator.ledger.groups == len(made)
    assert generator.ledger.bytes == sum(len(one.data) for one in made)
    assert [one.logs for one in made] == [len(group.logs) for group in held]
    ids = [value.decode() for group in held for log in group.logs for key, value in log.pairs if key == b"gen_id"]
    assert ids == [gen_id(1, number) for number in range(generator.ledger.numbered)]
    assert generator.ledger.judge(ids) == (set(), {}, set())
    assert generator.ledger.judge([*ids[1:], ids[5], "foreign"]) == ({ids[0]}, {ids[5]: 2}, {"foreign"})


def test_the_mix_is_that_of_a_soc_and_every_topic_is_in_it() -> None:
    generator = Generator(2, logs_per_group=5)
    generator.data(20_000)
    assert set(generator.ledger.topics) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        share = generator.ledger.topics[topic.name] / 20_000 * 100
        assert abs(share - topic.share) < max(2.0, topic.share / 4)


@pytest.mark.parametrize("size", [200, 1000, 20_000, 100_000])
def test_logs_have_the_size_asked_for(size: int) -> None:
    generator = Generator(1, log_bytes=size, logs_per_group=4)
    total = sum(map(len, generator.data(100)))
    assert 0.7 < total / 100 / size < 1.3


def test_times_go_back_now_and_then_and_nanoseconds_are_set() -> None:
    groups = [wire.parse_group(data) for data in Generator(1, start=NOW).data(4000)]
    times = [group.logs[0].time for group in groups]
    assert any(later < earlier - 80_000 for earlier, later in pairwise(times))
    assert len({log.time_ns for group in groups for log in group.logs}) == 4000


def test_json_fields_are_json() -> None:
    data = Generator(1, topics=["actiontrail_audit_event"]).data(40)[0]
    event = json.loads(dict(wire.parse_group(data).logs[0].pairs)[b"event"])
    assert "SourceCidrIp" in json.loads(event["requestParameterJson"])


def test_expected_ids_follow_the_cursors() -> None:
    sls = SlsEmulator(project="proj", logstore="store", shards=2, first_cursor=500)
    sls.append([nasty_groups(NOW)["empty group"], nasty_groups(NOW)["nanoseconds"]], shard=0)
    sls.fill(41, shard=1)
    head = hashlib.sha256(b"proj/store").hexdigest()[:8]
    ids = list(expected_ids(sls.store()))
    assert ids[:4] == [f"{head}-0-501-{place}" for place in range(4)]
    assert (len(ids), ids[-1]) == (45, f"{head}-1-501-0")
    assert list(shard_ids(sls.store(), sls.store().shards[1], start=501)) == [f"{head}-1-501-0"]
    assert list(gen_ids(sls.store()))[-1] == (f"{head}-1-501-0", gen_id(1, 40))
    sls.split(0)
    sls.recreate_shard(1)
    assert list(expected_ids(sls.store())) == ids, "what is former is expected too"


def test_ids_of_a_filtered_pull_are_its_begin_and_the_place_in_it() -> None:
    sls = SlsEmulator(project="proj", logstore="store", first_cursor=500)
    sls.append(Generator(1, topics=["flow_log", "waf_access_log"], logs_per_group=2).data(40), shard=0)
    query = "* | where __topic__ = 'waf_access_log'"
    ids = list(sparse_ids(sls.store(), sls.store().shards[0], 500, 520, query))
    head = hashlib.sha256(b"proj/store").hexdigest()[:8]
    assert ids[:3] == [f"{head}-0-500.0-0", f"{head}-0-500.0-1", f"{head}-0-500.1-0"]
    assert 0 < len(ids) < 40
