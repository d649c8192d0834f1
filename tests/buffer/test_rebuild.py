"""An index made again from the bodies, by a process that is killed on the way. The file system is the witness."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buffer.errors import SpoolDamaged
from buffer.reader import LaneReader
from buffer.rebuild import rebuild
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.writer import LaneWriter
from tests.buffer.test_lane import files, pull


def put_batches(spool: Spool, lane: Path, count: int) -> None:
    writer = LaneWriter.open(lane, spool.settings)
    for number in range(count):
        writer.put([pull(10 + 3 * number)])
    writer.close()


def rebuild_and_die(lane: Path, settings: SpoolSettings, beats: int) -> int:
    """In a process of its own, which ends without any clean-up at a beat; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = [beats]

    def beat() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)

    rebuild(lane, settings, "a test", beat)
    os._exit(0)


@pytest.mark.parametrize("beats", [0, 1, 5, 11])
def test_a_rebuild_that_is_killed_loses_no_body(tmp_path: Path, beats: int) -> None:
    spool = Spool.open(SpoolSettings(directory=tmp_path / "spool", min_free_bytes=1 << 20))
    lane = lane_directory(spool.directory, spool.id, 0)
    put_batches(spool, lane, 12)
    (lane / "cache.db").write_bytes(b"this is no database" * 100)
    assert rebuild_and_die(lane, spool.settings, beats) == 9
    assert files(lane) == 12
    with pytest.raises(SpoolDamaged):
        LaneWriter.open(lane, spool.settings)

    assert [fault.lane for fault in spool.recover(1)] == [lane.name]
    LaneWriter.open(lane, spool.settings).close()
    assert files(lane) == 12, "the sweep removed what the half-made index did not name"
    reader = LaneReader.open(lane, spool.settings)
    assert len(reader.read(0, 99, 1 << 20)) == 12
    reader.close()
    assert not spool.recover(1), "once is enough"
    spool.close()
