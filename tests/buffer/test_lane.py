"""A lane from both sides: stored, recognised, removed, buried, set aside, rebuilt. The file system is the witness."""

from __future__ import annotations

import inspect
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import diskcache
import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from buffer import body, budget, outside
from buffer.adopt import adopt
from buffer.audit import verify
from buffer.database import journal_mode
from buffer.disk import is_spare
from buffer.errors import SpoolBroken, SpoolDamaged, SpoolFull, SpoolLocked, SpoolTooNew, SpoolUnusable
from buffer.operate import dead_purge, dead_replay, forget_group, purge
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import DeadLetter, Outcome, Position, Pull, ShardKey, Tally
from buffer.writer import LaneWriter
from tests.buffer.power.workload import letter

KEY = ShardKey("p", "l", "g", "", 0, 1)


def break_sectors(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """The disk cannot read the files of these names, ever."""
    read = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.name in names:
            raise OSError(5, "Input/output error", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def pull(begin: int, groups: int = 3, epoch: int = 1, key: ShardKey = KEY, *, first: bool = False) -> Pull:
    body = f"{begin}/{groups};".encode() * 50
    return Pull(key, epoch, "s", "none", len(body), begin, begin + groups, groups, False, False, 1.0, 2.0, body, first)


@pytest.fixture(params=["wal", "truncate"])
def spool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", request.param)
    made = Spool.open(SpoolSettings(directory=tmp_path / "spool", min_free_bytes=1 << 20))
    yield made
    made.close()


@pytest.fixture
def lane(spool: Spool) -> Path:
    return lane_directory(spool.directory, spool.id, 0)


@pytest.fixture
def writer(spool: Spool, lane: Path) -> Iterator[LaneWriter]:
    made = LaneWriter.open(lane, spool.settings)
    yield made
    made.close()


@pytest.fixture
def reader(writer: LaneWriter, spool: Spool, lane: Path) -> Iterator[LaneReader]:
    del writer
    made = LaneReader.open(lane, spool.settings)
    yield made
    made.close()


def files(lane: Path) -> int:
    return sum(not is_spare(path) for path in (lane / "v").iterdir())


def test_what_is_put_is_read_in_order_until_it_is_acked(writer: LaneWriter, reader: LaneReader, lane: Path) -> None:
    for begin in (10, 13, 16):
        assert writer.put([pull(begin)])[0].next == begin + 3
    batches = reader.read(0, 10, 1 << 20)
    assert [b.pulls[0] for b in batches] == [pull(10), pull(13), pull(16)]
    reader.ack(batches[1:2], tally=Tally({"r": 5}, {"r": 5}))
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [10, 16]
    assert files(lane) == 2


def test_a_re_pull_is_recognised_and_answered_with_the_position(writer: LaneWriter, reader: LaneReader) -> None:
    writer.put([pull(10, 5)])
    for again in (pull(10, 5), pull(10, 9), pull(12, 1)):
        answer = writer.put([again])[0]
        assert (answer.outcome, answer.next) == (Outcome.REPULL, 15)
    gap = writer.put([pull(20)])[0]
    assert (gap.outcome, gap.next) == (Outcome.GAP, 15)
    assert writer.put([pull(20, first=True)])[0].outcome is Outcome.STORED
    assert len(reader.read(0, 10, 1 << 20)) == 2


def test_pulls_of_one_put_are_judged_by_those_before_them_and_share_one_file(writer: LaneWriter, lane: Path) -> None:
    other = replace(KEY, shard=1)
    answers = writer.put([pull(10), pull(13), pull(5, key=other), pull(10), pull(99)])
    assert [a.outcome.value for a in answers] == ["stored", "stored", "stored", "repull", "gap"]
    assert files(lane) == 1


def test_positions_survive_and_a_new_epoch_forgets_them(writer: LaneWriter, spool: Spool, lane: Path) -> None:
    writer.put([pull(10)])
    writer.note_checkpoints({KEY: (1, 13)})
    writer.close()
    again = LaneWriter.open(lane, spool.settings)
    assert again.position(KEY) == Position(1, 13, 13)
    again.start_epoch(KEY, 2, 5)
    assert again.put([pull(5, epoch=2)])[0].outcome is Outcome.STORED
    assert again.put([pull(13, epoch=1)])[0].outcome is Outcome.REPULL, "an old epoch's pull comes too late"
    assert outside.find_position(spool.directory, spool.id, KEY) == Position(2, 8, 5)
    again.note_checkpoints({KEY: (1, 99)})
    assert again.position(KEY) == Position(2, 8, 5), "an old epoch's checkpoint is ignored"
    again.close()
    LaneWriter.open(lane, spool.settings).close()


def test_the_lowest_waiting_cursor_is_over_all_lanes(writer: LaneWriter, reader: LaneReader, spool: Spool) -> None:
    other = LaneWriter.open(lane_directory(spool.directory, spool.id, 7), spool.settings)
    other.put([pull(4)])
    writer.put([pull(10)])
    assert outside.lowest_waiting(spool.directory, "p", "l", 0) == 4
    other.close()
    reader.ack(reader.read(0, 10, 1 << 20))
    assert outside.lowest_waiting(spool.directory, "p", "l", 0) == 4
    assert outside.lowest_waiting(spool.directory, "p", "l", 9) is None


def test_an_ack_and_what_it_buries_are_one(writer: LaneWriter, reader: LaneReader, spool: Spool, lane: Path) -> None:
    writer.put([pull(10)])
    reader.ack(reader.read(0, 1, 1), [letter("a", "dead"), letter("b", "parked")], Tally({"r": 3}, {"r": 1}))
    assert {(d.sls_id, d.state) for _, d in outside.dead(spool.directory)} == {("a", "dead"), ("b", "parked")}
    assert files(lane) == 1, "the letters; the batch is gone"
    books = spool.stats().books
    assert (books["put"], books["settled"], books["waiting"]) == (3, 3, 0)
    assert (books["decoded"], books["delivered"], books["buried"]) == (3, 1, 2)
    assert reader.release("index:i") == 1
    due = reader.due(10, 1 << 20)
    assert [d.sls_id for d in due] == ["b"]
    reader.settle_dead(due, [])
    assert dead_replay(spool.settings, None) == 1
    reader.settle_dead([], [letter("a", "dead", 2)])
    assert [(d.sls_id, d.tries) for _, d in outside.dead(spool.directory)] == [("a", 2)]
    assert dead_purge(spool.settings, None) == 1
    assert files(lane) == 0, "the file goes with its last letter"
    assert spool.stats().books["dead_purged"] == 1


def test_the_quota_of_dead_letters_stops_reading_on(spool: Spool, lane: Path) -> None:
    small = replace(spool.settings, dead_letter_max_bytes=1000)
    writer, reader = LaneWriter.open(lane, small), LaneReader.open(lane, small)
    assert reader.may_bury()
    writer.put([pull(10)])
    reader.ack(reader.read(0, 1, 1), [letter(f"id{n}", "dead") for n in range(20)])
    assert not reader.may_bury()
    reader.close()
    writer.close()


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove", "swap"])
def test_a_damaged_body_costs_that_batch_and_no_other(
    writer: LaneWriter, reader: LaneReader, spool: Spool, lane: Path, harm: str
) -> None:
    for begin in (10, 13, 16):
        writer.put([pull(begin)])
    rows = list(outside.batches(spool.directory))
    path = Path(rows[1]["file"])
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    others: dict[str, bytes] = {"truncate": bytes(data[:-1]), "empty": b"", "swap": Path(rows[0]["file"]).read_bytes()}
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(others.get(harm, bytes(data)))
    assert [v["fault"] is None for v in verify(spool.directory)] == [True, False, True]
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [10, 16]
    assert list((lane / "damaged").glob("*.json")), "its cursors are kept"
    stats = spool.stats()
    assert (stats.books["set_aside"], stats.lanes[0].damaged, stats.books["waiting"]) == (3, 1, 6)


@pytest.mark.parametrize("lost", [False, True], ids=["in its turn", "while rebuilding"])
def test_files_that_the_disk_cannot_read_cost_themselves_and_no_other(
    spool: Spool, lane: Path, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: the disk gives what comes before it, and then EIO, for ever."""
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    for begin in (10, 13, 16, 19):
        writer.put([pull(begin)])
    reader.ack(reader.read(0, 1, 1), [letter("a", "due")])
    bad = {Path(list(outside.batches(spool.directory))[1]["file"]).name, reader.rows("SELECT file FROM dead")[0][0][2:]}
    break_sectors(monkeypatch, bad)
    if lost:
        reader.close()
        writer.close()
        (lane / "cache.db").write_bytes(b"no index")
        spool.recover()
        reader = LaneReader.open(lane, spool.settings)
    assert reader.due(10, 1 << 20) == []
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [13, 19]
    assert {path.name for path in (lane / "damaged").glob("*.val")} == bad, "they are kept"
    notes = [orjson.loads(path.read_bytes()) for path in (lane / "damaged").glob("*.json")]
    assert sorted(one["begin"] for note in notes for one in note["pulls"]) == [16]
    assert [one["sls_id"] for note in notes for one in note["letters"]] == ["a"]
    assert spool.stats().lanes[0].damaged == 2
    reader.close()
    writer.close()


def test_a_file_that_the_disk_reads_at_the_second_try_is_sound(
    writer: LaneWriter, reader: LaneReader, lane: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.put([pull(10)])
    read, faults = Path.read_bytes, [OSError(5, "Input/output error")]

    def read_bytes(self: Path) -> bytes:
        if faults:
            raise faults.pop()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [10]
    assert not faults
    assert not list((lane / "damaged").iterdir())


def test_files_that_no_row_names_and_the_disk_cannot_read_are_set_aside_and_end_no_start(
    spool: Spool, lane: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index lost its last rows, a put and a burial, and where their files are the disk is bad."""
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.close()
    reader.close()
    older = (lane / "cache.db").read_bytes()
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    reader.ack((), [letter("a", "dead")])
    writer.put([pull(13)])
    bad = {Path(list(outside.batches(spool.directory))[1]["file"]).name, reader.rows("SELECT file FROM dead")[0][0][2:]}
    writer.close()
    reader.close()
    for path in lane.glob("cache.db*"):
        path.unlink()
    (lane / "cache.db").write_bytes(older)
    break_sectors(monkeypatch, bad)
    assert spool.recover() == []
    assert {path.name for path in (lane / "damaged").glob("*.val")} == bad, "they are kept"
    notes = [orjson.loads(path.read_bytes()) for path in (lane / "damaged").glob("*.json")]
    assert sorted(one["begin"] for note in notes for one in note["pulls"]) == [13]
    assert [one["sls_id"] for note in notes for one in note["letters"]] == ["a"]
    assert (spool.stats().lanes[0].damaged, spool.stats().books["waiting"]) == (2, 3)


@pytest.mark.parametrize("passes", [True, False], ids=["a fault that passes", "a bad sector"])
def test_an_index_that_the_disk_cannot_read_is_rebuilt_unless_that_passes(
    spool: Spool, lane: Path, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.close()
    bad = [(lane / "cache.db").stat().st_ino]
    connect = outside._connect

    def fail(path: Path) -> tuple[sqlite3.Connection, int]:
        if path.stat().st_ino not in bad:
            return connect(path)
        if passes:
            bad.clear()
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_CORRUPTFS  # what SQLite makes of EIO
        raise error

    monkeypatch.setattr(outside, "_connect", fail)
    assert len(spool.recover()) == (not passes)
    stats = spool.stats()
    assert (stats.books["waiting"], stats.lanes[0].rebuilt) == (3, not passes)
    assert len(list((lane / "damaged").glob("cache.db.*"))) == (not passes), "it is kept"


@pytest.mark.parametrize("harm", ["removed", "garbage", "page"])
def test_a_lost_index_is_rebuilt_from_the_bodies(spool: Spool, lane: Path, harm: str) -> None:
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    for begin in (10, 13, 16, 19):
        writer.put([pull(begin)])
    reader.ack(reader.read(0, 1, 1), [letter("a", "parked")])
    reader.close()
    writer.close()
    database = lane / "cache.db"
    for leftover in lane.glob("cache.db-*"):
        leftover.unlink()
    if harm == "removed":
        database.unlink()
    elif harm == "garbage":
        database.write_bytes(b"not a database at all" * 1000)
    else:
        with database.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(database.stat().st_size - 4096))
    faults = spool.recover()
    assert [f.lane for f in faults] == [lane.name]
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [13, 16, 19]
    assert [d.sls_id for _, d in outside.dead(spool.directory)] == ["a"]
    assert writer.position(KEY) == Position(2, None, None), "a new epoch without P and C"
    assert spool.stats().lanes[0].rebuilt == 1
    reader.close()
    writer.close()


def test_no_command_puts_an_empty_index_in_the_place_of_a_lost_one(spool: Spool, lane: Path) -> None:
    """It would pass for the index, so that nothing is rebuilt, and no position begins a new epoch."""
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.close()
    for path in lane.glob("cache.db*"):
        path.unlink()
    commands: list[Callable[[], object]] = [
        lambda: dead_replay(spool.settings, None),
        lambda: dead_purge(spool.settings, None),
        lambda: forget_group(spool.settings, "p", "l", "g"),
        lambda: LaneWriter.open(lane, spool.settings),
        lambda: LaneReader.open(lane, spool.settings),
    ]
    for command in commands:
        with pytest.raises(SpoolDamaged, match="missing"):
            command()
    assert not (lane / "cache.db").exists()
    assert [f.lane for f in spool.recover()] == [lane.name]
    assert outside.find_position(spool.directory, spool.id, KEY) == Position(2, None, None)


def test_a_put_that_a_kill_cut_short_brings_no_forgotten_position_back(spool: Spool, lane: Path) -> None:
    """`group reset` would have been in vain: the next start begins at what was put."""
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(10)])
    writer._write([pull(13)], [body.describe_pull(pull(13))], 2, 1.0, "a put without its row")
    writer.close()
    assert forget_group(spool.settings, "p", "l", "g") == 1
    assert spool.recover() == []
    assert outside.find_position(spool.directory, spool.id, KEY) is None
    reader = LaneReader.open(lane, spool.settings)
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [10, 13], "what waits is sent all the same"
    reader.close()


def test_what_was_set_aside_stays_though_a_rebuilt_index_counts_batches_anew(spool: Spool, lane: Path) -> None:
    for begin in (10, 50):
        writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
        writer.put([pull(begin)])
        (batch,) = reader.read(0, 1, 1)
        assert batch.id == 1
        reader.ack([batch], set_aside=[(batch, 0, "it cannot be decoded")])
        reader.close()
        writer.close()
        (lane / "cache.db").write_bytes(b"no index")
        spool.recover()
    kept = [body.unpack(path.read_bytes()) for path in (lane / "damaged").glob("*.val")]
    assert sorted(one.meta[0]["begin"] for one in kept) == [10, 50]
    assert len(list((lane / "damaged").glob("*.val.json"))) == 2


def test_a_forged_row_is_never_unpickled(writer: LaneWriter, lane: Path, tmp_path: Path) -> None:
    writer.put([pull(10)])
    trap = tmp_path / "trap"
    payload = b"cposix\nsystem\n(S'touch %s'\ntR." % str(trap).encode()
    with sqlite3.connect(lane / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, value = ?, filename = NULL", (payload,))
        name = database.execute("SELECT key FROM Cache").fetchone()[0]
    database.close()
    with pytest.raises(SpoolDamaged):
        writer._cache.get(name)
    with pytest.raises(TypeError):
        writer._cache.set("name", {"an": "object"})
    assert not trap.exists()


def test_nobody_else_may_look(writer: LaneWriter, spool: Spool, lane: Path) -> None:
    writer.put([pull(10)])
    for path in [spool.directory, *spool.directory.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0 or path.is_symlink(), f"{path} {wanted:o}"
    assert lane.exists()


def test_a_second_writer_reader_or_supervisor_is_refused(
    spool: Spool, lane: Path, writer: LaneWriter, reader: LaneReader
) -> None:
    del writer, reader
    for side in (LaneWriter, LaneReader):
        with pytest.raises(SpoolLocked):
            side.open(lane, spool.settings)
    with pytest.raises(SpoolLocked):
        Spool.open(spool.settings)


def test_a_newer_format_is_refused_by_name(spool: Spool) -> None:
    (spool.directory / "format").write_text("99")
    spool.close()
    with pytest.raises(SpoolTooNew, match="99"):
        Spool.open(spool.settings)
    (spool.directory / "format").write_text("1")


def test_an_index_of_the_version_before_is_taken_on_with_its_positions_and_books(spool: Spool, lane: Path) -> None:
    """Its positions have no CRC."""
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.put([pull(13)])
    reader.ack(reader.read(0, 1, 1))
    reader.close()
    writer.close()
    older = sqlite3.connect(lane / "cache.db")
    older.executescript(
        "CREATE TABLE older(key TEXT PRIMARY KEY, epoch INTEGER NOT NULL, put INTEGER, checkpoint INTEGER) WITHOUT ROWID;"
        "INSERT INTO older SELECT key, epoch, put, checkpoint FROM position; DROP TABLE position;"
        "ALTER TABLE older RENAME TO position; PRAGMA user_version = 1;"
    )
    older.close()
    assert outside.find_position(spool.directory, spool.id, KEY) == Position(1, 16, None)
    assert [v["fault"] for v in verify(spool.directory)] == [None]
    assert spool.recover() == [], "nothing is damaged"
    writer = LaneWriter.open(lane, spool.settings)
    assert writer.position(KEY) == Position(1, 16, None)
    assert writer.put([pull(13), pull(16)])[0].outcome is Outcome.REPULL
    assert spool.stats().books["settled"] == 3
    writer.close()


def test_an_orphan_file_is_swept_and_a_named_one_is_kept(spool: Spool, lane: Path, writer: LaneWriter) -> None:
    writer.put([pull(10)])
    (lane / "v" / "orphan.val").write_bytes(b"x")
    writer.close()
    spool.recover()
    assert files(lane) == 1


def test_purge_is_counted_and_leaves_the_dead_letters(spool: Spool, lane: Path) -> None:
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    for begin in (10, 13):
        writer.put([pull(begin)])
    reader.ack(reader.read(0, 1, 1), [letter("a", "dead")])
    reader.close()
    writer.close()
    spool.close()
    assert purge(spool.settings) == 3
    found = [outside.lane_stats(p) for p in outside.lane_directories(spool.directory)]
    assert outside.books(found)["purged"] == 3
    assert found[0].dead == 1


def test_a_file_system_without_durability_is_refused_unless_forced() -> None:
    directory = Path("/dev/shm") / f"sls-siem-test-{os.getpid()}"
    try:
        with pytest.raises(SpoolUnusable, match="tmpfs"):
            Spool.open(SpoolSettings(directory=directory))
        Spool.open(SpoolSettings(directory=directory, force_file_system=True, min_free_bytes=1 << 20)).close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "truncate"), ((3, 44, 5), "truncate"), ((3, 44, 6), "wal"), ((3, 45, 0), "truncate"),
        ((3, 50, 6), "truncate"), ((3, 50, 7), "wal"), ((3, 51, 2), "truncate"), ((3, 51, 3), "wal"), ((3, 60, 0), "wal"),
    ],
)  # fmt: skip
def test_wal_only_where_sqlite_is_free_of_the_reset_bug(
    version: tuple[int, ...], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLS_SIEM_JOURNAL_MODE", raising=False)
    assert journal_mode(version) == mode


def test_the_budget_stops_at_95_percent_and_goes_on_at_85(tmp_path: Path) -> None:
    settings = SpoolSettings(directory=tmp_path, max_bytes=1100, dead_letter_max_bytes=100, min_free_bytes=50)

    def level(now: int, used: int, free: int = 10_000, inodes: int = 10**6, ballast: bool = True) -> int:
        return budget.level(settings, now, used, free, inodes, ballast)

    assert [level(0, 949), level(0, 950), level(1, 900), level(1, 850)] == [0, 1, 1, 0]
    assert [level(0, 0, free=49), level(0, 0, inodes=10), level(0, 0, ballast=False)] == [1, 1, 1]


def test_dead_letters_are_full_at_their_quota_and_never_before_the_first(tmp_path: Path) -> None:
    settings = SpoolSettings(directory=tmp_path, dead_letter_max_bytes=100)
    assert [budget.letters_level(settings, used) for used in (0, 99, 100, 101)] == [0, 0, 1, 1]
    none = SpoolSettings(directory=tmp_path, dead_letter_max_bytes=0)
    assert [budget.letters_level(none, used) for used in (0, 1)] == [0, 1]


def test_diskcache_is_the_one_we_know(tmp_path: Path) -> None:
    """The private names that are used: a new version is looked at before it is taken."""
    assert diskcache.__version__ == "5.6.3"
    made = diskcache.Cache(str(tmp_path))
    try:
        assert [*inspect.signature(made._row_insert).parameters] == ["key", "raw", "now", "columns"]
        assert [*inspect.signature(made.disk.store).parameters] == ["value", "read", "key"]
        assert [*inspect.signature(made.disk.fetch).parameters] == ["mode", "filename", "value", "read"]
        assert made._con is made._local.con
        assert made._sql("SELECT ?", (7,)).fetchone() == made._sql_retry("SELECT ?", (7,)).fetchone() == (7,)
        columns = [row[1] for row in made._sql("PRAGMA table_info(Cache)")]
        assert columns[:3] == ["rowid", "key", "raw"]
        assert {"size", "mode", "filename", "value"} <= set(columns)
    finally:
        made.close()


def test_a_full_disk_leaves_nothing_half_written(
    spool: Spool, lane: Path, writer: LaneWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    large = replace(pull(10), body=bytes(200_000), raw_size=200_000)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(SpoolFull):
        writer.put([large])
    assert files(lane) == 0
    monkeypatch.undo()
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", "truncate")
    assert writer.put([large])[0].outcome is Outcome.STORED
    assert spool.stats().books["put"] == 3


def test_after_a_failed_commit_the_lane_proves_itself_before_the_next_put(
    writer: LaneWriter, reader: LaneReader, lane: Path
) -> None:
    writer.put([pull(10)])
    before = (lane / "cache.db").stat().st_ino
    writer._doubtful = True
    assert writer.put([pull(13)])[0].outcome is Outcome.STORED
    assert (lane / "cache.db").stat().st_ino == before, "the reader has this file open"
    batches = reader.read(0, 10, 1 << 20)
    assert [b.pulls[0].begin for b in batches] == [10, 13]
    reader.ack(batches)
    assert files(lane) == 0


def test_a_disk_that_fails_the_proof_gets_no_more_puts_and_is_still_drained(
    writer: LaneWriter, reader: LaneReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.put([pull(10)])
    writer._doubtful = True

    def broken(*_: object) -> None:
        raise OSError(5, "the flush fails")

    monkeypatch.setattr(writer._proof, "run", broken)
    for _ in range(2):
        with pytest.raises(SpoolBroken):
            writer.put([pull(13)])
    reader.ack(reader.read(0, 10, 1 << 20))
    assert not reader.read(0, 10, 1 << 20)


def test_an_index_that_lost_as_many_puts_as_acks_forgets_nothing(spool: Spool, lane: Path) -> None:
    """Then there are as many files as rows; the checkpoint of what was put is saved already."""
    writer = LaneWriter.open(lane, spool.settings)
    for begin in (10, 13, 16):
        writer.put([pull(begin)])
    writer.close()
    older = (lane / "cache.db").read_bytes()
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    writer.put([pull(19)])
    reader.ack(reader.read(0, 1, 1))
    reader.close()
    writer.close()
    (lane / "cache.db").write_bytes(older)
    spool.recover()
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [13, 16, 19]
    assert writer.put([pull(19)])[0].outcome is Outcome.REPULL
    reader.close()
    writer.close()


@pytest.mark.parametrize("moment", ["whole", "before the row", "before the unlink"])
def test_two_puts_that_the_index_does_not_know_are_there_once(
    spool: Spool, lane: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's COMMIT failed, the second held the same pull and another, and one that had grown; then the power went."""
    other, third, mode = replace(KEY, shard=1), replace(KEY, shard=2), os.environ["SLS_SIEM_JOURNAL_MODE"]
    writer = LaneWriter.open(lane, spool.settings)
    writer.put([pull(10)])
    writer.close()
    left = [(2, [pull(13), pull(5, key=third)]), (3, [pull(13), pull(70, key=other), pull(5, 9, key=third)])]
    for number, pulls in left:
        described = [body.describe_pull(one) for one in pulls]
        pieces = body.pack(body.BATCH, number, 1.0, described, [one.body for one in pulls])
        (lane / "v" / f"{number:032x}.val").write_bytes(b"".join(pieces))

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    if moment == "before the row":
        monkeypatch.setattr(LaneWriter, "_insert", cut)
    elif moment == "before the unlink":
        monkeypatch.setattr("buffer.disk.DurableDisk.remove", cut)
    if moment != "whole":
        with pytest.raises(Cut):
            spool.recover()
        monkeypatch.undo()
        monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    assert spool.recover() == []
    writer, reader = LaneWriter.open(lane, spool.settings), LaneReader.open(lane, spool.settings)
    found = [(p.key.shard, p.begin, p.groups) for b in reader.read(0, 10, 1 << 20) for p in b.pulls]
    assert found == [(0, 10, 3), (0, 13, 3), (2, 5, 3), (1, 70, 3), (2, 5, 9)], "what had grown is not lost"
    assert [writer.position(key) for key in (KEY, other, third)] == [Position(1, n, None) for n in (16, 73, 14)]
    assert (files(lane), spool.stats().books["put"]) == (3, sum(groups for _, _, groups in found))
    assert sum(one.counters["taken_in", ""] for one in spool.lanes()) == sum(groups for _, _, groups in found[1:])
    reader.close()
    writer.close()


@pytest.mark.root
@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_a_commit_without_room_leaves_no_file_behind(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each attempt would take of the room that draining needs."""
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "x", str(disk)], check=False).returncode
    ):
        pytest.skip("needs root")
    try:
        settings = SpoolSettings(directory=disk / "spool", min_free_bytes=1 << 30, force_file_system=True)
        spool = Spool.open(settings)
        lane = lane_directory(spool.directory, spool.id, 0)
        writer, reader = LaneWriter.open(lane, settings), LaneReader.open(lane, settings)
        large = replace(pull(10), body=bytes(300_000), raw_size=300_000)
        assert writer.put([large])[0].outcome is Outcome.STORED
        with (disk / "somebody else's").open("wb", buffering=0) as others:
            left = os.statvfs(disk).f_bavail - len(large.body) // 4096 - 2
            assert others.write(bytes(left * 4096)) == left * 4096
            for _ in range(3):
                with pytest.raises(SpoolFull, match="a batch in lane"):
                    writer.put([replace(large, begin=13, next=16)])
                assert files(lane) == 1
            others.truncate(0)
        assert writer.put([replace(large, begin=13, next=16)])[0].outcome is Outcome.STORED
        assert [b.pulls[0].begin for b in reader.read(0, 10, 1 << 20)] == [10, 13]
        for one in (reader, writer, spool):
            one.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


class LaneModel(RuleBasedStateMachine):
    """Random actions on a lane beside a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.settings = SpoolSettings(directory=Path(self.home.name) / "spool", min_free_bytes=1 << 20)
        self.spool = Spool.open(self.settings)
        self.lane = lane_directory(self.spool.directory, self.spool.id, 0)
        self.open()
        self.position = 100
        self.epoch = 1
        self.has_position = False
        self.waiting: list[tuple[int, int]] = []
        self.dead: dict[str, str] = {}
        self.put_groups = self.gone_groups = self.numbers = 0

    def open(self) -> None:
        self.writer, self.reader = LaneWriter.open(self.lane, self.settings), LaneReader.open(self.lane, self.settings)

    def teardown(self) -> None:
        self.no_fault_is_found()
        self.reader.close()
        self.writer.close()
        self.spool.close()
        self.home.cleanup()

    @rule(groups=st.integers(1, 5))
    def put(self, groups: int) -> None:
        answer = self.writer.put([pull(self.position, groups, self.epoch)])[0]
        assert answer.outcome is Outcome.STORED
        self.waiting.append((self.position, groups))
        self.position += groups
        self.has_position = True
        self.put_groups += groups

    @precondition(lambda self: self.has_position)
    @rule(back=st.integers(1, 8), groups=st.integers(1, 20))
    def put_again(self, back: int, groups: int) -> None:
        answer = self.writer.put([pull(self.position - back, groups, self.epoch)])[0]
        assert (answer.outcome, answer.next) == (Outcome.REPULL, self.position)

    @precondition(lambda self: self.has_position)
    @rule(ahead=st.integers(1, 8))
    def put_with_a_gap(self, ahead: int) -> None:
        answer = self.writer.put([pull(self.position + ahead, 1, self.epoch)])[0]
        assert (answer.outcome, answer.next) == (Outcome.GAP, self.position)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 20), states=st.lists(st.sampled_from(["dead", "parked"]), max_size=3))
    def ack(self, which: int, states: list[str]) -> None:
        batches = self.reader.read(0, 100, 1 << 30)
        batch = batches[which % len(batches)]
        letters: list[DeadLetter] = []
        for state in states:
            self.numbers += 1
            letters.append(letter(f"id{self.numbers}", state))
            self.dead[f"id{self.numbers}"] = state
        self.reader.ack([batch], letters, Tally({"r": len(letters)}))
        self.waiting.remove((batch.pulls[0].begin, batch.pulls[0].groups))

    @rule()
    def release(self) -> None:
        parked = [i for i, state in self.dead.items() if state == "parked"]
        assert self.reader.release("index:i") == len(parked)
        self.dead.update(dict.fromkeys(parked, "due"))

    @rule(delivered=st.booleans())
    def resend(self, delivered: bool) -> None:
        for one in self.reader.due(2, 1 << 20):
            if delivered:
                self.reader.settle_dead([one], [])
                del self.dead[one.sls_id]
            else:
                self.reader.settle_dead([], [replace(one, state="dead", tries=one.tries + 1)])
                self.dead[one.sls_id] = "dead"

    @rule()
    def replay(self) -> None:
        dead = [i for i, state in self.dead.items() if state == "dead"]
        assert dead_replay(self.settings, None) == len(dead)
        self.dead.update(dict.fromkeys(dead, "due"))

    @rule(back=st.integers(1, 50))
    def new_epoch(self, back: int) -> None:
        self.epoch += 1
        self.position -= back
        self.has_position = False
        self.writer.start_epoch(KEY, self.epoch, self.position)

    @rule()
    def reopen(self) -> None:
        self.reader.close()
        self.writer.close()
        self.open()

    @rule()
    def purge_dead(self) -> None:
        dead = [i for i, state in self.dead.items() if state == "dead"]
        assert dead_purge(self.settings, None) == len(dead)
        for one in dead:
            del self.dead[one]

    @rule()
    def crash(self) -> None:
        """The directory as it is at this moment, and nothing closed in order."""
        left = self.lane.with_name(".left")
        shutil.copytree(self.lane, left, ignore=shutil.ignore_patterns("bell"))
        self.reader.close()
        self.writer.close()
        shutil.rmtree(self.lane)
        left.rename(self.lane)
        (self.lane / "v" / "half.val").write_bytes(b"what a put left behind")
        self.spool.recover()
        self.open()
        assert not (self.lane / "v" / "half.val").exists()
        self.no_fault_is_found()

    @rule()
    def lose_the_index(self) -> None:
        """Positions begin a new epoch; what waits and the letters' states are as they were; the books begin anew."""
        known = self.writer.position(KEY)
        self.reader.close()
        self.writer.close()
        for path in self.lane.glob("cache.db*"):
            path.unlink()
        lost = self.spool.recover()
        assert bool(lost) == (files(self.lane) > 0)
        self.open()
        found = self.writer.position(KEY)
        assert found is None or (known is not None and found == Position(found.epoch, None, None))
        self.epoch = found.epoch if found else 1
        self.has_position = False
        self.put_groups, self.gone_groups = sum(groups for _, groups in self.waiting), 0
        self.no_fault_is_found()

    @precondition(lambda self: self.waiting or self.dead)
    @rule()
    def adopted_by_another(self) -> None:
        """All that waits is there, in order; nothing of it is here any more when the host comes back."""
        self.reader.close()
        self.writer.close()
        self.spool.close()
        with tempfile.TemporaryDirectory() as home:
            other = Spool.open(replace(self.settings, directory=Path(home) / "spool"))
            adopt(other.settings, self.settings.directory)
            reader = LaneReader.open(other.directory / "lanes" / self.lane.name, other.settings)
            found = [(b.pulls[0].begin, b.pulls[0].groups) for b in reader.read(0, 1000, 1 << 30)]
            assert found == self.waiting
            assert {d.sls_id: d.state for _, d in outside.dead(other.directory)} == self.dead
            reader.close()
            other.close()
        self.spool = Spool.open(self.settings)
        self.spool.recover()
        self.gone_groups += sum(groups for _, groups in self.waiting)
        self.waiting, self.dead = [], {}
        self.open()

    def no_fault_is_found(self) -> None:
        assert not [one for one in verify(self.spool.directory) if one["fault"]]

    @invariant()
    def the_quota_counts_what_lies_there(self) -> None:
        there = {row["file"] for row in outside.batches(self.spool.directory)}
        blocks = sum(
            p.stat().st_blocks * 512
            for p in (self.lane / "v").iterdir()
            if str(p) not in there and (body.head_of(p) or (0,))[0] == body.DEAD
        )
        assert self.spool.stats().lanes[0].dead_bytes == blocks

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        found = [(b.pulls[0].begin, b.pulls[0].groups) for b in self.reader.read(0, 1000, 1 << 30)]
        assert found == self.waiting
        assert {d.sls_id: d.state for _, d in outside.dead(self.spool.directory)} == self.dead
        stats = self.spool.stats()
        assert stats.books["put"] == self.put_groups
        assert stats.books["waiting"] == sum(groups for _, groups in self.waiting)
        assert stats.books["purged"] == self.gone_groups
        assert stats.books["put"] == stats.books["settled"] + stats.books["waiting"] + self.gone_groups
        known = self.writer.position(KEY)
        assert known is None or known.put == (self.position if self.has_position else None)


LaneModel.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
test_a_lane_does_what_a_plain_model_says = LaneModel.TestCase
