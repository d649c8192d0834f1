"""A lost index forgets no state of a dead letter; the files of states stay small."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from buffer import body, disk, outside, states, sweep
from buffer.audit import verify
from buffer.errors import SpoolDamaged, SpoolFull
from buffer.lane import Lane
from buffer.operate import dead_purge, dead_replay
from buffer.reader import LaneReader
from buffer.rebuild import rebuild
from buffer.spool import Spool
from buffer.values import DeadLetter, ShardKey
from buffer.writer import LaneWriter
from tests.buffer.power.workload import letter
from tests.buffer.test_lane import files, lane, pull, spool

__all__ = ["lane", "spool"]


def lose_index(directory: Path) -> None:
    for path in directory.glob("cache.db*"):
        path.unlink()


def letters(spool: Spool) -> dict[str, tuple[str, int]]:
    return {d.sls_id: (d.state, d.tries) for _, d in outside.dead(spool.directory)}


@pytest.fixture
def reader(spool: Spool, lane: Path) -> LaneReader:
    """Five letters: a, b dead; c, d, e parked."""
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.close()
    found = LaneReader.open(lane, spool.settings)
    found.ack(found.read(0, 1, 1), [letter(name, "dead" if name in "ab" else "parked") for name in "abcde"])
    return found


def test_every_change_survives_a_lost_index(spool: Spool, lane: Path, reader: LaneReader) -> None:
    assert reader.release("index:i") == 3
    c, d, _ = reader.due(10, 1 << 20)
    reader.settle_dead([c], [letter(d.sls_id, "dead", 2)])
    assert dead_replay(spool.settings, ["a"]) == 1
    assert dead_purge(spool.settings, ["b"]) == 1
    reader.close()
    wanted = {"a": ("due", 1), "d": ("dead", 2), "e": ("due", 1)}
    assert letters(spool) == wanted
    for _ in range(2):
        lose_index(lane)
        assert [f.lane for f in spool.recover()] == [lane.name]
        assert letters(spool) == wanted
    stats = spool.stats().lanes[0]
    assert (stats.dead, stats.due, stats.parked, stats.reasons) == (1, 2, 0, {"400/6": 1})


def test_a_clock_that_goes_back_does_not_mix_up_the_order(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1)
    reader.release("index:i")
    monkeypatch.setattr("time.time_ns", lambda: 0)
    reader.settle_dead([], [letter(name, "dead", 2) for name in "cde"])
    reader.close()
    lose_index(lane)
    spool.recover()
    assert letters(spool) == dict.fromkeys("ab", ("dead", 1)) | dict.fromkeys("cde", ("dead", 2))


def test_a_letter_buried_again_lives_in_the_newer_file_and_frees_the_older(
    spool: Spool, lane: Path, reader: LaneReader
) -> None:
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(13)])
    writer.close()
    assert files(lane) == 2
    reader.ack(reader.read(0, 1, 1), [letter(name, "dead", 3) for name in "abcde"])
    reader.close()
    assert files(lane) == 1
    assert set(letters(spool).values()) == {("dead", 3)}
    assert spool.stats().lanes[0].dead == 5
    lose_index(lane)
    spool.recover()
    assert set(letters(spool).values()) == {("dead", 3)}


def test_many_changes_become_one_file_and_none_when_no_letter_is_left(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "COMPACT_BYTES", 20_000)
    reader.settle_dead([letter("b", "dead")], [])
    for tries in range(2, 60):
        reader.settle_dead([], [letter("c", "dead", tries)])
        assert files(lane) <= 1 + 6
    reader.close()
    lose_index(lane)
    spool.recover()
    assert letters(spool) == {"a": ("dead", 1), "c": ("dead", 59), "d": ("parked", 1), "e": ("parked", 1)}
    again = LaneReader.open(lane, spool.settings)
    again.release("index:i")
    again.settle_dead([letter(name, "due") for name in "de"], [])
    again.close()
    assert files(lane) > 1
    assert dead_purge(spool.settings, None) == 2
    assert files(lane) == 0


def test_a_letter_buried_while_an_operator_replays_survives_a_lost_index(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender has written its file, the operator's change is named first, and its snapshot knows nothing of that file."""
    monkeypatch.setattr(states, "COMPACT_BYTES", 0)
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(13)])
    writer.close()
    bury = reader.bury

    def overtaken(buried: Sequence[DeadLetter]) -> tuple[int, int, str, None] | None:
        written = bury(buried)
        assert dead_replay(spool.settings, ["a"]) == 1
        return written

    monkeypatch.setattr(reader, "bury", overtaken)
    reader.ack(reader.read(0, 1, 1), [letter("late", "dead")])
    reader.close()
    wanted = letters(spool)
    assert wanted["late"] == ("dead", 1)
    assert files(lane) == 3, "two of letters, one of states"
    lose_index(lane)
    spool.recover()
    assert letters(spool) == wanted


