"""InvalidCursor: what it means, and that nobody acts on it, or on an old answer, when the shard is another's already."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.waiting import poll
from tests.worker.consuming import House, source_of, stored
from worker.gone import INSISTS, Why, judge

TIMEOUT = 2.0


@pytest.mark.parametrize(
    ("at", "begin", "end", "same", "refusals", "why"),
    [
        (10, 15, 20, True, 1, Why.RETENTION),
        (10, 15, 20, False, 1, Why.ANEW),
        (17, 15, 20, True, 1, Why.PASSING),
        (15, 15, 20, True, INSISTS - 1, Why.PASSING),
        (20, 15, 20, True, 1, Why.PASSING),
        (17, 15, 20, True, INSISTS, Why.UNKNOWN),
        (21, 15, 20, True, 1, Why.UNKNOWN),
    ],
)
def test_one_refusal_is_believed_only_where_sls_has_the_cursor_no_more(
    at: int, begin: int, end: int, same: bool, refusals: int, why: Why
) -> None:
    assert judge(at, begin, end, same=same, refusals=refusals) is why


def asked_by(sls: SlsEmulator, slot: str) -> int:
    """How often a slot has asked for the checkpoints."""
    return sum(
        one.operation == "get_checkpoint" and one.headers["user-agent"].endswith(slot)
        for one in list(sls.service.requests)
    )


def lost(house: House) -> int:
    return sum(lane.counters.get(("lost_to_retention_groups", "audit"), 0) for lane in house.spool.lanes())


@pytest.mark.parametrize("times", [3, INSISTS])
def test_a_cursor_that_sls_has_and_refuses_is_asked_for_again_and_only_then_read_from_the_beginning(
    tmp_path: Path, times: int
) -> None:
    with SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=50_000)) as sls:
        sls.fill(3_000)
        fault = sls.faults.add("status", "pull", status=400, code="InvalidCursor", after=5, count=times)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert fault.happened == times
            assert lost(house) == 0
            if times < INSISTS:
                assert house.groups() == stored(sls), "not one pull twice"
            else:
                assert not stored(sls) - house.groups(), "rather twice than not at all"


def test_who_has_lost_the_shard_meanwhile_does_not_count_what_retention_took(tmp_path: Path) -> None:
    sls = SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=50_000))
    with sls, House(tmp_path / "spool", source_of(sls, consumer_timeout=TIMEOUT), consumers=2) as house:
        sls.fill(2_000)
        house.start(0)
        house.wait_drained(sls)
        at = sls.store().shards[0].end
        closed = sls.faults.add("status", "pull", status=503, code="ServerBusy")
        poll(lambda: closed.happened, "nothing can be pulled")
        sls.fill(2_000)
        gone = sls.trim(0, (at - sls.store().shards[0].first) + 11) - at
        late = sls.faults.add("delay", "cursor", seconds=2.5 * TIMEOUT, count=1)
        sls.faults.remove(closed)
        poll(lambda: late.happened, "it asks what is left, and the answer takes its time")
        sls.faults.add("hang", "heartbeat", consumer="*-0", seconds=60)
        house.start(1)
        poll(lambda: lost(house) == gone, "the other slot counts it")
        house.wait_drained(sls)
        poll(lambda: any(one.fault == "delay" for one in list(sls.service.requests)), "the answer comes")
        house.turns(2)
        assert lost(house) == gone
        sls.faults.clear()
        assert [house.stop(slot) for slot in (0, 1)] == [0, 0]
        assert len(house.groups()) == len(stored(sls)) - gone


def test_an_old_answer_is_not_taken_for_a_checkpoint_that_was_moved_back(tmp_path: Path) -> None:
    """A slot asks for the checkpoint; while the answer is on its way another has the shard, reads on and saves."""
    sls = SlsEmulator(shards=1, knobs=Knobs(max_pull_bytes=50_000))
    with sls, House(tmp_path / "spool", source_of(sls, consumer_timeout=TIMEOUT), consumers=2) as house:
        sls.fill(1_000)
        house.start(1)
        house.wait_drained(sls)
        assert house.stop(1) == 0
        sls.fill(1_000)
        late = sls.faults.add("slow", "get_checkpoint", amount=25, count=1)
        house.start(0)
        poll(lambda: late.happened, "slot 0 asks, and is answered slowly")
        sls.faults.add("hang", "heartbeat", consumer="*-0", seconds=60)
        house.start(1)
        house.wait_drained(sls)
        poll(lambda: asked_by(sls, "-0") >= 2, "it has the answer, and asks again before it believes it")
        house.turns(1)
        house.kill(0)
        sls.faults.clear()
        kept_back = sls.faults.add("status", "checkpoint", status=503)
        sls.fill(1_000)
        poll(lambda: house.groups() == stored(sls) and kept_back.happened, "put, and not checkpointed")
        house.kill(1)
        sls.faults.clear()
        house.start(1)
        house.wait_drained(sls)
        assert house.stop(1) == 0
        assert house.groups() == stored(sls), "what was put is known to be put"
