"""The emulator as a process, steered over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.generator import Generator
from tests.emulators.sls_program import parse_fill
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--project", "proj", "--logstore", "store", "--shards", "3", "--fill", "1000", "--seed", "7"]


class Remote:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            pytest.fail("no output")
        self.process = process
        self.ready = json.loads(process.stdout.readline())
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __call__(self, method: str, command: str, given: Any = None) -> Any:
        body = None if given is None else json.dumps(given).encode()
        url = f"{self.ready['endpoint']}/_control/{command}"
        with self.opener.open(urllib.request.Request(url, body, method=method), timeout=20) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    command = [sys.executable, "-m", "tests.emulators.sls", *ARGUMENTS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        yield Remote(process)
        process.terminate()
        assert process.wait(60) == 0


def test_it_is_filled_and_says_with_what(remote: Remote) -> None:
    stats = remote("GET", "stats")
    assert stats["generated"]["proj/store"]["logs"] == 1000
    assert [(one["logstore"], one["shards"], one["groups"]) for one in stats["logstores"]] == [("store", 3, 25)]


def test_more_can_be_appended_to_a_shard_and_the_numbers_go_on(remote: Remote) -> None:
    before = {one["shard"]: one["end"] for one in remote("GET", "shards")}
    assert remote("POST", "append", {"logs": 80, "shard": 1})["numbered"] == 1080
    after = {one["shard"]: one["end"] for one in remote("GET", "shards")}
    assert {number: after[number] - before[number] for number in after} == {0: 0, 1: 2, 2: 0}
    assert len(remote("POST", "nasty", {"shard": 0})["nasty"]) == len(Generator().nasty())


def test_logs_are_fed_at_a_rate_until_it_is_stopped(remote: Remote) -> None:
    remote("POST", "logstore", {"logstore": "fed", "shards": 2})

    def made() -> int:
        return int(remote("GET", "stats")["generated"].get("proj/fed", {"logs": 0})["logs"])

    started = time.monotonic()
    assert remote("POST", "feed", {"logstore": "fed", "logs": 1000}) == {"logs": 1000.0}
    poll(lambda: made() > 300, "logs are fed")
    assert remote("POST", "feed", {"logs": 0}) == {"logs": 0.0}
    assert made() == made() <= 1000 * (time.monotonic() - started)


def test_what_is_stored_again_takes_no_memory_and_is_counted(remote: Remote) -> None:
    remote("POST", "logstore", {"logstore": "again", "shards": 2})
    again = {"logstore": "again", "reuse": 500_000}
    told = remote("POST", "append", {**again, "bytes": 2_000_000})["logs"]
    stats = remote("GET", "stats")
    (store,) = [one for one in stats["logstores"] if one["logstore"] == "again"]
    assert 2_000_000 <= store["raw_bytes"] < 2_200_000
    with remote.opener.open(f"{remote.ready['endpoint']}/_control/expected?logstore=again", timeout=20) as answer:
        assert stats["stored_again"]["proj/again"] == told == len(set(answer.read().split()))
    halves = [one["raw_bytes"] for one in remote("GET", "shards?logstore=again")]
    assert max(halves) < 2 * min(halves)
    remote("POST", "feed", {**again, "logs": 1000})
    poll(lambda: remote("GET", "stats")["stored_again"]["proj/again"] > told + 300, "logs are fed")
    remote("POST", "feed", {"logs": 0})


def test_shards_faults_knobs_clock_and_retention_are_steered(remote: Remote) -> None:
    remote("POST", "logstore", {"logstore": "other", "shards": 1})
    other = {"logstore": "other"}
    assert remote("POST", "split", {**other, "shard": 0}) == [1, 2]
    assert remote("POST", "merge", {**other, "shard": 1}) == [3]
    remote("POST", "append", {**other, "logs": 400, "shard": 3})
    begin = remote("GET", "shards?logstore=other")[3]["begin"]
    assert remote("POST", "trim", {**other, "shard": 3, "groups": 4}) == {"begin": begin + 4}
    assert remote("POST", "ttl", {**other, "days": 3}) == {"days": 3.0}
    assert remote("POST", "faults", [{"kind": "drop", "operation": "pull"}])[0]["kind"] == "drop"
    assert remote("DELETE", "faults") == []
    assert remote("POST", "knobs", {"zstd": False})["zstd"] is False
    assert remote("POST", "clock", {"skew": 5})["skew"] == 5.0
    assert remote("GET", "checkpoints") == {}
    assert remote("POST", "keys", [{"id": "new", "secret": "s"}]) == ["new"]
    # The connection before may not have been left yet.
    poll(lambda: remote("POST", "drop_connections") == {"dropped": 0}, "none but ours")


def test_a_wrong_command_says_which_there_are(remote: Remote) -> None:
    with pytest.raises(urllib.error.HTTPError) as found:
        remote("POST", "nonsense")
    with found.value as error:
        assert "post_append" in json.loads(error.read())["commands"]


def test_a_fill_is_in_logs_or_in_bytes() -> None:
    assert [parse_fill(text) for text in ("1000", "2k", "500MB", "1GiB", "1_000b")] == [
        (1000, None),
        (2000, None),
        (None, 500_000_000),
        (None, 1 << 30),
        (None, 1000),
    ]