def test_a_start_and_an_operators_change_at_the_same_moment_disturb_neither(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.close()
    (lane / "v" / "left.val").write_bytes(b"so that the sweep looks at the files")
    look = sweep._last_letters

    def changed_meanwhile(of: Lane) -> int:
        found = look(of)
        dead_replay(spool.settings, ["a"])
        return found

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "_last_letters", changed_meanwhile)
        assert spool.recover() == []

    operator = LaneReader.attach(lane, spool.settings)
    write, starts = operator._write_changes, iter([spool.recover])

    def started_meanwhile(changes: Sequence[dict[str, Any]]) -> tuple[int, int, str, None]:
        written = write(changes)
        for start in starts:
            assert start() == []
        return written

    monkeypatch.setattr(operator, "_write_changes", started_meanwhile)
    operator.make_due(["b"])
    operator.close()
    wanted = letters(spool)
    assert [state for state, _ in wanted.values()] == ["due", "due", "parked", "parked", "parked"]
    assert not [v for v in verify(spool.directory) if v["fault"] and v["file"].endswith(".val")]
    lose_index(lane)
    spool.recover()
    assert letters(spool) == wanted


@pytest.mark.parametrize("written", [0, body.HEAD.size], ids=["nothing", "its head"])
def test_a_start_that_finds_an_operators_change_half_written_does_not_take_it_away(
    spool: Spool, lane: Path, reader: LaneReader, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.close()
    write, starts = disk.write_all, iter([spool.recover])

    def started_meanwhile(file: int, pieces: Sequence[bytes | memoryview]) -> None:
        data = b"".join(pieces)
        write(file, [data[:written]])
        for start in starts:
            assert start() == []
        write(file, [data[written:]])

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_all", started_meanwhile)
        assert dead_replay(spool.settings, ["b"]) == 1
    wanted = letters(spool)
    assert wanted["b"] == ("due", 1)
    assert not [v for v in verify(spool.directory) if v["fault"] and v["file"].endswith(".val")]
    lose_index(lane)
    spool.recover()
    assert letters(spool) == wanted


def test_a_letter_that_two_purge_at_once_is_counted_once(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.close()
    operator = LaneReader.attach(lane, spool.settings)
    write, others = operator._write_changes, iter([dead_purge])

    def purged_meanwhile(changes: Sequence[dict[str, Any]]) -> tuple[int, int, str, None]:
        for other in others:
            assert other(spool.settings, ["a"]) == 1
        return write(changes)

    monkeypatch.setattr(operator, "_write_changes", purged_meanwhile)
    assert operator.remove_dead(None) == 1, "the other one"
    operator.close()
    books = spool.stats().books
    assert (books["buried"], len(letters(spool)), books["dead_purged"]) == (5, 3, 2)


def test_what_is_buried_or_changed_without_room_leaves_no_file_behind(
    spool: Spool, lane: Path, reader: LaneReader
) -> None:
    """Else each attempt would take of the room that draining needs."""
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(13)])
    writer.close()
    before, batches = files(lane), reader.read(0, 1, 1)
    pages = reader.rows("PRAGMA page_count")[0][0]
    reader.rows(f"PRAGMA max_page_count = {pages}")  # SQLite answers as on a full disk
    for _ in range(3):
        with pytest.raises(SpoolFull):
            reader.ack(batches, [letter(f"more{number}", "dead") for number in range(400)])
        with pytest.raises(SpoolFull):
            reader.settle_dead([], [replace(letter("c", "dead"), text="x" * 40_000)])
        assert files(lane) == before
    reader.rows(f"PRAGMA max_page_count = {pages + 1000}")
    reader.ack(batches, [letter("more", "dead")])
    assert letters(spool).keys() == set("abcde") | {"more"}
    reader.close()


