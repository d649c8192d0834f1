"""Bits that turn over, and tails that are cut off, in bodies, index and journal: nothing false is read, nothing is lost in
silence.

The witness is what had been put, kept by the test; what cannot be had back must stand in `damaged/` with its cursors.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import orjson
import pytest

from buffer import body, outside, positions
from buffer.errors import SpoolError
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Position
from buffer.writer import LaneWriter
from tests.buffer.power import workload

ROUNDS = 60


class Cut(Exception):
    """The machine stops here."""


def settings(directory: Path) -> SpoolSettings:
    return SpoolSettings(directory=directory, min_free_bytes=1 << 20)


@pytest.fixture(scope="module", params=["wal", "truncate"])
def master(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A spool as kill -9 leaves it in the middle of a put: with its journal, twelve batches and three letters."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SLS_SIEM_JOURNAL_MODE", request.param)
    directory = tmp_path_factory.mktemp("flips") / "spool"
    spool = Spool.open(settings(directory))
    lane = lane_directory(directory, spool.id, 0)
    writer, reader = LaneWriter.open(lane, settings(directory)), LaneReader.open(lane, settings(directory))
    for begin in range(1000, 1000 + 13 * workload.GROUPS, workload.GROUPS):
        writer.put([workload.pull(shard, begin, 1) for shard in range(workload.SHARDS)])
    reader.ack(reader.read(0, 1, 1), [workload.letter(f"id{n}", "dead") for n in range(3)])
    left = directory.with_name("left")
    with contextlib.suppress(Cut), writer.transaction("a put that is cut short") as sql:
        begin = 1000 + 13 * workload.GROUPS
        pulls = [workload.pull(shard, begin, 1) for shard in range(workload.SHARDS)]
        described = [body.describe_pull(one) for one in pulls]
        size, mode, file = writer._write(pulls, described, 14, 1.0, "a put")
        sql("PRAGMA cache_size = 1")  # so that pages go to disk before the COMMIT, and the journal is hot
        writer._insert(sql, 14, 1.0, file, size, mode, pulls, described)
        for one in pulls:
            positions.save_position(sql, one.key, Position(1, begin + workload.GROUPS, None))
        for number in range(100):
            sql("INSERT INTO memo VALUES (?, ?)", (f"{number}", "x" * 400))
        shutil.copytree(directory, left, ignore=shutil.ignore_patterns("bell", "ballast"))
        raise Cut
    reader.close()
    writer.close()
    spool.close()
    patch.undo()
    return left, request.param


def turn(path: Path, chance: random.Random) -> str:
    """One to eight bits, or the tail."""
    data = bytearray(path.read_bytes())
    if chance.random() < 0.2:
        cut = chance.randrange(len(data))
        path.write_bytes(data[:cut])
        return f"{path.name} cut at {cut}"
    places = [chance.randrange(len(data)) for _ in range(chance.choice((1, 1, 2, 8)))]
    for place in places:
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{path.name} turned at {places}"


def look(directory: Path) -> tuple[dict[str, bytes], set[str], set[str]]:
    """After the next start: what is read, what is reported as set aside, the letters."""
    spool = Spool.open(settings(directory))
    read: dict[str, bytes] = {}
    try:
        spool.recover()
        lane = lane_directory(directory, spool.id, 0)
        writer, reader = LaneWriter.open(lane, settings(directory)), LaneReader.open(lane, settings(directory))
        try:
            after = 0
            while True:
                batches = reader.read(after, 100, 1 << 30)
                if not batches:
                    break
                after = batches[-1].id
                for pull in (one for batch in batches for one in batch.pulls):
                    name = f"{pull.key.shard}/{pull.begin}/{pull.epoch}"
                    assert name not in read, "twice"
                    read[name] = bytes(pull.body)
            letters = {letter.sls_id for _, letter in outside.dead(directory)}
        finally:
            reader.close()
            writer.close()
        return read, reported(lane), letters
    finally:
        spool.close()


def reported(lane: Path) -> set[str]:
    """What the notes beside damaged bodies name."""
    found = set()
    for note in (lane / "damaged").glob("*.json"):
        for pull in orjson.loads(note.read_bytes())["pulls"]:
            found.add(f"{pull['key'][4]}/{pull['begin']}/{pull['epoch']}")
    return found


def put() -> dict[str, bytes]:
    begins = range(1000 + workload.GROUPS, 1000 + 13 * workload.GROUPS, workload.GROUPS)
    return {f"{s}/{b}/1": workload.body(s, b, 1) for b in begins for s in range(workload.SHARDS)}


@pytest.mark.parametrize("what", ["v/*.val", "cache.db", "cache.db-*"])
def test_nothing_false_is_read_and_nothing_is_lost_in_silence(
    master: tuple[Path, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, mode = master
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    wanted, harmed = put(), 0
    for number in range(ROUNDS):
        chance = random.Random(number)
        directory = tmp_path / str(number)
        shutil.copytree(left, directory)
        files = sorted(p for p in directory.glob(f"lanes/*/{what}") if p.stat().st_size > 100)
        chosen = chance.choice(files)
        is_letters = what == "v/*.val" and b"Invalid data format" in chosen.read_bytes()
        said = turn(chosen, chance)
        try:
            read, aside, letters = look(directory)
        except SpoolError as error:
            pytest.fail(f"{number}: {said}: {error!r}")
        false = [name for name, body in read.items() if wanted.get(name, body) != body]
        lost = wanted.keys() - read.keys() - aside
        assert not false, f"{number}: {said}"
        assert not lost, f"{number}: {said}: {lost}"
        # A lost tail of the journal forgets the burial: then the batch that it was about is reported.
        assert is_letters or letters == {"id0", "id1", "id2"} or "0/1000/1" in aside, f"{number}: {said}"
        if what == "v/*.val" and not is_letters:
            harmed += bool(aside)
            assert len(aside) in {0, workload.SHARDS}, "that batch and no other"
        shutil.rmtree(directory)
    assert harmed > ROUNDS / 4 or what != "v/*.val"
