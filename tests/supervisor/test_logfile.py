"""The rotating file: one writer, whole lines, and nobody who waits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.logfile import LogFile, as_json
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]


def test_it_rotates_at_line_ends_and_keeps_five_old_ones(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", max_bytes=100)
    for number in range(80):
        assert not file.write(b"line %06d\n" % number)
    file.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["log", "log.1", "log.2", "log.3", "log.4", "log.5"]
    ordered = [tmp_path / f"log.{number}" for number in range(5, 0, -1)] + [tmp_path / "log"]
    text = b"".join(path.read_bytes() for path in ordered)
    assert text.splitlines() == [b"line %06d" % number for number in range(80 - len(text) // 12, 80)]
    assert all(path.stat().st_size <= 100 for path in ordered)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_new_supervisor_goes_on_in_the_same_file_and_a_second_one_does_not_write_it(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "log")
    first.write(b"one\n")
    second = LogFile(tmp_path / "log")
    assert "another supervisor" in second.write(b"two\n")
    assert not second.write(b"three\n"), "said once"
    assert second.lost == 2
    first.close()
    third = LogFile(tmp_path / "log")
    third.write(b"four\n")
    assert (tmp_path / "log").read_bytes() == b"one\nfour\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: a file system of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("no mount is allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_loses_lines_and_counts_them(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.logfile.RETRY", 0.0)
    other = small_disk / "other"
    other.write_bytes(bytes(16 << 10))
    file = LogFile(small_disk / "log")
    big = b"x" * 1000 + b"\n"
    faults = [fault for _ in range(100) if (fault := file.write(big))]
    assert faults == [f"{small_disk / 'log'}: No space left on device"]
    assert file.lost > 30
    kept = (small_disk / "log").read_bytes()
    assert set(kept.splitlines(keepends=True)) == {big}, "no line is cut"
    other.unlink()
    file.write(b"there again\n")
    *_, said, again = (small_disk / "log").read_text().splitlines()
    assert f"{100 - len(kept) // len(big)} lines could not be written" in said
    assert again == "there again"


def test_what_is_not_json_becomes_json() -> None:
    assert as_json(b'{"a": 1}\n') == b'{"a": 1}\n'
    assert json.loads(as_json(b"Fatal Python error: Aborted\xff\n"))["text"].startswith("Fatal Python error")


#: Prints from the interpreter, from C and from a child, through the pipe; then says how many threads and files are left.
PROGRAM = """
import faulthandler, os, subprocess, sys
from pathlib import Path
from supervisor.logfile import Tee
before = len(os.listdir('/proc/self/fd'))
tee = Tee(Path(sys.argv[1]))
from worker import logs
logs.configure('supervisor')
log = logs.get_logger()
log.info('ours')
sys.stderr.write('plain\\n')
subprocess.run([sys.executable, '-c', 'import faulthandler, os; faulthandler.enable(); os.abort()'])
for number in range(int(sys.argv[2])): log.info('n', number=number)
print('done', flush=True)
tee.close()
sys.stderr.write('after\\n')
"""


def test_all_that_the_tree_prints_is_in_the_file_and_on_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), "500"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["number"] for line in found if line["event"] == "n"] == list(range(500))
    texts = [line["text"] for line in found if line["event"] == "stderr"]
    assert texts[0] == "plain"
    assert any("Fatal Python error: Aborted" in text for text in texts)
    assert done.stderr.count(b'"event":"n"') == 500
    assert done.stderr.endswith(b"after\n")


def test_a_reader_of_stderr_that_stands_still_stops_nobody(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), "60000"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        poll(lambda: (tmp_path / "log").exists() and (tmp_path / "log").stat().st_size > 30_000, "it is stuck", 30)
        os.set_blocking(process.stdout.fileno(), False)
        poll(lambda: process.stdout and process.stdout.read() == b"done\n", "it goes on without the reader", 60)
        process.kill()
