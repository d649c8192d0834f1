"""The consumer group's state machine: what it promises to consumers, whatever they do."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.emulators.sls_groups import ConsumerGroup, Refused, ShardView


def shards(count: int) -> dict[int, ShardView]:
    return {number: ShardView((), readonly=False, end=100) for number in range(count)}


def group(order: bool = False) -> ConsumerGroup:
    return ConsumerGroup("g", 30.0, order)


def test_the_first_consumer_gets_everything_and_the_second_half_of_it_once_it_is_let_go() -> None:
    four, made = shards(4), group()
    assert made.heartbeat("a", [], four, 0) == [0, 1, 2, 3]
    assert made.heartbeat("b", [], four, 1) == []
    assert made.heartbeat("a", [0, 1, 2, 3], four, 2) == [0, 1], "two are in transfer, and left out of the answer"
    assert made.heartbeat("b", [], four, 3) == [], "their holder still lists them"
    assert made.heartbeat("a", [0, 1], four, 4) == [0, 1]
    assert made.heartbeat("b", [], four, 5) == [2, 3]


def test_the_holder_of_a_shard_in_transfer_may_still_save_its_checkpoint() -> None:
    two, made = shards(2), group()
    made.heartbeat("a", [], two, 0)
    made.heartbeat("b", [], two, 1)
    assert made.shards[1].state == "transfer"
    made.save("a", 1, 50, two, 2, force=False)
    with pytest.raises(Refused, match="ConsumerNotMatch"):
        made.save("b", 1, 50, two, 2, force=False)


def test_a_shard_in_transfer_goes_back_when_its_next_consumer_dies() -> None:
    two, made = shards(2), group()
    made.heartbeat("a", [], two, 0)
    made.heartbeat("b", [], two, 1)
    made.heartbeat("a", [0, 1], two, 20)
    assert made.heartbeat("a", [0, 1], two, 40) == [0, 1]


def test_a_silent_consumer_loses_its_shards_and_must_come_back_with_an_empty_list() -> None:
    four, made = shards(4), group()
    made.heartbeat("a", [], four, 0)
    assert made.heartbeat("b", [], four, 31) == [0, 1, 2, 3]
    with pytest.raises(Refused, match="NotExistConsumerWithBody"):
        made.heartbeat("a", [0, 1, 2, 3], four, 32)
    assert made.heartbeat("a", [], four, 33) == []
    with pytest.raises(Refused, match="ConsumerNotMatch"):
        made.save("a", 0, 1, four, 34, force=False)
    made.save("a", 0, 1, four, 34, force=True)


def test_children_wait_for_their_parents_end_only_in_order() -> None:
    family = {
        0: ShardView((), readonly=True, end=100),
        1: ShardView((0,), readonly=True, end=50),
        2: ShardView((0, 1), readonly=False, end=0),
    }
    assert group().heartbeat("a", [], family, 0) == [0, 1, 2]
    made = group(order=True)
    assert made.heartbeat("a", [], family, 0) == [0]
    made.save("a", 0, 99, family, 1, force=False)
    assert made.heartbeat("a", [0], family, 2) == [0]
    made.save("a", 0, 100, family, 3, force=False)
    assert made.heartbeat("a", [], family, 4) == [1], "its parent is over, and no longer assigned"
    made.save("a", 1, 50, family, 5, force=False)
    assert made.heartbeat("a", [], family, 6) == [2]
    made.save("", 0, 10, family, 7, force=True)
    assert 0 in made.heartbeat("a", [2], family, 8), "forced back below its end it is consumed again"


def test_an_empty_parent_that_nobody_checkpoints_holds_its_children_back() -> None:
    family = {0: ShardView((), readonly=True, end=7), 1: ShardView((0,), readonly=False, end=7)}
    made = group(order=True)
    assert made.heartbeat("a", [], family, 0) == [0]
    assert made.heartbeat("a", [0], family, 1) == [0]
    made.save("a", 0, 7, family, 2, force=False)
    assert made.heartbeat("a", [], family, 3) == [1]


def test_giving_up_order_releases_what_waits() -> None:
    family = {0: ShardView((), readonly=True, end=7), 1: ShardView((0,), readonly=False, end=7)}
    made = group(order=True)
    made.heartbeat("a", [], family, 0)
    made.set_order(False)
    assert made.heartbeat("a", [0], family, 1) == [0, 1]


def test_a_parent_that_retention_took_holds_nobody_back() -> None:
    made = group(order=True)
    made.heartbeat("a", [], {0: ShardView((), readonly=True, end=7), 1: ShardView((0,), readonly=False, end=7)}, 0)
    assert made.heartbeat("a", [0], {1: ShardView((0,), readonly=False, end=7)}, 1) == [1]


class Consumer:
    """Follows the rules: lists what it has until it has let go of what was taken."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def beat(self, name: str, made: ConsumerGroup, views: dict[int, ShardView], now: float) -> None:
        try:
            self.held = set(made.heartbeat(name, sorted(self.held), views, now))
        except Refused:
            self.held = set()


@hypothesis.given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 20)), max_size=60), st.integers(1, 9))
def test_no_shard_has_two_living_holders_and_the_load_evens_out(beats: list[tuple[str, float]], count: int) -> None:
    made, views, now = group(), shards(count), 0.0
    consumers = {name: Consumer() for name in "abcd"}
    for name, passed in beats:
        now += passed
        consumers[name].beat(name, made, views, now)
        alive = [consumers[one].held for one in made.consumers]
        assert sum(map(len, alive)) == len(set().union(*alive)), "two living consumers hold the same shard"
    for _ in range(4):
        for name in "abcd":
            consumers[name].beat(name, made, views, now)
    sizes = [len(consumer.held) for consumer in consumers.values()]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
