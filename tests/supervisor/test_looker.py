"""The thread that looks at the disk: whatever becomes of a look, there is another."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from supervisor.looker import Looker
from tests.buffer.power.workload import letter
from tests.waiting import poll


def test_the_quota_of_dead_letters_is_one_for_all_lanes(tmp_path: Path) -> None:
    settings = SpoolSettings(
        directory=tmp_path / "spool", min_free_bytes=1 << 20, dead_letter_max_bytes=24 << 10, force_file_system=True
    )
    spool = Spool.open(settings)
    try:
        looker = Looker(spool)
        levels = []
        for slot in range(2):
            with closing(LaneReader.open(lane_directory(spool.directory, spool.id, slot), settings)) as reader:
                large = replace(letter(f"of-{slot}", "dead"), log=bytes(13_000))
                reader.ack([], [large])
                assert reader.may_bury(), "there is room for the letters of this lane alone"
            poll(lambda: sum(lane.dead for lane in looker.look([], []).lanes) == slot + 1, "it is seen")  # noqa: B023
            levels.append(looker.last.letters_level)
        assert levels == [0, 1]
    finally:
        spool.close()


def test_a_defect_stops_pulling_is_said_and_the_next_look_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spool = Spool.open(SpoolSettings(directory=tmp_path / "spool", min_free_bytes=1 << 20, force_file_system=True))
    try:
        looker = Looker(spool)
        before = looker.look(["consumer-0"], [])
        assert (before.level, before.unreadable) == (0, "")
        with monkeypatch.context() as broken:
            broken.setattr("supervisor.looker.outside.document", lambda *_: dict[str, int]()["nothing"])
            poll(lambda: looker.look(["consumer-0"], []).unreadable, "it is noticed")
            assert looker.last.level == 1
            assert "KeyError" in looker.last.unreadable
            assert looker.last.spool == before.spool, "counters never go back"
            poll(lambda: looker.stalled(time.monotonic() + 60) == 0.0, "children may be started")
        poll(lambda: looker.look(["consumer-0"], []).unreadable == "", "the next look is well")
    finally:
        spool.close()
    assert "KeyError" in "".join(capfd.readouterr()), "its stack is in the log"
