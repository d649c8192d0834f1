"""`lag`, `group reset` and `group delete` as an operator runs them; a real consumer and the emulator are the witnesses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from buffer.errors import SpoolFull
from buffer.outside import LaneStats, lane_stats
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.values import Pull, ShardKey, Tally
from buffer.writer import LaneWriter
from supervisor import replay as module
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_client import SlsClient
from tests.waiting import poll
from tests.worker.consuming import House, body_of, source_of, stored
from worker.credentials import Credentials
from worker.sls import SlsClient as SlsDoor

ROOT = Path(__file__).resolve().parents[2]
RESET = ("group", "reset", "--source", "audit", "--to")


def write_settings(path: Path, sls: SlsEmulator, spool: Path) -> None:
    path.write_text(f"""
[[source]]
name = "audit"
project = "p"
logstore = "l"
endpoint = "{sls.endpoint}"
consumer_group = "siem"
start = "begin"
access_key_id = "ak"
access_key_secret = "sk"
[hec]
urls = ["http://127.0.0.1:1"]
token = "t"
[spool]
directory = "{spool}"
min_free_bytes = "1MiB"
force_file_system = true
""")


def run(config: Path, *command: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLS_", "SPLUNK_"))}
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *command, "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=clean,
    )  # fmt: skip


def test_a_group_is_reset_to_a_time_and_everything_since_is_read_again(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=2) as sls:
        write_settings(config, sls, spool)
        sls.fill(600)
        early = stored(sls)
        sls.clock.advance(3600)
        middle = datetime.fromtimestamp(sls.clock.now() - 1800, UTC).isoformat()
        sls.fill(600)
        # None but the first checkpoints are saved: only this host's own positions say that all of it has been put.
        sls.faults.add("status", "checkpoint", status=500, after=2)
        with House(spool, source_of(sls)) as house:
            house.start()
            poll(lambda: house.groups() == stored(sls), "everything is in the lane")
            busy = run(config, *RESET, middle, "--yes")
            assert busy.returncode == 75, busy.stderr
            house.kill()
        sls.faults.clear()
        before = sls.checkpoints("siem")
        asked = run(config, *RESET, middle)
        assert asked.returncode == 0
        assert "add --yes" in asked.stderr
        assert sls.checkpoints("siem") == before
        done = run(config, *RESET, middle, "--yes")
        assert done.returncode == 0, done.stderr
        assert "other hosts" in done.stderr
        assert sls.checkpoints("siem") == {n: min(at for s, at in stored(sls) - early if s == n) for n in (0, 1)}
        with House(spool, source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls) + (stored(sls) - early)


def test_a_group_is_reset_forward_and_what_lies_between_is_skipped_on_purpose(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=1) as sls:
        write_settings(config, sls, spool)
        missing = run(config, *RESET, "end", "--yes")
        assert missing.returncode == 69
        assert "there is no group siem" in missing.stderr
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "siem", 6)
        sls.fill(400)
        skipped = stored(sls)
        assert run(config, *RESET, "end", "--yes").returncode == 0, "a host without a spool may do it too"
        sls.fill(400)
        with House(spool, source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls) - skipped


@pytest.mark.parametrize("to", ["yesterday", "2026-01-01T00:00:00", "2h"])
def test_a_time_that_is_none_is_wrong_usage(tmp_path: Path, to: str) -> None:
    config = tmp_path / "sls-siem.toml"
    with SlsEmulator() as sls:
        write_settings(config, sls, tmp_path / "spool")
        done = run(config, *RESET, to, "--yes")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "-2h" in done.stderr.partition("hint: ")[2]
        assert not sum(sls.service.counts.values())


def test_a_deleted_group_is_forgotten_here_and_may_be_deleted_twice(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=1) as sls:
        write_settings(config, sls, spool)
        sls.fill(400)
        delete = ("group", "delete", "siem", "--source", "audit", "--yes")
        with House(spool, source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert run(config, *delete).returncode == 75
            assert "siem" in sls.store().groups
        for said in ("1 positions", "no such group any more"):
            done = run(config, *delete)
            assert done.returncode == 0, done.stderr
            assert said in done.stderr
            assert not sls.store().groups
        with House(spool, source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls) + stored(sls), "a first run: `start` counts again"
            assert sum(house.groups().values()) == 2 * Counter(stored(sls)).total()


def test_lag_names_the_owner_the_times_and_the_distance_of_each_shard(tmp_path: Path) -> None:
    config = tmp_path / "sls-siem.toml"
    with SlsEmulator(shards=3) as sls:
        write_settings(config, sls, tmp_path / "spool")
        with SlsClient(sls) as client:
            client.sdk.create_consumer_group("p", "l", "siem", 6)
        sls.fill(400, shard=0)
        sls.fill(400, shard=1)
        first = sls.clock.now()
        shards, group = sls.store().shards, sls.store().groups["siem"]
        with sls.service.lock:
            group.heartbeat("us-0", [], sls.store().views(), sls.clock.now())
            for number in (0, 1):
                for place in range(len(shards[number].received)):
                    shards[number].received[place] = first - 3600 + 10 * place
            group.save("us-0", 0, shards[0].first + 3, sls.store().views(), sls.clock.now(), force=False)
            group.save("us-0", 1, shards[1].end, sls.store().views(), sls.clock.now(), force=False)
        done = run(config, "lag", "--json")
        assert done.returncode == 0, done.stderr
        found = {one["shard"]: one for one in json.loads(done.stdout)["sources"][0]["shards"]}
        behind, level, empty = found[0], found[1], found[2]
        assert {one["owner"] for one in found.values()} == {"us-0"}
        assert behind["lag_groups"] == len(shards[0].framed) - 3
        assert level["lag_groups"] == empty["lag_groups"] == 0
        assert level["lag_seconds"] == empty["lag_seconds"] == 0
        assert moment(behind["checkpoint_time"]) == int(first - 3600 + 30)
        assert moment(behind["newest_time"]) == int(first - 3600 + 10 * (len(shards[0].framed) - 1))
        assert level["checkpoint_time"] == level["newest_time"]
        assert empty["newest_time"] is None
        assert abs(behind["lag_seconds"] - 3570) < 300, "the age of the oldest that is not checkpointed"
        ttl = 30 * 86400
        assert abs(behind["retention_left_seconds"] - (ttl - behind["lag_seconds"])) < 1
        table = run(config, "lag").stdout
        assert "owner" in table.splitlines()[0]
        assert "us-0" in table


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_a_replay_believes_no_body_that_does_not_verify_and_waits_troubles_out(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=2) as sls, House(spool, source_of(sls)) as house:
        write_settings(config, sls, spool)
        sls.fill(2_000)
        kinds = ("garbage", "wrong_count", "wrong_size", "cut", "truncate", "no_headers", "drop", "status")
        faults = [sls.faults.add(kind, "pull", count=1) for kind in kinds]
        sls.knobs.forced_codec = ""
        span = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")
        done = run(config, "replay", "--source", "audit", *span)
        assert done.returncode == 0, done.stderr
        assert [one.happened for one in faults] == [1] * len(kinds)
        (lane,) = [one for one in (spool / "lanes").iterdir() if one.name.endswith("-replay")]
        reader = LaneReader.open(lane, house.settings)
        pulls = [pull for batch in reader.read(0, 1000, 1 << 40) for pull in batch.pulls]
        reader.close()
        assert Counter((pull.key.shard, at) for pull in pulls for at in range(pull.begin, pull.next)) == stored(sls)
        for pull in pulls:
            shard = sls.store().shards[pull.key.shard]
            wanted = shard.framed[pull.begin - shard.first : pull.next - shard.first]
            assert body_of(pull) == b"".join(wanted)
            assert (pull.suspect, pull.codec) == (False, "lz4")


def test_a_replay_onto_a_full_disk_says_so_and_stores_no_more(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=1) as sls, House(spool, source_of(sls)):
        write_settings(config, sls, spool)
        config.write_text(config.read_text().replace('"1MiB"', '"900TiB"'))
        sls.fill(500)
        span = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")
        done = run(config, "replay", "--source", "audit", *span)
        assert done.returncode == 74, done.stderr
        error, hint = (line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:")))
        assert "must stay free" in error
        assert "min_free_bytes" in hint


def fetched(sls: SlsEmulator, settings: SpoolSettings) -> int:
    """A replay of all that SLS has, in this process: LogGroups that it says it has spooled."""
    source = source_of(sls)
    client = SlsDoor(source, Credentials(source))
    try:
        wanted = module.spans(client, sls.clock.now() - 86400, sls.clock.now() + 3600)
        return sum(module.replay(settings, source, client, wanted))
    finally:
        client.close()


def waiting(spool: Path) -> LaneStats:
    return lane_stats(module.lane_of(spool))


def test_what_is_replayed_while_the_clock_is_ahead_keeps_no_later_replay_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlsEmulator(shards=2) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        sls.fill(1_000)
        right = time.time_ns
        for ahead in (86400, 0, 0):
            monkeypatch.setattr(time, "time_ns", lambda ahead=ahead: right() + ahead * 1_000_000_000)
            before = waiting(house.settings.directory).groups
            assert fetched(sls, house.settings) == len(stored(sls))
            assert waiting(house.settings.directory).groups == before + len(stored(sls))


def test_a_replay_leaves_room_in_the_spool_for_what_is_new_and_goes_on_as_senders_make_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = Knobs(max_pull_bytes=200_000)
    with SlsEmulator(shards=1, knobs=knobs) as sls, House(tmp_path / "spool", source_of(sls)) as house:
        sls.fill(20_000)
        settings = replace(house.settings, max_bytes=1 << 20)
        monkeypatch.setattr(module, "PATIENCE", 1.0)
        with pytest.raises(SpoolFull, match="the spool is full"):
            fetched(sls, settings)
        held = waiting(settings.directory)
        assert 0 < held.groups < len(stored(sls))
        assert held.bytes + held.index_bytes < settings.max_bytes

        monkeypatch.setattr(module, "PATIENCE", 60.0)
        reader = LaneReader.open(module.lane_of(settings.directory), settings)
        ended = threading.Event()
        sent: Counter[int] = Counter()

        def drain() -> None:
            while not ended.is_set() or waiting(settings.directory).batches:
                found = reader.read(0, 1, 1 << 40)
                sent.update(at for batch in found for pull in batch.pulls for at in range(pull.begin, pull.next))
                reader.ack(found, [], Tally())
                ended.wait(0.02)

        sender = threading.Thread(target=drain)
        sender.start()
        try:
            assert fetched(sls, settings) == len(stored(sls))
        finally:
            ended.set()
            sender.join(30)
            reader.close()
        assert {at for _, at in stored(sls)} <= sent.keys()


def test_a_replay_waits_on_as_long_as_senders_send_though_new_logs_fill_what_they_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consumers go on at the same mark: the spool fills again while it drains, for longer than the patience."""
    settings = SpoolSettings(directory=tmp_path, max_bytes=1 << 20, min_free_bytes=1 << 20, force_file_system=True)
    lane = tmp_path / "lanes" / "0123456789abcdef-0"
    key, now, cursors = ShardKey("p", "l", "g", "", 0, 1), [0.0], count()

    def put() -> None:
        begin = next(cursors)
        writer.put([Pull(
            key=key, epoch=1, source="s", codec="none", raw_size=50_000, begin=begin, next=begin + 1, groups=1, sparse=False,
            suspect=False, arrived=1.0, pulled=2.0, body=bytes(50_000),
        )])  # fmt: skip

    def send() -> None:
        reader.ack(reader.read(0, 1, 1 << 40), [], Tally())

    def a_minute(_: float) -> None:
        now[0] += 60.0
        send()
        if now[0] < 600.0:
            put()

    writer = LaneWriter.open(lane, settings)
    reader = LaneReader.open(lane, settings)
    try:
        for _ in range(20):
            put()
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=a_minute)
        monkeypatch.setattr(module, "time", clock)
        module.await_budget(settings)
        assert now[0] >= 600.0
        for _ in range(10):
            put()
        clock.sleep = lambda _: now.append(now.pop() + 60.0)
        with pytest.raises(SpoolFull, match="nothing of it was sent"):
            module.await_budget(settings)
    finally:
        reader.close()
        writer.close()


