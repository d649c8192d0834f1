"""Which slots join a source: few enough, spread evenly, the same for everyone of one run."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from worker.slots import Joined, choose, decide


@given(shards=st.lists(st.integers(0, 40), max_size=30), slots=st.integers(1, 16))
def test_a_source_is_joined_by_one_more_than_its_shards_at_most(shards: list[int], slots: int) -> None:
    decided: dict[str, Joined] = {}
    for place, number in enumerate(shards):
        decided[str(place)] = choose(str(place), number, slots, decided)
    for joined in decided.values():
        assert len(joined.slots) == min(slots, joined.shards + 1) == len(set(joined.slots))
        assert all(0 <= slot < slots for slot in joined.slots)


@given(shards=st.lists(st.integers(1, 40), max_size=30), slots=st.integers(1, 16))
def test_no_slot_reads_much_more_than_another_and_who_stands_by_reads_nothing(shards: list[int], slots: int) -> None:
    """Shares are what SLS makes of them: the same number of shards to each, but one."""
    decided: dict[str, Joined] = {}
    for place, number in enumerate(shards):
        decided[str(place)] = choose(str(place), number, slots, decided)
    load = dict.fromkeys(range(slots), 0.0)
    for joined in decided.values():
        assert (joined.spare is None) == (joined.shards >= slots)
        for slot in joined.reading:
            load[slot] += joined.shards / len(joined.reading)
    assert max(load.values()) - min(load.values()) <= 1 + 1e-9 or max(shards) >= slots


def test_many_small_sources_are_spread_over_the_slots() -> None:
    decided: dict[str, Joined] = {}
    for place in range(40):
        decided[f"source-{place}"] = choose(f"source-{place}", 1, 8, decided)
    used = Counter(slot for joined in decided.values() for slot in joined.slots)
    assert set(used) == set(range(8))
    assert max(used.values()) - min(used.values()) <= 2


def test_all_slots_read_the_same_decision_and_a_new_run_decides_anew(tmp_path: Path) -> None:
    def ask(slot: int) -> list[Joined]:
        return [decide(tmp_path, "boot-1", f"s{n}", (n + slot) % 5, 8) for n in range(20)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert all(answer == answers[0] for answer in answers)
    kept = decide(tmp_path, "boot-1", "s3", 400, 8)
    assert kept == answers[0][3]
    assert len(decide(tmp_path, "boot-2", "s3", 400, 8).slots) == 8


def test_a_torn_or_foreign_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "slots.json").write_bytes(b'{"boot": "b", "sou')
    assert decide(tmp_path, "b", "s", 1, 4).shards == 1
    (tmp_path / "slots.json").write_bytes(b"[]")
    assert decide(tmp_path, "b", "s", 2, 4).shards == 2
