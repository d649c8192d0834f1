"""`spool verify` names each fault of bodies and index, and only faults: beside both sides at work too (tests/buffer/storm.py)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from buffer import audit, outside
from buffer.audit import verify
from buffer.errors import SpoolDamaged
from buffer.reader import LaneReader
from buffer.spool import Spool
from buffer.values import Tally
from buffer.writer import LaneWriter
from tests.buffer.power.workload import letter
from tests.buffer.test_lane import KEY, lane, pull, spool

__all__ = ["lane", "spool"]


@pytest.fixture
def filled(spool: Spool, lane: Path) -> Spool:
    """Three batches; letters of every state in two files; a file of states."""
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    for begin in range(10, 25, 3):
        writer.put([pull(begin)])
    writer.note_checkpoints({KEY: (1, 13)})
    for name in "ab":
        letters = [letter(f"{name}{state}", state) for state in ("dead", "parked")]
        reader.ack(reader.read(0, 1, 1), letters, Tally({"r": 3}, {"r": 1}))
    reader.settle_dead([], [letter("aparked", "due", 2)])
    reader.close()
    writer.close()
    return spool


def faults(spool: Spool) -> list[tuple[str, str]]:
    return [(Path(one["file"]).name, one["fault"]) for one in verify(spool.directory) if one["fault"]]


def change(lane: Path, statement: str) -> None:
    with sqlite3.connect(lane / "cache.db") as database:
        assert database.execute(statement).rowcount > 0
    database.close()


def test_a_sound_spool_has_no_faults_and_each_body_is_looked_at(filled: Spool, lane: Path) -> None:
    assert faults(filled) == []
    assert {one["file"] for one in verify(filled.directory)} == {str(path) for path in (lane / "v").iterdir()}


def test_the_books_hold_when_a_letter_is_buried_twice_or_found_again(filled: Spool, lane: Path) -> None:
    before = {path: path.read_bytes() for path in lane.glob("cache.db*")}
    reader = LaneReader.open(lane, filled.settings)
    twice = [letter("adead", "dead", 3), letter("c", "dead"), letter("c", "dead")]
    reader.ack(reader.read(0, 1, 1), twice, Tally({"r": 3}))
    reader.settle_dead([letter("bdead", "dead")], [])
    reader.close()
    assert faults(filled) == []
    for path in lane.glob("cache.db*"):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    filled.recover()
    assert "bdead" not in {one.sls_id for _, one in outside.dead(filled.directory)}
    assert [name for name, fault in faults(filled) if "No such file" not in fault] == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM batch WHERE id = 3", "waiting_batches says 3, and 2 are there"),
        ("DELETE FROM batch WHERE id = 3", "diskcache has rows of 3 batches, and 2"),
        ("DELETE FROM batch WHERE id = 3", "no row names this file"),
        ("UPDATE batch SET groups = 7 WHERE id = 3", "waiting_groups says 9, and 13"),
        ("UPDATE batch SET bytes = bytes + 9000 WHERE id = 3", "waiting_bytes says"),
        ("UPDATE batch SET file = 'v/other.val' WHERE id = 3", "No such file"),
        ("UPDATE batch SET file = (SELECT file FROM batch WHERE id = 4) WHERE id = 3", "something else than its row"),
        ("UPDATE batch SET pulls = replace(pulls, '\"next\":19', '\"next\":20') WHERE id = 3", "something else"),
        ("UPDATE batch SET pulls = 'x' WHERE id = 3", "its row cannot be read"),
        ("DELETE FROM Cache WHERE key = 'batch-3'", "diskcache's row says something else"),
        ("UPDATE Cache SET filename = 'v/other.val' WHERE key = 'batch-3'", "diskcache's row says something else"),
        ("DELETE FROM held WHERE batch = 3", "does not know that shard 0 waits from 16"),
        ("UPDATE position SET put = put + 1", "does not match its CRC"),
        ("UPDATE position SET checkpoint = 99", "does not match its CRC"),
        ("UPDATE position SET key = 'x', crc = NULL", "a position's key is 'x'"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'put'", "do not add up: put 16, settled"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'settled'", "do not add up: put 15, settled"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'buried'", "do not add up: buried 5"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'delivered'", "do not add up: decoded 6"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'letters' AND label = 'due'", "letters due says 2, and 1"),
        ("UPDATE counter SET value = value + 1 WHERE name = 'letters_file_bytes'", "letters_file_bytes says"),
        ("UPDATE dead SET place = 1 - place", "says that dead letter adead is in it"),
        ("UPDATE dead SET sls_id = 'other' WHERE sls_id = 'bdead'", "says that dead letter other is in it"),
        ("DELETE FROM dead WHERE sls_id LIKE 'b%'", "nothing that is in it"),
    ],
)  # fmt: skip
def test_each_fault_of_an_index_is_named(filled: Spool, lane: Path, statement: str, said: str) -> None:
    change(lane, statement)
    found = faults(filled)
    assert [fault for _, fault in found if said in fault], found


def test_a_row_that_cannot_be_read_is_said(filled: Spool, lane: Path) -> None:
    change(lane, "UPDATE batch SET pulls = '[{' WHERE id = 4")
    with pytest.raises(SpoolDamaged, match="of batch 4") as said:
        list(outside.batches(filled.directory))
    assert said.value.hint
    assert [fault.what for fault in filled.recover()] != []
    assert len(list(outside.batches(filled.directory))) == 3


@pytest.mark.parametrize("harm", ["gone", "flipped", "not named"])
def test_each_fault_of_a_file_is_named_alone(filled: Spool, lane: Path, harm: str) -> None:
    for path in sorted((lane / "v").iterdir()):
        data = path.read_bytes()
        if harm == "gone":
            path.unlink()
        elif harm == "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        else:
            path.with_name("orphan.val").write_bytes(data)
        wanted = "orphan.val" if harm == "not named" else path.name
        assert {name for name, _ in faults(filled)} == {wanted}
        path.with_name("orphan.val").unlink(missing_ok=True)
        path.write_bytes(data)
    assert faults(filled) == []


@pytest.mark.parametrize("harm", ["gone", "garbage", "page"])
def test_an_index_that_cannot_be_read_is_a_fault_and_no_error(filled: Spool, lane: Path, harm: str) -> None:
    path = lane / "cache.db"
    data = path.read_bytes()
    page = data[: len(data) - 4096] + bytes([0xFF]) * 4096
    path.write_bytes({"gone": b"", "garbage": b"no index at all" * 1000, "page": page}[harm])
    if harm == "gone":
        path.unlink()
    assert ("cache.db" in {name for name, _ in faults(filled)}) or harm == "page"
    assert faults(filled)


def test_a_young_file_beside_a_running_supervisor_is_no_fault(filled: Spool, lane: Path) -> None:
    (lane / "v" / "new.val").write_bytes(b"a put is being made")
    assert [one["file"] for one in verify(filled.directory, live=True) if one["fault"]] == []
    assert [name for name, _ in faults(filled)] == ["new.val"]


def test_beside_a_running_supervisor_nothing_holds_the_writer_up(
    filled: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PATIENCE", -1.0)
    monkeypatch.setattr(audit, "_STEPS", 1)
    unchecked: list[str] = []
    assert [one for one in verify(filled.directory, live=True, unchecked=unchecked.append) if one["fault"]] == []
    assert [text.split()[1] for text in unchecked] == ["pages", "positions", "counters"]
