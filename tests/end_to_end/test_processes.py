"""The processes as the kernel and `ps` see them; one child alone; and `--once`, which ends or says what it waits for."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.end_to_end.books import assert_books
from tests.end_to_end.house import PROGRAM, ROOT, House
from tests.end_to_end.test_main_job import checkpoints_at_end
from tests.waiting import poll


@contextmanager
def limits(which: int, soft: int) -> Iterator[None]:
    """What the supervisor inherits."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def test_processes_are_named_have_all_descriptors_and_leave_no_core_with_secrets(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=2, senders=1) as house:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with (
            limits(resource.RLIMIT_NOFILE, 256),
            limits(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1]),
        ):
            house.start()
        poll(lambda: house.status().get("state") == "running", f"it runs; {house.tail()}", 60)
        pids = {child["name"]: child["pid"] for child in house.status()["children"]}
        pids["supervisor"] = house.status()["supervisor"]["pid"]
        assert set(pids) == {"supervisor", "consumer-0", "consumer-1", "sender-0"}
        for name, pid in pids.items():
            shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True)
            assert shown.stdout.strip() == f"sls-siem: {name}"
            assert Path(f"/proc/{pid}/comm").read_text().strip() == name
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
            assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
            if name != "supervisor":
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                assert b"MALLOC_ARENA_MAX=1" in environment
                assert b"MALLOC_TRIM_THRESHOLD_=" in environment
        assert house.stop() == 0


def opened_by_a_reader(fifo: Path) -> IO[str]:
    """For writing; a reader that never comes fails the test instead of holding it."""
    found: list[int] = []

    def is_open() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    poll(is_open, f"{fifo} is read", 60)
    os.set_blocking(found[0], True)
    return os.fdopen(found[0], "w")


def test_a_stop_that_comes_while_the_settings_are_read_is_heeded_and_ends_with_0(tmp_path: Path) -> None:
    """A FIFO in place of the file holds it there: the handlers are not installed yet."""
    with House(tmp_path, shards=1, consumers=1, senders=1, sls_options=("--fill", "100")) as house:
        settings = house.config.read_text()
        house.config.unlink()
        os.mkfifo(house.config, 0o600)
        for number in (signal.SIGTERM, signal.SIGINT):
            process = house.start()
            with opened_by_a_reader(house.config) as fifo:
                process.send_signal(number)
                fifo.write(settings)
            assert process.wait(60) == 0, house.tail()
        assert said(house, "stopped")
        assert not house.delivered()


def alone(house: House, *command: str) -> subprocess.Popen[bytes]:
    with (house.work / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, *command, "--config", str(house.config)], cwd=ROOT, stderr=log, stdout=log, env=house.environment
        )


def test_one_child_alone_does_its_part_and_never_beside_a_supervisor(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        assert alone(house, "consume", "--once").wait(60) == 0, house.tail()
        assert checkpoints_at_end(house)
        assert not house.delivered()
        assert alone(house, "send", "--once").wait(60) == 0, house.tail()
        assert house.delivered() == dict.fromkeys(house.expected(), 1)
        assert_books(house)

        report = tmp_path / "spool/run/consumer-0.json"
        report.unlink()
        without = alone(house, "consume")
        poll(report.exists, "it works", 30)
        without.send_signal(signal.SIGINT)
        assert without.wait(30) == 0, "Ctrl-C stops it"
        house.start()
        poll(lambda: house.status().get("state") == "running", f"it runs; {house.tail()}", 60)
        assert alone(house, "send").wait(30) == 75
        assert alone(house, "send", "--slot", "1").wait(30) == 2
        shown = subprocess.run(
            [*PROGRAM, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        commands = {line.split()[0] for line in shown.splitlines() if line.startswith("  ")}
        assert "supervise" in commands
        assert not {"consume", "send"} & commands, "not for everyday use"
        assert house.stop() == 0
        assert_books(house)


def said(house: House, event: str) -> list[dict[str, str]]:
    """Our log's lines with that event."""
    lines = (house.work / "supervisor.log").read_text().splitlines()
    return [found for line in lines if line.startswith("{") and (found := json.loads(line))["event"] == event]


def test_once_ends_when_all_that_was_there_is_delivered_though_new_logs_come(tmp_path: Path) -> None:
    with House(tmp_path, shards=4, consumers=2, senders=2, sls_options=("--fill", "10000")) as house:
        first = house.expected()
        house.sls.post("feed", logs=200)
        assert house.start("--once").wait(90) == 0, house.tail()
        assert first <= house.delivered().keys()
        assert set(house.delivered().values()) == {1}


def test_once_delivers_what_is_put_just_before_the_last_consumer_ends(tmp_path: Path) -> None:
    """Few logs: they are read and put before the senders have looked for lanes a second time."""
    with House(tmp_path, shards=1, consumers=1, senders=4, sls_options=("--fill", "40")) as house:
        for _ in range(3):
            assert house.start("--once").wait(90) == 0, house.tail()
            assert house.delivered() == dict.fromkeys(house.expected(), 1)
            assert_books(house)
            house.sls.post("append", logs=40)


def test_once_says_what_holds_it_and_ends_when_the_hold_does(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        house.hec.post("outage", on=True, status=403, code=4)
        process = house.start("--once")
        event = "--once goes on until all is delivered"
        # A slow machine says it once before the hold is known, and again a minute later.
        poll(lambda: any("token" in one["waits_for"] for one in said(house, event)), f"it is said; {house.tail()}", 120)
        assert process.poll() is None
        house.hec.post("outage", on=False)
        assert process.wait(90) == 0, house.tail()
        assert house.delivered() == dict.fromkeys(house.expected(), 1)
        assert_books(house)


def test_once_heeds_a_stop_while_it_is_held(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        house.config.write_text(house.settings().replace('"sk"', '"wrong"'))
        house.start("--once")
        poll(lambda: house.status().get("holds"), f"the source is held; {house.tail()}", 60)
        assert house.stop() == 0
        assert_books(house, unread=True)
