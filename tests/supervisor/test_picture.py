"""`status` in words, for people, for Nagios and on a live screen."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from supervisor.cli_status import sparkline, trend, trends
from supervisor.picture import blocks, looked_into, loses_soon, nagios, waiting
from supervisor.status import GRAVITY, TITLES, iso
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, 3, 0, tzinfo=UTC).timestamp()
BOOKS = ("put", "settled", "waiting", "set_aside", "purged", "decoded", "delivered", "filtered", "buried", "delivered_later",
         "dead_purged")  # fmt: skip
HOLD = {
    "kind": "endpoint", "name": "https://splunk:8088", "title": "Splunk does not take", "since": iso(NOW - 60), "events": 0,
    "error": "503/9: Server is busy", "hint": "it comes back by itself", "next_probe": iso(NOW + 5), "age_seconds": 60.0,
}  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """A status.json, with what is to be different: `spool__batches=3`."""
    found: dict[str, Any] = {
        "schema": 1, "state": "running", "reason": "all is well", "time": iso(NOW),
        "supervisor": {"pid": 7, "since": iso(NOW - 7200), "version": "1.2.3", "spool_id": "ab", "host": "siem-1"},
        "children": [{"name": "consumer-0", "kind": "consumer", "pid": 8, "state": "running", "restarts": 0, "beat_age": 0.2,
                      "rss": 50_000_000}],
        "sources": [{"name": "trail", "shards": [shard(), shard(lag_seconds=12.0)]}],
        "spool": {"directory": "/s", "id": "ab", "format": "1", "bytes": 0, "max_bytes": 10_000_000_000, "batches": 0,
                  "groups": 0, "oldest_seconds": None, "level": 0, "ballast": True, "full_in_seconds": None, "free_bytes": 1,
                  "drained_in_seconds": 0.0, "live_again_in_seconds": 0.0, "books": dict.fromkeys(BOOKS, 0), "lanes": []},
        "rates": {"fetched_bytes_per_second": 2e6, "fetched_groups_per_second": 1.0, "delivered_events_per_second": 1500.0},
        "holds": [], "dead_letters": {"count": 0, "bytes": 0, "reasons": {}},
        "memory": {"used": 500_000_000, "budget": 1_000_000_000, "level": 0, "pss": 1},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            found[section][key] = value
        else:
            found[section] = value
    jsonschema.validate(found, json.loads((ROOT / "docs" / "schema" / "status.json").read_text()))
    return found


def shard(**changes: Any) -> dict[str, Any]:
    return {"shard": 0, "child": "consumer-0", "lag_seconds": 1.0, "retention_left_seconds": 30 * 86400.0,
            "checkpoint_age_seconds": 2.0, "newest_seconds": 3.0} | changes  # fmt: skip


def told(found: dict[str, Any], now: float = NOW) -> str:
    return "\n".join(" ".join(map(str, row)) for block in blocks(found, now) for row in block.rows)


def test_all_is_well_in_five_lines() -> None:
    text = told(document())
    for expected in (
        "sls-siem RUNNING all is well",
        "siem-1, 1.2.3, pid 7, up 2.0 h",
        "SLS 12 s behind 2 shards of 1 source; 2.0 MB/s come; the newest log came 3 s ago; SLS keeps the rest for 30.0 d",
        "nothing waits",
        "1,500 events/s",
        "dead letters 0 none",
        "50 % of 1.0 GB, level 0 of 3",
        "trail 2 12 s 3 s ago 30.0 d 2 s ago",
        "consumer-0 running 8 50 MB 0 s ago 0",
    ):
        assert expected in text
    assert "HOLD" not in text


def test_an_outage_tells_how_much_waits_and_how_it_goes_on() -> None:
    spool = {"spool__bytes": 5_000_000_000, "spool__batches": 900, "spool__oldest_seconds": 3600.0}
    growing = document(**spool, spool__full_in_seconds=7200.0, spool__drained_in_seconds=None)
    assert waiting(growing["spool"]) == [
        "of 10 GB", "900 batches, the oldest 60 min old", "full in 2.0 h at this rate", "not draining",
    ]  # fmt: skip
    draining = document(**spool, spool__drained_in_seconds=600.0, spool__live_again_in_seconds=1200.0)
    assert waiting(draining["spool"])[-2:] == ["drained in 10 min", "live again in 20 min"]
    losing = document(**spool, spool__drained_in_seconds=600.0, spool__live_again_in_seconds=None)
    assert waiting(losing["spool"])[-1] == "gaining nothing on new logs"
    usual = document(
        **spool, spool__drained_in_seconds=2.0, spool__full_in_seconds=9e6, spool__live_again_in_seconds=None
    )
    assert waiting(usual["spool"])[2:] == ["drained in 2 s"], "what always waits a little is no backlog"
    full = document(**spool, spool__level=1, spool__full_in_seconds=0.0)
    assert "pulling is stopped" in waiting(full["spool"])


def test_each_hold_has_its_cause_its_remedy_and_its_next_probe() -> None:
    text = told(document(state="degraded", holds=[HOLD, {**HOLD, "kind": "index", "name": "cloud", "events": 31}]))
    assert "HOLD Splunk does not take: endpoint https://splunk:8088" in text
    assert "do it comes back by itself" in text
    assert "for 60 s, next try at 03:00:05 UTC" in text
    assert "31 events waiting" in text


def test_a_stale_picture_says_of_when_it_is_and_forecasts_nothing() -> None:
    text = told(
        document(state="stale", spool__batches=3, spool__oldest_seconds=9.0, spool__full_in_seconds=60.0), NOW + 3600
    )
    assert "as of 2026-01-01 03:00:00 UTC, 60 min ago" in text
    assert "full in" not in text
    assert "MB/s" not in text


def test_a_picture_of_an_older_version_is_read_too() -> None:
    old = document(state="stale")
    for one in old["sources"][0]["shards"]:
        del one["newest_seconds"]
    del old["rates"], old["spool"]["live_again_in_seconds"], old["spool"]["free_bytes"], old["supervisor"]["host"]
    assert "STALE" in told(old)
    assert nagios(old)[0] == 2


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({}, 0, "OK - running: all is well | lag=12s retention_left=2592000s spool=0B oldest=0s dead_letters=0"),
        ({"state": "starting"}, 1, "WARNING - starting"),
        ({"state": "degraded", "holds": [HOLD]}, 1, "(it comes back by itself)"),
        ({"state": "degraded", "holds": [HOLD], "spool__full_in_seconds": 3600.0}, 2, "CRITICAL"),
        ({"state": "degraded", "holds": [{**HOLD, "kind": "token"}]}, 2, "CRITICAL"),
        ({"state": "paused", "holds": [{**HOLD, "kind": "memory"}]}, 1, "WARNING - paused"),
        ({"state": "paused", "holds": [{**HOLD, "kind": "disk"}]}, 2, "CRITICAL - paused"),
        ({"dead_letters": {"count": 37, "bytes": 1, "reasons": {"400/6": 37}}}, 1, "37 dead letters: sls-siem dead ls"),
        ({"sources": [{"name": "s", "shards": [shard(lag_seconds=4000.0)]}]}, 1, "running: source s is 67 min behind SLS"),
        ({"sources": [{"name": "s", "shards": [shard(lag_seconds=9e6, retention_left_seconds=7200.0)]}]}, 2, "deletes logs"),
        ({"state": "stale"}, 2, "CRITICAL - stale"),
        ({"state": "down"}, 2, "CRITICAL - down"),
    ],
)  # fmt: skip
def test_nagios(changes: dict[str, Any], code: int, expected: str) -> None:
    raw = document(**changes)
    found = nagios(raw | dict(zip(("state", "reason"), looked_into(raw), strict=True)))
    assert found[0] == code
    assert expected in found[1]
    assert found[1].count("deletes logs") <= 1, "as the supervisor has written it down, and not again"
    assert "\n" not in found[1]


def test_what_runs_says_what_is_not_as_it_should_be() -> None:
    assert looked_into(document(reason="anything")) == ("running", "all is well")
    late = document(
        sources=[{"name": "a", "shards": [shard()]}, {"name": "b", "shards": [shard(lag_seconds=7200.0)]}],
        spool__oldest_seconds=1200.0, dead_letters={"count": 1, "bytes": 1, "reasons": {"400/6": 1}},
    )  # fmt: skip
    assert looked_into(late) == (
        "running",
        "source b is 2.0 h behind SLS; Splunk takes too little: what waits is up to 20 min old; 1 dead letter: sls-siem dead ls",
    )
    gone = [{"name": "s", "shards": [shard(lag_seconds=29 * 86400.0, retention_left_seconds=7200.0)]}]
    state, why = looked_into(document(sources=gone))
    assert (state, why) == (
        "degraded",
        "SLS deletes logs that were not pulled in 2.0 h: raise the logstore's retention",
    )
    held = looked_into(document(sources=gone, state="paused", reason="the disk is full"))
    assert held == ("paused", f"the disk is full; {why}")
    assert looked_into(document(sources=gone, state="stopping", reason="asked to stop"))[1] == "asked to stop"


def test_the_spool_says_what_waits_without_the_dead_letters_and_those_how_large_they_are() -> None:
    parked = document(spool__bytes=3_000_000, dead_letters={"count": 2, "bytes": 3_000_000, "reasons": {}})
    assert "spool 0 B of 10 GB; nothing waits" in told(parked)
    assert "dead letters 2 parked until their hold ends; 3.0 MB" in told(parked)


def test_every_kind_of_hold_has_a_title_a_rank_and_a_place_in_the_schema() -> None:
    schema = json.loads((ROOT / "docs" / "schema" / "status.json").read_text())
    kinds = schema["properties"]["holds"]["items"]["properties"]["kind"]["enum"]
    assert set(kinds) == set(GRAVITY) == {title.split()[0] for title in TITLES}


@pytest.mark.parametrize(
    ("days", "lag", "soon"),
    [(1, 60, False), (1, 70_000, True), (30, 86400, False), (30, 23 * 86400, True), (180, 179.5 * 86400, True)],
)
def test_logs_are_lost_soon_by_a_quarter_of_the_retention_or_a_day(days: int, lag: float, soon: bool) -> None:
    assert loses_soon(shard(lag_seconds=lag, retention_left_seconds=days * 86400 - lag)) is soon
    assert not loses_soon(shard(lag_seconds=None, retention_left_seconds=None))


def test_sparklines_and_trends() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0.0, 4.0, 8.0]) == "▁▅█"
    assert (trend([1.0, 2.0, 3.0]), trend([3.0, 2.0]), trend([1.0])) == ("growing", "shrinking", "steady")
    later = deepcopy(document(spool__bytes=5_000_000))
    rows = trends([document(), later])
    assert [row[0] for row in rows] == ["read", "delivered", "backlog", "lag"]
    assert "growing" in rows[2][2]
    long = trends([document()] * 60, width=80)
    assert max(len(row[1]) for row in long) < 60, "a line each"
    assert all(9 + len(row[1]) + 4 + len(row[2]) <= 80 for row in long)
    assert len(trends([document()] * 60, width=200)[0][1]) == 60


# on a terminal


SETTINGS = """
[[source]]
project = "p"
logstore = "l"
endpoint = "https://127.0.0.1:1"
consumer_group = "g"
start = "begin"
access_key_id = "a"
access_key_secret = "s"
[hec]
urls = ["https://127.0.0.1:2"]
token = "t"
"""


def running(work: Path) -> Path:
    """A settings file, and a fresh status.json in its spool."""
    (work / "spool" / "run").mkdir(parents=True)
    refresh(work, delivered=0.0)
    config = work / "c.toml"
    config.write_text(SETTINGS + f'[spool]\ndirectory = "{work / "spool"}"\n')
    return config


def refresh(work: Path, delivered: float) -> None:
    """Not stale before a slow machine has read it."""
    found = document(
        time=iso(time.time() + 60), holds=[HOLD], state="degraded", rates__delivered_events_per_second=delivered
    )
    temporary = work / "spool" / "run" / ".new"
    temporary.write_text(json.dumps(found))
    temporary.replace(work / "spool" / "run" / "status.json")


class Terminal:
    """A command on a terminal of so many columns."""

    def __init__(self, columns: int, *command: str, **env: str) -> None:
        ours, theirs = pty.openpty()
        clean = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", *command], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
            env=clean | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "60", "LC_ALL": "C.UTF-8"} | env,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(ours, False)
        self.ours = ours
        self.seen = ""

    def text(self) -> str:
        """All that was written to it so far."""
        try:
            while data := os.read(self.ours, 65536):
                self.seen += data.decode(errors="replace")
        except OSError:
            pass
        return self.seen

    def end(self) -> str:
        self.process.wait(timeout=60)
        return self.text()


@contextmanager
def terminal(columns: int, *command: str, **env: str) -> Iterator[Terminal]:
    made = Terminal(columns, *command, **env)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(timeout=30)
        os.close(made.ours)


def test_on_a_terminal_it_has_colours_and_with_no_color_none(tmp_path: Path) -> None:
    config = str(running(tmp_path))
    with terminal(100, "status", "--config", config) as one:
        assert "\x1b[1;33mDEGRADED" in one.end()
    with terminal(100, "status", "--config", config, NO_COLOR="1") as one:
        text = one.end()
        assert "DEGRADED" in text
        assert "\x1b[3" not in text


def test_on_a_narrow_terminal_nothing_is_cut(tmp_path: Path) -> None:
    config = str(running(tmp_path))
    with terminal(40, "status", "--config", config, NO_COLOR="1") as one:
        text = re.sub(r"\x1b\[[0-9;]*m", "", one.end())
    assert max(len(line.rstrip("\r")) for line in text.splitlines()) <= 40
    for word in ("DEGRADED", "busy", "consumer-0", "itself"):
        assert word in text


def test_watch_follows_and_control_c_ends_it(tmp_path: Path) -> None:
    config = str(running(tmp_path))
    with terminal(120, "status", "--watch", "--config", config, NO_COLOR="1") as one:
        poll(lambda: "delivered" in one.text() and "0 events/s" in one.text(), "the first picture", 60)
        refresh(tmp_path, delivered=4321.0)
        poll(lambda: "4,321 events/s" in one.text(), "it follows", 30)
        poll(lambda: "▁█" in one.text(), "as a line, too", 30)
        os.kill(one.process.pid, signal.SIGINT)
        assert one.process.wait(timeout=30) == 0
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "status", "--watch", "--config", config],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, "not on a terminal it is one picture"
    assert "HOLD" in done.stdout


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"state": "running"}', "\x00\x01"])
def test_a_status_file_that_is_none_is_said(tmp_path: Path, content: str) -> None:
    config = running(tmp_path)
    (tmp_path / "spool" / "run" / "status.json").write_text(content)
    command = [sys.executable, "-m", "supervisor", "status", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "DOWN" in done.stdout
