"""The loop with real processes: small children that behave, die, hang, or refuse to stop."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.systemd import Systemd
from tests.supervisor.running import SETTINGS, Running, gone, heeds_signals
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]

Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def begin(*options: str, **more: Any) -> Running:
        made.append(Running(tmp_path, *options, **more))
        return made[-1]

    yield begin
    for one in made:
        one.make_end()


def test_term_drains_and_ends_with_0(start: Start) -> None:
    one = start()
    pids = one.wait_running()
    assert one.end() == 0
    assert gone(pids)
    assert [w for _, _, w in one.lives()].count("drained") == 3


def test_ctrl_c_on_the_whole_group_drains_too(start: Start) -> None:
    one = start()
    one.wait_running()
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(60) == 0
    assert [w for _, _, w in one.lives()].count("drained") == 3


def test_kill_9_of_the_supervisor_leaves_no_orphan(start: Start) -> None:
    one = start()
    pids = one.wait_running()
    one.process.kill()
    one.process.wait(30)
    poll(lambda: gone(pids), "the children die with it", 30)


def test_kill_9_of_one_child_restarts_it_and_leaves_the_others(start: Start) -> None:
    one = start()
    before = one.wait_running()
    os.kill(before[0], signal.SIGKILL)
    poll(lambda: len(one.lives()) == 4, "one begins anew", 60)
    assert set(before[1:]) <= set(one.children())
    assert one.end() == 0


def test_back_off_grows(start: Start) -> None:
    one = start("dies", "well")

    def waits() -> list[float]:
        died = [line for line in one.lines("child died") if line["child"] == "consumer-0"]
        return [line["again_in_seconds"] for line in died]

    poll(lambda: len(waits()) >= 4, f"four deaths: {one.log.read_text()}", 60, 0.1)
    assert one.end() == 0
    found = waits()[:4]  # behind one that ends while all are stopping there is none
    assert found == sorted(found), "with its jitter, no wait is shorter than the one before"
    assert found[3] >= 4 * found[0] * 0.9


def test_a_child_that_says_78_ends_all_with_78(start: Start) -> None:
    one = start("wrong_settings", "well")
    assert one.process.wait(60) == 78


def test_a_hung_child_prints_its_stack_and_is_replaced(start: Start) -> None:
    one = start("hangs", "well", "HANG_TIMEOUT=1", "ABORT_GRACE=20")
    poll(lambda: one.said("child hangs"), "it is noticed", 60)
    poll(lambda: one.said("in hangs"), f"its stack names the function: {one.log.read_text()}", 60)
    poll(lambda: one.said("in waits_beside"), "every thread's", 60)
    poll(lambda: [n for n, _, w in one.lives() if w == "begun"].count("consumer-0") >= 2, "it is replaced", 60)


def test_a_stubborn_child_is_killed_at_the_deadline_and_the_exit_is_0(start: Start) -> None:
    one = start("stubborn", "well", settings=SETTINGS.replace('"30s"', '"3s"'))
    pids = one.wait_running()
    assert one.end() == 0
    assert gone(pids)
    assert one.said("child killed")


def test_a_second_signal_kills_at_once_and_ends_with_1(start: Start) -> None:
    one = start("stubborn", "stubborn", "supervisor.supervise.TOGETHER=0")
    pids = one.wait_running()
    one.process.terminate()
    poll(lambda: one.said('"stopping"'), "the first is taken", 60)
    one.process.terminate()
    assert one.process.wait(60) == 1
    assert gone(pids)


def test_a_signal_to_the_process_and_at_once_to_its_group_is_one(start: Start) -> None:
    """As timeout(1) does it."""
    one = start("stubborn", "stubborn", "supervisor.supervise.TOGETHER=60")
    pids = one.wait_running()
    one.process.terminate()
    poll(lambda: one.said('"stopping"'), "the first is taken", 60)
    one.process.terminate()
    wait_turns(one, 3)
    assert one.children() == pids
    assert not one.said("second signal")


def test_hup_replaces_one_at_a_time_and_a_bad_file_changes_nothing(start: Start) -> None:
    one = start()
    before = one.wait_running()
    config = one.work / "sls-siem.toml"
    good = config.read_text()
    config.write_text(good.replace("workers", "wrokers"))
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: one.said("settings not reloaded"), "the bad file is said", 60)
    assert one.children() == before
    config.write_text(good.replace("workers = 2", "workers = 3"))
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: one.said("needs a restart"), "what needs a restart is said", 60)
    config.write_text(good + '[log]\nlevel = "debug"\n')
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: len(one.lives()) == 9, "all are replaced", 90)
    assert not set(before) & set(one.children())
    words = [(n, w) for n, _, w in one.lives()][3:]
    assert [w for _, w in words] == ["drained", "begun"] * 3, "stop first, one at a time"
    assert one.end() == 0


def test_a_bug_in_the_loop_takes_the_children_down_with_it(start: Start) -> None:
    one = start("stubborn", "well")
    pids = one.wait_running()
    (one.work / "bug").touch()
    assert one.process.wait(60) == 1
    assert gone(pids)
    assert one.said("a bug in the loop")


def test_a_supervisor_that_hangs_says_where_when_the_watchdog_aborts_it(start: Start) -> None:
    one = start()
    pids = one.wait_running()
    (one.work / "hang").touch()
    poll(lambda: not (one.work / "hang").exists(), "it hangs", 60)
    one.process.send_signal(signal.SIGABRT)  # as systemd does
    assert one.process.wait(60) == -signal.SIGABRT
    assert one.said("in _handle_signals")
    assert one.said('looker.py", line'), "every thread's"
    poll(lambda: gone(pids), "the children die with it", 30)


def test_a_lane_that_is_damaged_again_and_again_is_rebuilt_ever_more_seldom(start: Start) -> None:
    one = start("damaged", "well")

    def waits() -> list[float]:
        died = [line for line in one.lines("child died") if line["child"] == "consumer-0"]
        return [line["again_in_seconds"] for line in died]

    poll(lambda: len(waits()) >= 4, f"four times; {one.log.read_text()}", 90, 0.1)
    assert one.end() == 0
    assert waits()[3] >= 4 * waits()[0] * 0.9
    assert [line["child"] for line in one.lines("child died")].count("sender-0") == 0, "stopped is not failed"


def test_a_machine_without_descriptors_left_stops_nobody_and_the_child_comes_back(start: Start) -> None:
    one = start()
    before = one.wait_running()
    limits = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
    # Below six all are taken since the start, whatever is open besides at this moment; poll() itself wants four.
    resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (6, limits[1]))
    os.kill(before[0], signal.SIGKILL)
    poll(lambda: one.said("child cannot be started"), f"it is tried and said: {one.log.read_text()[-900:]}", 60)
    assert one.process.poll() is None
    resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, limits)
    poll(lambda: len(one.lives()) == 4, "the child begins anew", 60)
    assert set(before[1:]) <= set(one.children())
    assert one.end() == 0


def test_a_stopped_child_counts_as_hung_and_is_replaced(start: Start) -> None:
    one = start("well", "well", "HANG_TIMEOUT=12", "ABORT_GRACE=0.5")
    before = one.wait_running()
    poll(lambda: one.said('"event":"running"'), "each has beaten: else it counts as booting", 60)
    os.kill(before[0], signal.SIGSTOP)
    poll(lambda: len(one.lives()) == 4, "it is replaced", 60)
    assert gone(before[:1])
    assert set(before[1:]) <= set(one.children())


def test_an_address_of_systemd_where_nobody_is_disturbs_nothing(start: Start, tmp_path: Path) -> None:
    one = start("well", "well", environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    poll(lambda: one.said('"event":"running"'), f"it runs as without; {one.log.read_text()[-900:]}", 60)
    assert one.end() == 0


def test_when_all_stood_still_nobody_counts_as_hung(start: Start) -> None:
    """A machine that was suspended, a frozen cgroup. The supervisor wakes first, and sees beats that are too old."""
    one = start("well", "well", "HANG_TIMEOUT=8", "ABORT_GRACE=0.5")
    before = one.wait_running()
    poll(lambda: one.said('"event":"running"'), "each has beaten: else it counts as booting", 60)
    for pid in (one.process.pid, *before):
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    poll(lambda: time.monotonic() - stopped > 9, "longer than a child may be silent", 60, 0.5)
    one.process.send_signal(signal.SIGCONT)
    poll(lambda: one.said("the supervisor stood still"), "it has looked at them", 60)
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    wait_turns(one, 4)
    assert one.children() == before
    assert not one.said("child hangs")
    assert one.end() == 0


def test_systemd_hears_ready_then_the_state_and_the_watchdog_then_stopping(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(30)
        one = start("slow_boot", "well", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        words: list[str] = []
        while "READY=1" not in words:
            words += heard.recv(4096).decode().splitlines()
        assert len([w for _, _, w in one.lives() if w == "begun"]) == 3, "every slot has run"
        assert any(word.startswith("EXTEND_TIMEOUT_USEC=") for word in words)
        for pid in one.children():
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        later: list[str] = []
        state = "STATUS=running: 0 batches wait, 0 MB"
        while later.count("WATCHDOG=1") < (2 if state in later else 60):
            later += heard.recv(4096).decode().splitlines()
        assert state in later
        one.process.terminate()
        while "STOPPING=1" not in later:
            later += heard.recv(4096).decode().splitlines()
        assert "EXTEND_TIMEOUT_USEC=45000000" in later, "stop_timeout, and what the last kills take"
        assert one.process.wait(60) == 0


def test_a_systemd_that_does_not_listen_stops_nothing_and_hears_ready_later(start: Start, tmp_path: Path) -> None:
    """Its queue is full: it stands still itself, because of a dead mount, say."""
    with contextlib.closing(Systemd(tmp_path / "notify")) as systemd:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"STATUS=of somebody else", str(systemd.path))
            one = start("well", "well", environment={"NOTIFY_SOCKET": str(systemd.path)})
            one.wait_running()
            wait_turns(one, 4)
        systemd.hear("READY=1")
        systemd.hear("WATCHDOG=1", 2)
        assert one.end() == 0


def test_what_could_not_be_said_without_a_descriptor_is_to_be_said_again(tmp_path: Path) -> None:
    code = """
