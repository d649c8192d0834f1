"""The loop with real processes: small children that behave, die, hang, or refuse to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]

#: A supervisor whose children are the functions of tests/supervisor/children.py.
PROGRAM = """
import sys
from pathlib import Path
from buffer.settings import SpoolSettings
from buffer.spool import Spool
from supervisor import child
from supervisor.config import load
from supervisor.publish import Publisher
from supervisor.supervise import Supervisor
from supervisor.systemd import Notifier
from tests.supervisor import children
from worker import logs

work, consumer, sender = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for change in sys.argv[4:]:
    name, _, value = change.partition("=")
    setattr(child, name, float(value))
logs.configure("supervisor")
settings = load(work / "sls-siem.toml", environment={"HOME": str(work)})
spool = Spool.open(settings.spool)
targets = {"consumer": getattr(children, consumer), "sender": getattr(children, sender)}
def reload():
    return load(work / "sls-siem.toml", environment={"HOME": str(work)})
sys.exit(Supervisor(settings, reload, spool, Publisher(settings, spool), Notifier(), targets=targets).run())
"""
SETTINGS = """
[supervisor]
workers = 2
senders = 1
stop_timeout = "3s"
[memory]
budget = "1GiB"
[[source]]
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:1"
consumer_group = "g"
start = "begin"
access_key_id = "a"
access_key_secret = "b"
[hec]
urls = ["http://127.0.0.1:1"]
token = "t"
[spool]
directory = "{work}/spool"
min_free_bytes = "1MiB"
"""


class Running:
    """One supervisor process."""

    def __init__(self, work: Path, consumer: str = "well", sender: str = "well", *changes: str) -> None:
        self.work = work
        (work / "sls-siem.toml").write_text(SETTINGS.format(work=work))
        self.log = work / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(work), consumer, sender, *changes],
                cwd=ROOT, stderr=log, stdout=log, start_new_session=True, env=os.environ | {"CHILDREN_LOG": str(work / "lives")},
            )  # fmt: skip

    def children(self) -> list[int]:
        """From the kernel; multiprocessing's resource tracker is none of ours."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in task.read_text().split():
                with contextlib.suppress(OSError):
                    if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(int(pid))
        return found

    def lives(self) -> list[list[str]]:
        """What the children wrote: name, pid, word."""
        path = self.work / "lives"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def said(self, what: str) -> bool:
        """Whether the log has it."""
        return what in self.log.read_text()

    def wait_running(self, count: int = 3) -> list[int]:
        """Until so many children have begun."""
        poll(
            lambda: len({n for n, _, w in self.lives() if w == "begun"}) >= count,
            "children begin",
            30,
        )
        return self.children()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> object:
    made: list[Running] = []

    def begin(*options: str) -> Running:
        made.append(Running(tmp_path, *options))
        return made[-1]

    yield begin
    for one in made:
        pids = [one.process.pid, *one.children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        one.process.wait(10)


def gone(pids: list[int]) -> bool:
    return not any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids
    )


def test_term_drains_and_ends_with_0(start: object) -> None:
    one = start()  # type: ignore[operator]
    pids = one.wait_running()
    assert one.end() == 0
    assert gone(pids)
    assert [w for _, _, w in one.lives()].count("drained") == 3


def test_ctrl_c_on_the_whole_group_drains_too(start: object) -> None:
    one = start()  # type: ignore[operator]
    one.wait_running()
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(30) == 0
    assert [w for _, _, w in one.lives()].count("drained") == 3


def test_kill_9_of_the_supervisor_leaves_no_orphan(start: object) -> None:
    one = start()  # type: ignore[operator]
    pids = one.wait_running()
    one.process.kill()
    one.process.wait(10)
    poll(lambda: gone(pids), "the children die with it", 10)


def test_kill_9_of_one_child_restarts_it_and_leaves_the_others(start: object) -> None:
    one = start()  # type: ignore[operator]
    before = one.wait_running()
    os.kill(before[0], signal.SIGKILL)
    poll(lambda: len(one.lives()) == 4, "one begins anew", 20)
    assert set(before[1:]) <= set(one.children())
    assert one.end() == 0