def test_tap_shows_what_came_without_compression(tmp_path: Path) -> None:
    config = tmp_path / "sls-siem.toml"
    with SlsEmulator(shards=1) as sls:
        write_settings(config, sls, tmp_path / "spool")
        sls.fill(50)
        sls.knobs.forced_codec = ""
        done = run(config, "tap", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["events"]) == 5


@pytest.mark.parametrize("stage", ["raw", "event"])
def test_tap_says_which_shard_cannot_be_decoded_and_shows_the_others(tmp_path: Path, stage: str) -> None:
    config = tmp_path / "sls-siem.toml"
    with SlsEmulator(shards=2) as sls:
        write_settings(config, sls, tmp_path / "spool")
        sls.fill(50)
        sls.faults.add("garbage", "pull", shard=1)
        done = run(config, "tap", "--json", "--limit", "1000", "--stage", stage)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("error: audit: shard 1 from cursor ")
        assert "hint: SLS, or a proxy before it" in done.stderr
        found = json.loads(done.stdout)
        assert found["events"]
        assert [error["source"] for error in found["errors"]] == ["audit"]
        sls.faults.add("garbage", "pull", shard=0)
        assert run(config, "tap").stderr.count("cannot be decoded") == 2


def test_a_replay_goes_on_with_what_sls_has_when_retention_is_faster_than_its_turn(tmp_path: Path) -> None:
    config, spool = tmp_path / "sls-siem.toml", tmp_path / "spool"
    with SlsEmulator(shards=3) as sls, House(spool, source_of(sls)) as house:
        write_settings(config, sls, spool)
        sls.fill(3_000)
        everything, first = stored(sls), {number: shard.first for number, shard in sls.store().shards.items()}
        held = sls.faults.add("status", "pull", shard=0, status=500)
        span = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(run, config, "replay", "--source", "audit", *span)
            poll(lambda: held.happened, "every shard's range is known, and the first is on its turn")
            begin = sls.trim(1, 7)
            sls.store().shards.pop(2)
            sls.faults.clear()
            done = asked.result()
        gone = {1: begin - first[1], 2: sum(shard == 2 for shard, _ in everything)}
        assert done.returncode == 1, done.stderr
        assert f"{gone[1]} of shard 1, {gone[2]} of shard 2" in done.stderr
        reader = LaneReader.open(module.lane_of(spool), house.settings)
        pulls = [pull for batch in reader.read(0, 1000, 1 << 40) for pull in batch.pulls]
        reader.close()
        found = Counter((pull.key.shard, at) for pull in pulls for at in range(pull.begin, pull.next))
        assert found == Counter({one: 1 for one in everything if one[0] == 0 or (one[0] == 1 and one[1] >= begin)})
