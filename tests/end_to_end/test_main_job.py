"""The main job as a user runs it. Witnesses: the emulators' own records, the file system, the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.books import assert_books, books
from tests.end_to_end.house import PROGRAM, ROOT, House
from tests.waiting import poll

EVENTS = int(os.environ.get("SLS_SIEM_E2E_EVENTS", "100000"))


def checkpoints_at_end(house: House) -> bool:
    """As the SLS emulator has them: every shard's checkpoint is its end."""
    ends = {str(s["shard"]): s["end"] for s in house.sls.get("shards")}
    saved = house.sls.get("checkpoints").get("g", {}).get("shards", {})
    return all(saved.get(n, {}).get("checkpoint") == end for n, end in ends.items())


def test_a_hundred_thousand_events_arrive_once_each_and_well_formed(tmp_path: Path) -> None:
    with House(
        tmp_path, shards=8, consumers=4, senders=2, sls_options=("--fill", str(EVENTS), "--nasty", "0.01"),
        hec_options=("--keep-envelopes",),
    ) as house:  # fmt: skip
        house.start()
        house.wait_delivered(180)
        assert house.delivered() == dict.fromkeys(house.expected(), 1)
        poll(lambda: checkpoints_at_end(house), "checkpoints at the end of every shard", 30)
        assert house.stop() == 0, house.tail()
        assert "child killed" not in (tmp_path / "supervisor.log").read_text(), "all stopped by themselves, in time"
        assert_books(house)
        for line in house.hec.text("envelopes").split("\n"):
            assert_well_formed(json.loads(line))


def assert_well_formed(envelope: dict[str, object]) -> None:
    assert envelope.keys() <= {"time", "host", "source", "sourcetype", "index", "event", "fields"}
    assert re.fullmatch(r"\d+(\.\d{9})?", str(envelope["time"])), envelope["time"]
    assert envelope["source"] == "sls:p/l"
    assert str(envelope["sourcetype"]).startswith("aliyun:")
    assert envelope["host"]
    event = envelope["event"]
    assert isinstance(event, dict)
    assert "__topic__" in event
    assert event["sls_id"]


def test_splunk_busy_stalls_nothing_and_two_kills_of_the_whole_tree_lose_nothing(tmp_path: Path) -> None:
    with House(tmp_path, shards=4, consumers=2, senders=2, sls_options=("--fill", "30000")) as house:
        house.hec.post("outage", on=True)
        house.start()
        poll(lambda: checkpoints_at_end(house), f"consumption to the end of every shard; {house.tail()}", 90)
        assert not house.delivered()
        house.kill_tree()
        assert_no_process(house)
        house.start()
        house.sls.post("append", logs=5000)
        poll(lambda: checkpoints_at_end(house), f"the rest is read; {house.tail()}", 90)
        house.kill_tree()
        house.start()
        house.hec.post("outage", on=False)
        house.wait_delivered()
        poll(lambda: books(house)["waiting"] == 0, "the spool is empty", 30)
        assert house.stop() == 0, house.tail()
        assert_books(house)
        assert set(house.delivered().values()) == {1}, "nothing was in flight when it was killed"


def assert_no_process(house: House) -> None:
    def theirs() -> list[str]:
        found = []
        for cmdline in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if str(house.work).encode() in cmdline.with_name("cmdline").read_bytes():
                    found.append(cmdline.parent.name)
        ours = {str(house.sls.process.pid), str(house.hec.process.pid), str(os.getpid())}
        return [pid for pid in found if pid not in ours]

    poll(lambda: not theirs(), "no orphan", 20)


def test_a_killed_consumer_is_replaced_and_stores_nothing_twice(tmp_path: Path) -> None:
    with House(tmp_path, shards=4, consumers=2, senders=1, sls_options=("--fill", "20000")) as house:
        house.start()
        poll(house.delivered, f"the flow has begun; {house.tail()}", 60)
        for _ in range(3):
            for child in house.tree()[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            house.sls.post("append", logs=3000)
        house.wait_delivered()
        poll(lambda: checkpoints_at_end(house), "checkpoints at the end", 60)
        assert house.stop() == 0, house.tail()
        assert_books(house)


ROUTES = """
[[route]]
topic = "actiontrail_*event"
sourcetype = "my:trail"
index = "cloud_audit"
json_fields = ["event", "event.requestParameterJson"]
fields = {team = "soc"}
[[route]]
topic = "sas-*"
drop = true
[[route]]
host = "=h"
time_field = "start_time"
"""


def test_tap_shows_what_splunk_gets_and_a_route_that_drops_sends_nothing(tmp_path: Path) -> None:
    with House(
        tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "3000"), hec_options=("--keep-envelopes",),
        toml=ROUTES,
    ) as house:  # fmt: skip
        done = house.run("tap", "--limit", "10000", "--json")
        assert done.returncode == 0, done.stderr
        shown = {one["event"]["sls_id"]: one for one in json.loads(done.stdout)["events"]}
        assert house.start("--once").wait(90) == 0, house.tail()
        sent = {one["event"]["sls_id"]: one for one in map(json.loads, house.hec.text("envelopes").split("\n"))}
        dropped = house.expected() - sent.keys()
        assert dropped
        assert_books(house, filtered=dropped)
        assert len(shown) > 50
        assert shown == {one: sent[one] for one in shown}
        trails = [one for one in sent.values() if one["event"]["__topic__"].startswith("actiontrail_")]
        assert {(one["sourcetype"], one["index"], one["fields"]["team"]) for one in trails} == {
            ("my:trail", "cloud_audit", "soc")
        }
        assert all(isinstance(one["event"]["event"], dict) for one in trails)
        assert not [one for one in sent.values() if one["event"]["__topic__"].startswith("sas-")]
        assert {one["host"] for one in sent.values() if one not in trails} == {"h"}