def test_back_off_grows_in_the_log(start: object) -> None:
    one = start("dies", "well")  # type: ignore[operator]
    poll(lambda: one.said('"failures":3'), f"three deaths: {one.log.read_text()}", 30)
    assert one.end() == 0


def test_a_child_that_says_78_ends_all_with_78(start: object) -> None:
    one = start("wrong_settings", "well")  # type: ignore[operator]
    assert one.process.wait(30) == 78


def test_a_hung_child_prints_its_stack_and_is_replaced(start: object) -> None:
    one = start("hangs", "well", "HANG_TIMEOUT=1", "ABORT_GRACE=1")  # type: ignore[operator]
    poll(lambda: one.said("child hangs"), "it is noticed", 30)
    poll(lambda: one.said("in hangs"), f"its stack names the function: {one.log.read_text()}", 30)
    poll(lambda: [n for n, _, w in one.lives() if w == "begun"].count("consumer-0") >= 2, "it is replaced", 30)


def test_a_stubborn_child_is_killed_at_the_deadline_and_the_exit_is_0(start: object) -> None:
    one = start("stubborn", "well")  # type: ignore[operator]
    pids = one.wait_running()
    assert one.end() == 0
    assert gone(pids)
    assert one.said("child killed")


def test_a_second_signal_kills_at_once_and_ends_with_1(start: object) -> None:
    one = start("stubborn", "stubborn")  # type: ignore[operator]
    pids = one.wait_running()
    one.process.terminate()
    poll(lambda: one.said('"stopping"'), "the first is taken", 10)
    one.process.terminate()
    assert one.process.wait(20) == 1
    assert gone(pids)


def test_hup_replaces_one_at_a_time_and_a_bad_file_changes_nothing(start: object) -> None:
    one = start()  # type: ignore[operator]
    before = one.wait_running()
    config = one.work / "sls-siem.toml"
    good = config.read_text()
    config.write_text(good.replace("workers", "wrokers"))
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: one.said("settings not reloaded"), "the bad file is said", 10)
    assert one.children() == before
    config.write_text(good.replace("workers = 2", "workers = 3"))
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: one.said("needs a restart"), "what needs a restart is said", 10)
    config.write_text(good + '[log]\nlevel = "debug"\n')
    one.process.send_signal(signal.SIGHUP)
    poll(lambda: len(one.lives()) == 9, "all are replaced", 30)
    assert not set(before) & set(one.children())
    words = [(n, w) for n, _, w in one.lives()][3:]
    assert [w for _, w in words] == ["drained", "begun"] * 3, "stop first, one at a time"
    assert one.end() == 0


def is_past(moment: float) -> bool:
    return time.monotonic() > moment


def test_term_during_boot_is_not_lost(start: object) -> None:
    for delay in (0.3, 0.6, 0.9):
        one = start("slow_boot", "slow_boot")  # type: ignore[operator]
        poll(partial(is_past, time.monotonic() + delay), "a moment of the boot", 5)
        assert one.end() in {0, -signal.SIGTERM}
        assert one.process.returncode == 0 or not one.children()


def test_a_leaking_child_is_recycled_gracefully(start: object) -> None:
    one = start("leaks", "well")  # type: ignore[operator]
    poll(lambda: one.said("child recycled"), f"it is recycled: {one.log.read_text()[-500:]}", 60)
    poll(lambda: [n for n, _, w in one.lives() if w == "begun"].count("consumer-0") >= 2, "and begins anew", 30)
    assert not one.said('"child died"'), "recycling is not a failure"
    assert one.end() == 0


def test_every_child_crashing_for_long_ends_with_70(start: object, tmp_path: Path) -> None:
    (tmp_path / "patience").write_text("2")
    one = start("dies", "dies", "CRASH_LOOP_PATIENCE=2")  # type: ignore[operator]
    assert one.process.wait(60) == 70
    assert one.said("crash loop")
