"""The memory budget under load. Witnesses: the kernel's own numbers, and the SLS emulator's record of pulls."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.hec import HecEmulator
from tests.end_to_end.house import House, Remote
from tests.end_to_end.test_main_job import checkpoints_at_end
from tests.supervisor.running import SETTINGS, Running
from tests.waiting import poll
from tests.worker.sending import sending

MIB = 1 << 20
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def pulls(sls: Remote) -> int:
    """Answered by the emulator so far."""
    return sum(shard["pulls"] for shard in sls.get("shards"))


def heartbeats(sls: Remote) -> int:
    """Of the consumer, as the emulator has them."""
    found: int = sls.get("stats")["logstores"][0]["heartbeats"]
    return found


def test_a_burst_stops_pulling_and_pulling_goes_on_when_it_is_over(tmp_path: Path) -> None:
    sls = Remote("tests.emulators.sls", "--shards", "2", "--fill", "500", log=tmp_path / "sls.log")
    settings = SETTINGS.replace('http://127.0.0.1:1"\nconsumer_group', f'http://127.0.0.1:{sls.port}"\nconsumer_group')
    settings = settings.replace("workers = 2", "workers = 1").replace("1GiB", "192MiB")
    settings = settings.replace('"a"', '"ak"').replace('"b"', '"sk"')
    settings = settings.replace(
        'start = "begin"', 'start = "begin"\nheartbeat_interval = "1s"\nconsumer_timeout = "6s"'
    )
    one = Running(tmp_path, "real_consumer", "balloon", settings=settings)
    try:
        poll(lambda: at_end(sls), f"it reads; {one.log.read_text()[-900:]}", 60)
        (tmp_path / "blow").touch()
        poll(lambda: one.said('"step":2'), f"the second step; {one.log.read_text()[-900:]}", 60)
        poll(lambda: is_quiet(sls), "no pull within three heartbeats", 30)
        sls.post("append", logs=500)
        before, beats = pulls(sls), heartbeats(sls)
        poll(lambda: heartbeats(sls) >= beats + 3, "shards stay ours", 30)
        assert pulls(sls) == before, "nothing is pulled meanwhile"
        (tmp_path / "blow").unlink()
        poll(lambda: at_end(sls), f"pulling goes on; {one.log.read_text()[-900:]}", 60)
        assert not one.said("child died")
        assert one.end() == 0
        steps = one.lines("memory step")
        assert all(step["budget_bytes"] == 192 * MIB and 0 < step["used_bytes"] < 192 * MIB for step in steps)
        assert all(step["step"] != step["before"] for step in steps), "each is said once"
    finally:
        one.make_end()
        sls.stop()


def at_end(sls: Remote) -> bool:
    return all(shard["groups_read"] == shard["end"] - shard["first"] for shard in sls.get("shards"))


def is_quiet(sls: Remote) -> bool:
    """Pulls that were under way are answered."""
    count, beats = pulls(sls), heartbeats(sls)
    poll(lambda: heartbeats(sls) >= beats + 3, "heartbeats go on", 30)
    return pulls(sls) == count


def test_from_70_percent_on_a_sender_has_one_request_in_flight(tmp_path: Path) -> None:
    with HecEmulator() as hec, sending(
        tmp_path, [hec.url], hec.token, in_thread=True, in_flight=4, max_request_bytes=4096
    ) as house:  # fmt: skip
        hec.script.extend([{"hang": 600}] * 8)
        house.board.memory_level = 1
        for _ in range(8):
            house.put(logs=10, size=300)
        house.start()
        poll(lambda: len(hec.script) == 7, "the first is asked", 30)
        for _ in range(4):
            beat = house.board.last_beat(0)
            poll(lambda beat=beat: house.board.last_beat(0) > beat, "the loop goes round", 30)  # type: ignore[misc]
        assert len(hec.script) == 7, "and no other"
        house.board.memory_level = 0
        poll(lambda: len(hec.script) == 4, f"four in flight; {len(hec.script)} were not asked", 30)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of 320 MiB, version 2 or 1."""
    version2 = (V2 / "cgroup.controllers").exists()
    made = (V2 if version2 else V1) / f"sls-siem-test-{os.getpid()}"
    limit = made / ("memory.max" if version2 else "memory.limit_in_bytes")
    try:
        if version2:
            (V2 / "cgroup.subtree_control").write_text("+memory")
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        try:
            limit.write_text(str(320 * MIB))
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")
        yield made
    finally:
        poll(lambda: not (made / "cgroup.procs").read_text(), "nobody is left in the cgroup", 30)
        made.rmdir()


