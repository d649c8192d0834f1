"""The contract of `buffer/storage.py`: whatever passes this can take diskcache's place. Nothing here knows what lies on disk."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from buffer.errors import SpoolError, SpoolLocked
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.storage import Intake, Outlet
from buffer.values import DeadLetter, Outcome, Position, Pull, ShardKey, Tally
from buffer.writer import LaneWriter
from tests.buffer.model import Memory, MemoryIntake, MemoryOutlet
from tests.buffer.power.workload import letter

KEY = ShardKey("p", "l", "g", "", 0, 1)
OTHER = replace(KEY, shard=1)


@dataclass
class Store:
    """A queue that can be closed and opened again."""

    make_intake: Callable[[], Intake]
    make_outlet: Callable[[], Outlet]
    opened: list[Intake | Outlet] = field(default_factory=list)

    def intake(self) -> Intake:
        made = self.make_intake()
        self.opened.append(made)
        return made

    def outlet(self) -> Outlet:
        made = self.make_outlet()
        self.opened.append(made)
        return made

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()


@pytest.fixture(params=["diskcache-wal", "diskcache-truncate", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    settings = SpoolSettings(directory=tmp_path, dead_letter_max_bytes=16_000)
    lane = tmp_path / "lanes" / "0"
    memory = Memory(settings)
    if request.param == "memory":
        made = Store(lambda: MemoryIntake(memory), lambda: MemoryOutlet(memory))
    else:
        monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", request.param.split("-")[1])
        made = Store(lambda: LaneWriter.open(lane, settings), lambda: LaneReader.open(lane, settings))
    yield made
    made.close()
    for descriptor in memory.ringing:
        os.close(descriptor)


def pull(
    begin: int, groups: int = 3, epoch: int = 1, key: ShardKey = KEY, size: int = 50, *, first: bool = False
) -> Pull:
    body = f"{begin}/{groups};".encode() * size
    return Pull(key, epoch, "s", "none", len(body), begin, begin + groups, groups, False, False, 1.0, 2.0, body, first)


def waiting(outlet: Outlet) -> list[int]:
    return [one.begin for batch in outlet.read(0, 1000, 1 << 30) for one in batch.pulls]


def states(outlet: Outlet) -> dict[str, str]:
    """Of what is due; the others are only counted."""
    return {one.sls_id: one.state for one in outlet.due(100, 1 << 20)}


def test_what_is_put_is_read_in_order_as_it_was_until_it_is_acked(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    for begin in (10, 13, 16):
        intake.put([pull(begin)])
    batches = outlet.read(0, 10, 1 << 20)
    assert [batch.pulls for batch in batches] == [(pull(10),), (pull(13),), (pull(16),)]
    assert [batch.id for batch in batches] == sorted({batch.id for batch in batches})
    assert waiting(outlet) == [10, 13, 16], "reading removes nothing"
    outlet.ack([batches[1]])
    assert waiting(outlet) == [10, 16], "in any order"
    assert [b.id for b in outlet.read(batches[0].id, 10, 1 << 20)] == [batches[2].id]
    with pytest.raises(SpoolError):
        outlet.ack([batches[1]])
    assert waiting(outlet) == [10, 16], "acked twice changes nothing"


def test_ids_are_never_given_again(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    intake.put([pull(10)])
    first = outlet.read(0, 1, 1 << 20)
    outlet.ack(first)
    store.close()
    store.intake().put([pull(13)])
    assert store.outlet().read(0, 1, 1 << 20)[0].id > first[0].id


def test_reading_is_bounded_and_gives_at_least_one(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    for begin in (10, 13, 16):
        intake.put([pull(begin, size=2000)])
    assert len(outlet.read(0, 2, 1 << 20)) == 2
    assert len(outlet.read(0, 10, 1)) == 1


def test_a_put_judges_each_pull_by_those_before_it(store: Store) -> None:
    intake = store.intake()
    answers = intake.put([pull(10), pull(13), pull(5, key=OTHER), pull(10), pull(11, 9), pull(99)])
    found = [(answer.outcome, answer.next) for answer in answers]
    assert found == [
        (Outcome.STORED, 13), (Outcome.STORED, 16), (Outcome.STORED, 8), (Outcome.REPULL, 16), (Outcome.REPULL, 16),
        (Outcome.GAP, 16),
    ]  # fmt: skip
    assert intake.put([pull(99, first=True)])[0].outcome is Outcome.STORED
    assert waiting(store.outlet()) == [10, 13, 5, 99]


def test_positions_epochs_and_checkpoints(store: Store) -> None:
    intake = store.intake()
    assert intake.position(KEY) is None
    intake.put([pull(10)])
    intake.note_checkpoints({KEY: (1, 12), OTHER: (1, 7)})
    assert (intake.position(KEY), intake.position(OTHER)) == (Position(1, 13, 12), Position(1, None, 7))
    intake.start_epoch(KEY, 2, 5)
    intake.note_checkpoints({KEY: (1, 99)})
    assert intake.position(KEY) == Position(2, None, 5), "an old epoch's checkpoint is ignored"
    assert intake.put([pull(5, epoch=2)])[0].outcome is Outcome.STORED
    assert intake.put([pull(13, epoch=1)])[0].outcome is Outcome.REPULL
    intake.skip_lost(KEY, 2, 40, "s", 32)
    assert intake.position(KEY) == Position(2, 40, 5)


def test_an_ack_buries_in_the_same_breath(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    intake.put([pull(10)])
    batch = outlet.read(0, 1, 1 << 20)
    outlet.ack(
        batch, [letter("a", "dead"), letter("b", "parked"), letter("c", "parked")], Tally({"r": 9}, {"r": 6}, {})
    )
    assert (waiting(outlet), outlet.parked(), states(outlet)) == ([], {"index:i": 2}, {})
    probe = outlet.oldest_parked("index:i")
    assert probe is not None
    assert probe.sls_id == "b"
    assert outlet.oldest_parked("index:other") is None
    behind = [outlet.oldest_parked("index:i", after) for after in ("a", "b", "c", "nobody")]
    assert [one and one.sls_id for one in behind] == ["b", "c", None, "b"]
    with suppress(SpoolError):
        outlet.ack(batch, [letter("z", "parked")])
    assert outlet.parked() == {"index:i": 2}, "an ack that fails buries nothing"


def test_letters_go_through_their_states(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    intake.put([pull(10)])
    outlet.ack(outlet.read(0, 1, 1 << 20), [letter(name, "parked") for name in "abc"])
    assert outlet.release("index:other") == 0
    assert outlet.release("index:i") == 3
    due = outlet.due(100, 1 << 20)
    assert [(one.sls_id, one.log) for one in due] == [(name, name.encode() * 40) for name in "abc"]
    assert len(outlet.due(2, 1 << 20)) == 2
    outlet.settle_dead(due[:1], [replace(due[1], state="dead", tries=2, status=403, code=4, text="no")])
    assert states(outlet) == {"c": "due"}
    outlet.settle_dead([], [replace(due[2], state="parked", hold="token:t", tries=3)])
    assert (states(outlet), outlet.parked()) == ({}, {"token:t": 1})


def test_a_full_quota_says_so(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    assert outlet.may_bury()
    for begin in range(10, 10 + 30, 3):
        intake.put([pull(begin)])
    for number, batch in enumerate(outlet.read(0, 100, 1 << 20)):
        outlet.ack([batch], [letter(f"id{number}", "dead")])
    assert not outlet.may_bury()


def test_everything_is_there_after_it_was_closed(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    for begin in (10, 13):
        intake.put([pull(begin)])
    intake.note_checkpoints({KEY: (1, 11)})
    letters: list[DeadLetter] = [letter("a", "parked"), letter("b", "dead")]
    outlet.ack(outlet.read(0, 1, 1), letters)
    outlet.remember("cap", "800000")
    store.close()
    intake, outlet = store.intake(), store.outlet()
    assert (waiting(outlet), outlet.parked(), intake.position(KEY)) == ([13], {"index:i": 1}, Position(1, 16, 11))
    assert (outlet.recall("cap"), outlet.recall("other")) == ("800000", None)
    assert outlet.release("index:i") == 1
    assert outlet.due(9, 1 << 20)[0].log == letter("a", "dead").log
    assert intake.backlog_age() >= 0


def test_each_side_is_one_s_alone(store: Store) -> None:
    store.intake()
    store.outlet()
    with pytest.raises(SpoolLocked):
        store.intake()
    with pytest.raises(SpoolLocked):
        store.outlet()


def test_a_put_rings(store: Store) -> None:
    intake, outlet = store.intake(), store.outlet()
    outlet.quiet()
    assert not select.select([outlet.bell()], [], [], 0)[0]
    intake.put([pull(10)])
    assert select.select([outlet.bell()], [], [], 5)[0]
    outlet.quiet()
    assert not select.select([outlet.bell()], [], [], 0)[0]
    intake.put([pull(10)])
    assert not select.select([outlet.bell()], [], [], 0)[0], "nothing was stored"
