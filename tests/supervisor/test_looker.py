"""The thread that looks at the disk: whatever becomes of a look, there is another."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from buffer.settings import SpoolSettings
from buffer.spool import Spool
from supervisor.looker import Looker
from tests.waiting import poll


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
            assert looker.stalled(time.monotonic() + 60) == 0.0, "children may be started"
        poll(lambda: looker.look(["consumer-0"], []).unreadable == "", "the next look is well")
    finally:
        spool.close()
    assert "KeyError" in "".join(capfd.readouterr()), "its stack is in the log"