def number(path: Path, name: str) -> int:
    """Of a file with a name and a number a line; 0 when it is not there."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return 0


def test_a_cgroup_full_of_the_spools_page_cache_changes_nothing(tmp_path: Path, cgroup: Path) -> None:
    into = ("sh", "-c", f'echo $$ > {cgroup}/cgroup.procs; exec "$@"', "sh")
    with House(
        tmp_path, shards=4, consumers=1, senders=1, prefix=into,
        sls_options=("--fill", "100MB", "--repeat", "36", "--logs-per-group", "400"),
    ) as house:  # fmt: skip
        house.config.write_text(house.settings().replace('[memory]\nbudget = "2GiB"\n', ""))
        house.hec.post("outage", on=True)
        house.start()
        levels: set[int] = set()

        def is_done() -> bool:
            levels.add(house.status().get("memory", {}).get("level", 0))
            return checkpoints_at_end(house)

        poll(is_done, f"all is read; {house.tail()}", 120)
        # How well the logs compress differs from day to day, so nothing is said of the spool alone.
        poll(lambda: kept(house) > 320 * MIB, "more than the cgroup can hold", 10)
        status = house.status()
        cached = max(number(cgroup / "memory.stat", "file"), number(cgroup / "memory.stat", "cache"))
        refused = number(cgroup / "memory.events", "max")
        with contextlib.suppress(OSError):
            refused += int((cgroup / "memory.failcnt").read_text())
        assert refused > 0, "the cgroup was full"
        assert cached > 32 * MIB, "of page cache"
        assert status["memory"]["budget"] == 320 * MIB * 8 // 10
        assert levels <= {0, 1}, "pulling never stopped"
        assert [child["restarts"] for child in status["children"]] == [0, 0]
        assert number(cgroup / "memory.events", "oom_kill") + number(cgroup / "memory.oom_control", "oom_kill") == 0
        assert house.stop() == 0, house.tail()


def kept(house: House) -> int:
    """Bytes on disk and in memory, as the status has them, which is a second old."""
    status = house.status()
    found: int = status["spool"]["bytes"] + status["memory"]["used"]
    return found


class Watch:
    """The honest footprint of the tree, over and over: PSS, so that what is shared counts once."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._ended = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = max(self.peak, sum(pss(pid) for pid in self._house.tree()))

    def end(self) -> int:
        """Bytes, at most."""
        self._ended.set()
        self._thread.join(10)
        return self.peak


def pss(pid: int) -> int:
    return number(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024


def test_large_pulls_of_many_shards_stay_inside_the_budget_while_splunk_is_down(tmp_path: Path) -> None:
    with House(
        tmp_path, shards=64, consumers=2, senders=1,
        sls_options=("--fill", "700MB", "--logs-per-group", "400"),
    ) as house:  # fmt: skip
        house.config.write_text(house.settings().replace("2GiB", "512MiB"))
        house.hec.post("outage", on=True)
        house.start()
        watch = Watch(house)
        poll(lambda: checkpoints_at_end(house), f"all is read; {house.tail()}", 180)
        asked = house.sls.get("requests?limit=20000")
        sizes = [one["sent_bytes"] for one in asked if one["operation"] == "pull" and one["status"] == 200]
        house.hec.post("outage", on=False)
        begun = len(house.delivered())
        poll(lambda: len(house.delivered()) > begun + 20_000, f"it drains; {house.tail()}", 60)
        document: dict[str, Any] = house.status()
        peak = watch.end()
        assert house.stop() == 0, house.tail()
        assert sum(size > 1_000_000 for size in sizes) >= 64, "compressed: 10 MB of logs each"
        assert document["memory"]["budget"] == 512 * MIB
        print(f"{peak / MIB:.0f} MiB of PSS at most, supervisor, 2 consumers and a sender")
        assert peak < 512 * MIB, f"{peak / MIB:.0f} MiB"
        assert [child["restarts"] for child in document["children"]] == [0, 0, 0]