def two_lines(text: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) >= 2, text
    assert lines[0].startswith("error:"), text
    assert lines[-1].startswith("hint:"), text


def supervise(house: House, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "supervise", "--config", str(house.config), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=house.environment,
    )  # fmt: skip


def test_bad_settings_end_with_78_and_say_all_that_is_wrong(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.config.write_text(
            house.settings().replace("workers = 2", "workres = 2").replace('"begin"', '"yesterday"')
        )
        done = supervise(house)
        assert done.returncode == 78
        two_lines(done.stderr)
        assert "workers" in done.stderr
        assert "yesterday" not in done.stderr or "start" in done.stderr


def test_a_spool_directory_that_cannot_be_made_ends_with_74(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        (tmp_path / "spool").write_text("a file is in the way")
        done = supervise(house)
        assert done.returncode == 74, done.stderr
        two_lines(done.stderr)


def test_a_port_in_use_and_a_spool_in_use_end_with_75(tmp_path: Path) -> None:
    with House(tmp_path) as house, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        house.config.write_text(house.settings().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        done = supervise(house)
        assert done.returncode == 75, done.stderr
        two_lines(done.stderr)
        house.configure()
        house.start()
        poll(lambda: house.status().get("state") in {"running", "degraded"}, f"running; {house.tail()}", 60)
        second = supervise(house)
        assert second.returncode == 75, second.stderr
        two_lines(second.stderr)
        assert house.stop() == 0
        assert_books(house)


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        (('access_key_secret = "sk"', 'access_key_secret = "wrong"'), "source", 77),
        (('logstore = "l"', 'logstore = "missing"'), "source", 69),
    ],
    ids=["wrong AccessKey", "no such logstore"],
)
def test_what_sls_refuses_is_a_hold_and_supervise_goes_on(
    tmp_path: Path, change: tuple[str, str], kind: str, code: int
) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1) as house:
        house.config.write_text(house.settings().replace(*change))
        house.start()
        poll(lambda: any(h["kind"] == kind for h in house.status().get("holds", [])), f"a hold; {house.tail()}", 30)
        hold = next(h for h in house.status()["holds"] if h["kind"] == kind)
        assert hold["error"]
        assert hold["hint"]
        assert house.run("check").returncode == code
        assert house.supervisor is not None
        assert house.supervisor.poll() is None, "supervise goes on"
        assert house.stop() == 0
        assert_books(house, unread=True)


def test_a_wrong_token_is_a_hold_and_ends_by_itself_when_splunk_knows_it(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        good = house.config.read_text()
        token_file = tmp_path / "token"
        token_file.write_text("wrong")
        token_file.chmod(0o600)
        house.config.write_text(re.sub(r'token = ".*"', f'token_file = "{token_file}"', good))
        house.start()
        poll(lambda: any(h["kind"] == "token" for h in house.status().get("holds", [])), f"a hold; {house.tail()}", 30)
        assert house.run("check").returncode == 77
        assert not house.delivered()
        token_file.write_text(house.hec.ready["token"])
        house.wait_delivered()
        poll(lambda: not house.status().get("holds"), "the hold has ended", 30)
        assert house.stop() == 0
        assert_books(house)


def test_no_secret_ever_reaches_log_status_or_argv(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        secret = "a-secret-that-is-nowhere-else-5f0c"
        house.config.write_text(house.settings().replace('access_key_secret = "sk"', f'access_key_secret = "{secret}"'))
        house.start()
        poll(lambda: house.status().get("holds"), f"the wrong key is held; {house.tail()}", 30)
        token = house.hec.ready["token"]
        for pid in house.tree():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            assert secret not in command
            assert token not in command
        shown = house.run("config", "show", "--json").stdout + house.run("status", "--json").stdout
        assert house.stop() == 0
        assert_books(house, unread=True)
        written = (
            house.tail()
            + shown
            + "".join(p.read_text(errors="replace") for p in (tmp_path / "spool" / "run").glob("*.json"))
        )
        assert secret not in written
        assert token not in written
