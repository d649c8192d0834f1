"""Another host's spool: taken over whole, once, whatever interrupts it; and that host's return."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from buffer import adopt, outside
from buffer.adopt import plan
from buffer.errors import SpoolError, SpoolFull, SpoolLocked, SpoolTooNew, SpoolUnusable
from buffer.lane import ADOPTED
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Outcome
from buffer.writer import LaneWriter
from tests.buffer.power.workload import letter
from tests.buffer.test_lane import KEY, files, pull


def settings_for(directory: Path) -> SpoolSettings:
    return SpoolSettings(directory=directory, min_free_bytes=1 << 20)


@pytest.fixture(params=["wal", "truncate"])
def ours(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    """Our supervisor is running all the while."""
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", request.param)
    made = Spool.open(settings_for(tmp_path / "ours"))
    yield made
    made.close()


@pytest.fixture
def theirs(tmp_path: Path, ours: Spool) -> Spool:
    """A host that died: two lanes with batches, letters in every state, nothing closed in an orderly way."""
    del ours
    spool = Spool.open(settings_for(tmp_path / "theirs"))
    for slot in (0, 1):
        fill(spool, slot, [10, 13, 16])
    LaneWriter.open(lane_directory(spool.directory, spool.id, 2), spool.settings).close()
    spool.close()
    return spool


def fill(spool: Spool, slot: int, begins: list[int]) -> None:
    lane = lane_directory(spool.directory, spool.id, slot)
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    for begin in begins:
        writer.put([pull(begin, key=replace(KEY, shard=slot))])
    names = [(f"{slot}-{begins[0]}-{state}", state) for state in ("dead", "parked", "due")]
    reader.ack(reader.read(0, 1, 1), [letter(name, "parked" if state == "due" else state) for name, state in names])
    reader.settle_dead([], [letter(f"{slot}-{begins[0]}-due", "due", 2)])
    reader.close()
    writer.close()


def waiting(spool: Spool) -> dict[str, list[int]]:
    """Lane -> cursors, by an outside reader."""
    found: dict[str, list[int]] = {}
    for one in outside.batches(spool.directory):
        found.setdefault(one["lane"], []).extend(p["begin"] for p in one["pulls"])
    return found


def letters(spool: Spool) -> dict[str, str]:
    return {d.sls_id: d.state for _, d in outside.dead(spool.directory)}


def test_all_that_waits_comes_along_once(ours: Spool, theirs: Spool) -> None:
    before = letters(theirs)
    assert {one.action for one in plan(ours.settings, theirs.directory)} == {"copy", "empty"}
    assert waiting(ours) == {}, "a plan changes nothing"
    done = adopt.adopt(ours.settings, theirs.directory)
    assert [(one.action, one.batches, one.letters) for one in done] == [("copy", 2, 3), ("copy", 2, 3), ("empty", 0, 0)]
    assert waiting(ours) == {f"{theirs.id}-{slot}": [13, 16] for slot in (0, 1)}
    assert letters(ours) == before
    assert len(before) == 6
    assert waiting(theirs) == {}
    assert letters(theirs) == {}
    books = ours.stats().books
    assert books["put"] == books["waiting"] == 12
    again = adopt.adopt(ours.settings, theirs.directory)
    assert {one.action for one in again} == {"done", "empty"}
    assert len(letters(ours)) == 6
    assert outside.find_position(ours.directory, ours.id, replace(KEY, shard=1)) is None, (
        "adopted positions do not count"
    )
    assert outside.lowest_waiting(ours.directory, "p", "l", 1) == 13, "but what waits in them does"


def test_an_adopted_lane_is_read_and_acked_like_any_other(ours: Spool, theirs: Spool) -> None:
    adopt.adopt(ours.settings, theirs.directory)
    lane = ours.directory / "lanes" / f"{theirs.id}-0"
    reader = LaneReader.open(lane, ours.settings)
    batches = reader.read(0, 10, 1 << 20)
    assert [p for b in batches for p in b.pulls] == [pull(13), pull(16)]
    reader.ack(batches)
    assert reader.release("index:i") == 1
    assert len(reader.due(10, 1 << 20)) == 2
    reader.close()
    assert files(lane) <= 4


def test_the_host_that_comes_back_sends_nothing_twice_and_keeps_its_positions(ours: Spool, theirs: Spool) -> None:
    adopt.adopt(ours.settings, theirs.directory)
    lane = lane_directory(theirs.directory, theirs.id, 0)
    with pytest.raises(SpoolUnusable, match="adopted"):
        LaneReader.open(lane, theirs.settings)
    back = Spool.open(theirs.settings)
    assert sorted(f.lane for f in back.recover()) == [f"{theirs.id}-0", f"{theirs.id}-1"]
    assert back.recover() == []
    assert files(lane) == 0
    assert not (lane / ADOPTED).exists()
    writer = LaneWriter.open(lane, back.settings)
    assert writer.put([pull(13)])[0].outcome is Outcome.REPULL, "the position is kept"
    assert writer.put([pull(19)])[0].outcome is Outcome.STORED
    writer.close()
    books = back.stats().books
    assert books["put"] == books["settled"] + books["waiting"] + books["purged"]
    back.close()
    done = adopt.adopt(ours.settings, theirs.directory)
    assert [(one.action, one.target) for one in done if one.lane.endswith("-0")] == [("copy", f"{theirs.id}-0~2")]
    assert waiting(ours)[f"{theirs.id}-0~2"] == [19]


@pytest.mark.parametrize("moment", ["copying", "renaming", "marking"])
def test_an_adoption_cut_short_is_repeated_and_takes_each_batch_once(
    ours: Spool, theirs: Spool, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"copying": "_settle_index", "renaming": "sync_directory", "marking": "_mark"}[moment]

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    monkeypatch.setattr(adopt, broken, cut)
    with pytest.raises(Cut):
        adopt.adopt(ours.settings, theirs.directory)
    monkeypatch.undo()
    adopt.adopt(ours.settings, theirs.directory)
    assert waiting(ours) == {f"{theirs.id}-{slot}": [13, 16] for slot in (0, 1)}
    assert len(letters(ours)) == 6
    assert waiting(theirs) == {}


def test_what_the_other_host_put_between_two_attempts_comes_too(
    ours: Spool, theirs: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt, "_mark", lambda *_: None)
    adopt.adopt(ours.settings, theirs.directory)
    monkeypatch.undo()
    fill(theirs, 0, [19, 22])
    done = adopt.adopt(ours.settings, theirs.directory)
    assert [(one.lane[-1], one.action) for one in done] == [("0", "copy"), ("1", "mark"), ("2", "empty")]
    assert {19, 22} & set(waiting(ours)[f"{theirs.id}-0~2"]), "not lost, though what was copied before comes twice"


@pytest.mark.parametrize("harm", ["index", "body"])
def test_damage_costs_what_is_damaged(ours: Spool, theirs: Spool, harm: str) -> None:
    lane = lane_directory(theirs.directory, theirs.id, 0)
    if harm == "index":
        (lane / "cache.db").write_bytes(b"no index" * 2000)
        (lane / "cache.db-wal").unlink(missing_ok=True)
    else:
        path = Path(next(iter(outside.batches(theirs.directory)))["file"])
        path.write_bytes(path.read_bytes()[:-1])
    adopt.adopt(ours.settings, theirs.directory)
    reader = LaneReader.open(ours.directory / "lanes" / lane.name, ours.settings)
    found = [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)]
    assert found == ([13, 16] if harm == "index" else [16])
    reader.close()
    assert len(letters(ours)) == 6
    back = Spool.open(theirs.settings)
    back.recover()
    back.close()
    assert waiting(theirs) == {}


def test_what_cannot_be_adopted_is_said(ours: Spool, theirs: Spool, tmp_path: Path) -> None:
    def refused(
        kind: type[SpoolError], source: Path = theirs.directory, settings: SpoolSettings = ours.settings
    ) -> str:
        with pytest.raises(kind) as said:
            adopt.adopt(settings, source)
        assert said.value.hint
        return str(said.value)

    assert "no spool" in refused(SpoolUnusable, tmp_path)
    assert "same id" in refused(SpoolUnusable, ours.directory)
    running = Spool.open(theirs.settings)
    refused(SpoolLocked)
    running.close()
    assert "free" in refused(SpoolFull, settings=replace(ours.settings, min_free_bytes=1 << 60))
    (theirs.directory / "format").write_text("99")
    assert "99" in refused(SpoolTooNew)
    (theirs.directory / "format").write_text("1")
    (ours.directory / "lanes" / f"{theirs.id}-0").mkdir()
    assert "elsewhere" in refused(SpoolUnusable)
    assert waiting(theirs), "nothing was taken"
    assert os.listdir(ours.directory / "lanes" / f"{theirs.id}-0") == []


def test_a_file_that_the_dead_hosts_disk_cannot_read_costs_itself_and_no_other(
    ours: Spool, theirs: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector, in a body and in an index: the disk is why that host is dead."""
    rows = [one for one in outside.batches(theirs.directory) if one["lane"].endswith("-0")]
    bad = {rows[0]["file"], str(theirs.directory / "lanes" / f"{theirs.id}-1" / "cache.db")}
    sendfile, read = os.sendfile, os.read

    def name(file: int) -> str:
        return os.readlink(f"/proc/self/fd/{file}")

    def send(out: int, file: int, offset: int | None, count: int) -> int:
        if name(file) in bad:
            raise OSError(5, "Input/output error")
        return sendfile(out, file, offset, count)

    def read_before(file: int, count: int) -> bytes:
        if name(file) in bad and os.lseek(file, 0, os.SEEK_CUR) >= 100:
            raise OSError(5, "Input/output error")
        return read(file, 100 if name(file) in bad else count)

    connection = outside.connection

    @contextmanager
    def connect(lane: Path) -> Iterator[sqlite3.Connection | None]:
        if str(lane / "cache.db") in bad:
            raise SpoolUnusable("disk I/O error")
        with connection(lane) as db:
            yield db

    monkeypatch.setattr(outside, "connection", connect)
    monkeypatch.setattr(os, "sendfile", send)
    monkeypatch.setattr(os, "read", read_before)
    adopt.adopt(ours.settings, theirs.directory)
    assert letters(ours) == {f"{slot}-10-{state}": state for slot in (0, 1) for state in ("dead", "parked", "due")}
    lane = ours.directory / "lanes" / f"{theirs.id}-0"
    reader = LaneReader.open(lane, ours.settings)
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [16]
    reader.close()
    notes = [orjson.loads(path.read_bytes()) for path in (lane / "damaged").glob("*.json")]
    assert [one["begin"] for note in notes for one in note["pulls"]] == [13], "its cursors are known"
    assert waiting(ours)[f"{theirs.id}-1"] == [13, 16], "rebuilt from the bodies"


def test_an_adoption_without_room_leaves_nothing_half_copied(
    ours: Spool, theirs: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "sendfile", no_room)
        with pytest.raises(SpoolFull):
            adopt.adopt(ours.settings, theirs.directory)
    assert [path.name for path in (ours.directory / "lanes").iterdir() if path.is_dir()] == []
    adopt.adopt(ours.settings, theirs.directory)
    assert waiting(ours) == {f"{theirs.id}-{slot}": [13, 16] for slot in (0, 1)}