@pytest.mark.parametrize(
    "turned",
    [
        "place = 6 WHERE sls_id = 'c'",
        "place = 3 WHERE sls_id = 'c'",
        "place = -126 WHERE sls_id = 'c'",
        "state = 'parjed' WHERE sls_id = 'c'",
        "hold = 'index:k' WHERE sls_id = 'c'",
    ],
    ids=["place in no file", "place of another", "sign of a place", "state", "hold"],
)
def test_a_letter_whose_row_a_turned_bit_changed_is_had_back_from_its_file(
    spool: Spool, lane: Path, reader: LaneReader, turned: str
) -> None:
    wanted = letters(spool)
    reader.close()
    index = sqlite3.connect(lane / "cache.db")
    index.executescript(f"DROP TRIGGER dead_changed; UPDATE dead SET {turned}")
    index.close()
    assert [one.sls_id for _, one in outside.dead(spool.directory)] == list("abcde")
    assert any("letter" in (one["fault"] or "") for one in verify(spool.directory))
    faults = spool.recover()
    assert len(faults) == ("place" not in turned), "an index is rebuilt"
    again = LaneReader.open(lane, spool.settings)
    assert again.release("index:i") == 3
    assert sorted(one.sls_id for one in again.due(10, 1 << 20)) == ["c", "d", "e"]
    again.close()
    assert letters(spool) == wanted | dict.fromkeys("cde", ("due", 1))


def test_a_rebuild_cut_short_is_begun_again_and_sweeps_nothing(
    spool: Spool, lane: Path, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.close()
    writer = LaneWriter.open(lane, spool.settings)
    for begin in range(13, 40, 3):
        writer.put([pull(begin)])
    writer.close()
    there = sorted(os.listdir(lane / "v"))

    class Cut(Exception):
        pass

    calls = 0

    def cut() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cut

    monkeypatch.setattr("buffer.rebuild._STEP", 4)
    (lane / "cache.db").write_bytes(b"no index")
    for _ in range(3):
        calls = 0
        with pytest.raises(Cut):
            rebuild(lane, "lost", cut)
    kept = [path.read_bytes() for path in (lane / "damaged").glob("cache.db.*")]
    assert kept == [b"no index"], "what is half made is not kept: tried again and again it would fill the disk"
    for side in (LaneWriter, LaneReader):
        with pytest.raises(SpoolDamaged, match="half rebuilt"):
            side.open(lane, spool.settings)
    assert [f.lane for f in spool.recover()] == [lane.name]
    assert sorted(os.listdir(lane / "v")) == there
    LaneWriter.open(lane, spool.settings).close()
    assert sorted(os.listdir(lane / "v")) == there
    assert len(letters(spool)) == 5
    assert spool.stats().books["waiting"] == 27


def test_a_damaged_body_met_while_rebuilding_is_counted_and_reported_with_its_cursors(
    spool: Spool, lane: Path, reader: LaneReader, capsys: pytest.CaptureFixture[str]
) -> None:
    reader.close()
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(13)])
    writer.close()
    path = Path(next(iter(outside.batches(spool.directory)))["file"])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    lose_index(lane)
    spool.recover()
    assert spool.stats().lanes[0].damaged == 1
    assert (lane / "damaged" / path.name).exists()
    said = capsys.readouterr()
    assert '"begin": 13' in said.out + said.err or "'begin': 13" in said.out + said.err
    assert (body.head_of(lane / "damaged" / path.name) or (0,))[0] == body.BATCH
    note = orjson.loads((lane / "damaged" / f"{path.name}.json").read_bytes())
    assert (note["batch"], note["file"], note["why"]) == (2, f"v/{path.name}", "body does not match its CRC")
    (held,) = note["pulls"]
    assert (held["source"], ShardKey(*held["key"]), held["begin"], held["next"]) == ("s", pull(13).key, 13, 16)


@pytest.mark.parametrize("is_rebuilt", [True, False])
def test_a_note_tells_which_dead_letters_were_in_a_damaged_file(
    spool: Spool, lane: Path, reader: LaneReader, *, is_rebuilt: bool
) -> None:
    (path,) = (lane / "v").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if is_rebuilt:
        reader.close()
        lose_index(lane)
        spool.recover()
    else:
        assert not reader.due(10, 1 << 20)
        dead_replay(spool.settings, None)
        assert not reader.due(10, 1 << 20)
    note = orjson.loads((lane / "damaged" / f"{path.name}.json").read_bytes())
    assert len({one["sls_id"] for one in note["letters"]}) == 5
    assert note["batch"] is None
    assert not note["pulls"]
    assert spool.stats().lanes[0].damaged == 1


def test_what_has_no_header_any_more_is_set_aside_with_a_note_that_says_so(
    spool: Spool, lane: Path, reader: LaneReader
) -> None:
    reader.close()
    (lane / "v" / f"{9:032x}.val").write_bytes(b"nothing of ours")
    lose_index(lane)
    spool.recover()
    note = orjson.loads((lane / "damaged" / f"{9:032x}.val.json").read_bytes())
    assert (note["batch"], note["pulls"], note["letters"]) == (None, [], [])
    assert "torn" in note["why"]