import resource
from supervisor.systemd import Notifier
notifier = Notifier()
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
assert not notifier.send("READY=1")
resource.setrlimit(resource.RLIMIT_NOFILE, most)
assert notifier.send("READY=1")
"""
    with contextlib.closing(Systemd(tmp_path / "notify")) as systemd:
        environment = os.environ | {"NOTIFY_SOCKET": str(systemd.path)}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
        systemd.hear("READY=1")


def test_systemd_hears_ready_though_a_child_dies_over_and_over(start: Start, tmp_path: Path) -> None:
    """Every slot has run; else systemd would end all of them when its patience is over."""
    with contextlib.closing(Systemd(tmp_path / "notify")) as systemd:
        one = start("flaps", "well", environment={"NOTIFY_SOCKET": str(systemd.path)})
        systemd.hear("READY=1")
        assert one.end() == 0


def test_normal_work_is_one_line_a_minute(start: Start) -> None:
    one = start("well", "well", "supervisor.publish.SUMMARY_EVERY=2")
    poll(lambda: one.said('"event":"running"'), f"it runs; {one.log.read_text()}", 60)
    poll(
        lambda: one.log.read_text().count('"event":"summary"') >= 2,
        f"two minutes of two seconds; {one.log.read_text()}",
        30,
    )
    assert one.end() == 0
    found = [json.loads(line) for line in one.log.read_text().splitlines()]
    assert {line["event"] for line in found} == {"running", "summary", "stopping", "stopped"}
    summary = next(line for line in found if line["event"] == "summary")
    assert {"state", "delivered_events", "waiting_batches", "memory_bytes", "holds", "dead_letters"} <= summary.keys()


def test_a_crash_loop_of_one_kind_alone_is_no_end(start: Start) -> None:
    one = start("dies", "well", "CRASH_LOOP_PATIENCE=1")
    poll(lambda: one.said('"failures":4'), "it goes on trying", 60)
    assert one.process.poll() is None
    assert one.end() == 0


def is_past(moment: float) -> bool:
    return time.monotonic() > moment


def test_term_during_boot_is_not_lost(start: Start) -> None:
    """At any moment since its first line, and while the children boot."""
    for delay in (0.0, 0.2, 0.5, 1.0, 1.5):
        one = start("slow_boot", "slow_boot")
        poll(partial(heeds_signals, one.process.pid), "its first line", 30)
        poll(partial(is_past, time.monotonic() + delay), "a moment of the boot", 5)
        assert one.end() == 0
        assert not one.children()
        assert not one.said("child killed"), "each has heard it"


def test_a_leaking_child_is_recycled_gracefully(start: Start) -> None:
    one = start("leaks", "well")
    poll(lambda: one.said("child recycled"), f"it is recycled: {one.log.read_text()[-500:]}", 60)
    poll(lambda: [n for n, _, w in one.lives() if w == "begun"].count("consumer-0") >= 2, "and begins anew", 60)
    assert not one.said('"child died"'), "recycling is not a failure"
    assert one.end() == 0


def test_every_child_crashing_for_long_ends_with_70(start: Start, tmp_path: Path) -> None:
    (tmp_path / "patience").write_text("2")
    one = start("dies", "dies", "CRASH_LOOP_PATIENCE=2")
    assert one.process.wait(60) == 70
    assert one.said("crash loop")


def wait_turns(one: Running, seconds: int) -> None:
    """The loop turns, and shows what it sees once a second."""
    shown = one.work / "spool" / "run" / "status.json"
    for _ in range(seconds):
        before = shown.stat().st_mtime_ns
        poll(lambda: shown.stat().st_mtime_ns != before, "the loop turns", 60)  # noqa: B023
