"""Our lines, as another process or a file system sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]


def say(code: str, *, stderr: object = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """Run `code` after the logs are configured."""
    whole = f"from worker import logs\nlogs.configure('consumer-0')\nlog = logs.get_logger()\n{code}"
    return subprocess.run([sys.executable, "-c", whole], cwd=ROOT, stderr=stderr, timeout=60, check=False)  # type: ignore[call-overload, no-any-return]


def lines(code: str) -> list[dict[str, object]]:
    done = say(code)
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    "value",
    [
        "'x' * 100_000",
        "'\\\\' * 100_000",
        "['x' * 100] * 1000",
        "{n: '错误' * 50 for n in range(99)}",
        "'\\udce4' * 9999",
        "2**80",
        "b'1' * 9000",
    ],
)
def test_a_line_is_one_json_object_under_4_kib_whatever_is_in_it(value: str) -> None:
    done = say(f"log.error('it', value={value}, also={value}, third={value})")
    (line,) = done.stderr.splitlines()
    assert len(line) < 4096
    found = json.loads(line)
    assert (found["event"], found["role"], found["level"]) == ("it", "consumer-0", "error")


def test_a_defect_is_one_line_with_the_end_of_its_stack_in_every_thread() -> None:
    code = """
import threading
def deep(n):
    if not n: raise ValueError('the cause')
    deep(n - 1)
one = threading.Thread(target=deep, args=(300,), name='other'); one.start(); one.join()
deep(300)
"""
    done = say(code)
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in found] == ["defect", "defect"]
    assert all(line["exception"].endswith("ValueError: the cause") for line in found)


def test_the_same_trouble_is_printed_once_in_a_while_with_a_count() -> None:
    found = lines("""
from worker.logs import Repeats
import structlog
keeps = Repeats(after=0.2)
import time
end = time.monotonic() + 0.5
while time.monotonic() < end:
    try:
        event = keeps(None, 'error', {'event': 'splunk is down', 'error': 'refused'})
    except structlog.DropEvent:
        continue
    log.info('let through', repeated=event.get('repeated', 0))
for number in range(100): log.error('splunk is down', error='refused', url=number)
log.error('splunk is down', error='another')
""")
    through = [line["repeated"] for line in found if line["event"] == "let through"]
    assert through[0] == 0
    assert 2 <= len(through) <= 3
    assert all(isinstance(count, int) and count > 100 for count in through[1:])
    assert [line["error"] for line in found if line["event"] == "splunk is down"] == ["refused", "another"]


def test_what_was_kept_back_is_counted_when_no_more_comes() -> None:
    found = lines("""
import time
from worker.logs import Repeats
logs._repeats._after = 0.2
for number in range(50): log.error('splunk is down', error='refused', url=number)
logs.tell_repeats()
end = time.monotonic() + 0.3
while time.monotonic() < end: pass
logs.tell_repeats()
logs.tell_repeats()
log.info('end')
""")
    assert [(line["event"], line.get("repeated"), line.get("url")) for line in found] == [
        ("splunk is down", None, 0), ("splunk is down", 49, 49), ("end", None, None),
    ]  # fmt: skip
    assert {line["level"] for line in found[:2]} == {"error"}


def test_libraries_and_warnings_speak_through_our_lines() -> None:
    found = lines("""
import logging, warnings
logging.getLogger('aliyun.log.logclient').warning('refresh %s', 'wait')
logging.getLogger('aliyun.log.logclient').info('silent')
warnings.warn('old')
""")
    assert [(line["library"], line["level"]) for line in found] == [
        ("aliyun.log.logclient", "warning"),
        ("py.warnings", "warning"),
    ]
    assert found[0]["text"] == "refresh wait"


def test_a_full_disk_or_a_closed_pipe_under_stderr_is_no_error() -> None:
    code = "import os\nfor n in range(99): log.info('line', n=n)\nos._exit(7)"
    with Path("/dev/full").open("wb") as full:
        assert say(code, stderr=full).returncode == 7
    with subprocess.Popen(
        [sys.executable, "-c", f"from worker import logs\nlogs.configure('x')\nlog = logs.get_logger()\n{code}"],
        cwd=ROOT, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(60) == 7


def test_a_reader_that_stands_still_behind_a_pipe_stops_nobody() -> None:
    code = (
        "for n in range(2000): log.info('x' * 100, n=n)\nprint('done', flush=True)\nsys.stdin.read()\nlog.info('end')"
    )
    whole = f"import sys\nfrom worker import logs\nlogs.configure('x')\nlog = logs.get_logger()\n{code}"
    with subprocess.Popen(
        [sys.executable, "-c", whole], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            poll(lambda: process.stdout and process.stdout.read() == b"done\n", "it goes on without the reader", 60)
            assert process.stderr is not None
            told = os.read(process.stderr.fileno(), 1 << 20)  # there is room again, before it goes on
            told += process.communicate(timeout=60)[1]
        finally:
            process.kill()
    found = [json.loads(line) for line in told.splitlines()]
    assert [line["n"] for line in found[:-1]] == list(range(len(found) - 1))
    assert found[-1]["event"] == "end"
    assert found[-1]["lines_dropped"] == 2000 - (len(found) - 1)


def test_lines_that_did_not_fit_into_a_pipe_are_counted_in_the_next_that_does() -> None:
    found = lines("""
import os
read, write = os.pipe()
os.set_blocking(write, False)
kept = os.dup(2)
os.dup2(write, 2)
for n in range(1000): log.info('x' * 500)
os.dup2(kept, 2)
log.info('there again')
log.info('and no more')
""")
    assert found[0]["event"] == "there again"
    assert isinstance(found[0]["lines_dropped"], int)
    assert found[0]["lines_dropped"] > 800
    assert "lines_dropped" not in found[1]


def test_a_stop_in_a_handler_wakes_every_waiter_and_never_waits_for_a_lock() -> None:
    """A handler runs between any two steps of its thread, so also inside a lock that it would need itself."""
    done = say("""
import os, signal, sys, threading
from worker.process import Stopping
faults = []
for _ in range(20):
    stopping = Stopping()
    signal.signal(signal.SIGALRM, lambda *_: stopping.set())
    others = [threading.Thread(target=stopping.wait, args=(60,)) for _ in range(3)]
    for one in others: one.start()
    sys.settrace(lambda *_: os.kill(os.getpid(), signal.SIGALRM))  # at the first step inside
    stopping.wait(60)
    sys.settrace(None)
    for one in others:
        one.join(10)
        faults += [one] if one.is_alive() else []
os._exit(len(faults))
""")
    assert done.returncode == 0, done.stderr
