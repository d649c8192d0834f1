"""The 23 ways in which the SDK's own consumer library loses, repeats, hangs or spins: which test shows, by what can be seen from
outside, that ours does none of it, and which shows that the ConsumerWorker does, where that is quick to see.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WEAK = "tests/worker/test_weaknesses.py::"
CONSUMER, FAULTS = "tests/worker/test_consumer.py::", "tests/worker/test_consumer_faults.py::"
SHARDS, GONE, SDK = (
    "tests/worker/test_consumer_shards.py::", "tests/worker/test_gone.py::", "tests/emulators/test_sls_consumer_weak.py::",
)  # fmt: skip
DEAD = WEAK + "test_a_process_with_a_dead_thread_is_a_dead_process_and_holds_no_shard"
PACE = "tests/worker/test_consumer_pace.py::"
HUNG = SHARDS + "test_a_pull_that_hangs_keeps_no_checkpoint_back_and_no_stop"


@dataclass(frozen=True, slots=True)
class Weakness:
    """`ours`: the tests that would fail if we had it; `theirs`: one that shows it of the ConsumerWorker."""

    what: str
    ours: tuple[str, ...]
    theirs: str = ""


WEAKNESSES = {
    1: Weakness("an exception skips the batch, and the checkpoint passes it",
                (FAULTS + "test_a_disk_that_fills_up_holds_and_goes_on_by_itself_when_there_is_room",
                 CONSUMER + "test_a_bad_body_is_asked_for_again_and_never_believed"),
                SDK + "test_number_1_an_exception_skips_the_batch_and_the_checkpoint_passes_it"),
    2: Weakness("the shutdown commits what was refused",
                (WEAK + "test_stopped_while_nothing_can_be_put_it_checkpoints_nothing_of_what_it_pulled",),
                SDK + "test_number_2_its_shutdown_commits_what_was_refused"),
    3: Weakness("InvalidCursor: on at the end of the shard, without a word",
                (CONSUMER + "test_what_retention_took_is_counted_exactly_and_reading_goes_on",
                 GONE + "test_a_cursor_that_sls_has_and_refuses_is_asked_for_again_and_only_then_read_from_the_beginning"),
                SDK + "test_number_3_where_retention_was_faster_it_skips_to_the_end"),
    4: Weakness("a late acknowledgement saves the cursor of a later batch; checkpoints go back",
                (CONSUMER + "test_delivered_checkpoints_do_not_pass_what_waits_in_the_spool",
                 "tests/worker/test_chaos.py::test_in_chaos_nothing_is_lost_and_what_retention_took_is_counted")),
    5: Weakness("a dead worker whose heartbeat goes on", (DEAD,)),
    6: Weakness("a dead main thread whose heartbeat goes on", (DEAD,)),
    7: Weakness("blocked shards stop the others, and the shutdown",
                (SHARDS + "test_a_read_quota_slows_its_shard_only", HUNG,
                 SHARDS + "test_a_shard_whose_pull_hangs_goes_to_another_all_the_same")),
    8: Weakness("a slow shutdown, the heartbeat stopped first",
                (FAULTS + "test_sixteen_shards_are_let_go_within_seconds_and_saved",)),
    9: Weakness("who leaves moves checkpoints back by force",
                (FAULTS + "test_two_hosts_share_and_hand_over_without_a_copy",
                 "tests/worker/test_chaos.py::test_in_chaos_nothing_is_lost_and_what_retention_took_is_counted")),
    10: Weakness("the heartbeat spins on an answer that is none",
                 (FAULTS + "test_a_heartbeat_answered_with_nonsense_is_neither_believed_nor_repeated_at_once",),
                 SDK + "test_number_10_an_empty_answer_to_a_heartbeat_makes_it_spin"),
    11: Weakness("the heartbeat hangs for 20 minutes",
                 (FAULTS + "test_a_single_heartbeat_that_hangs_is_given_up_before_the_fence_falls",
                  FAULTS + "test_a_hanging_service_falls_the_fence_and_nothing_is_pulled_behind_it")),
    12: Weakness("a slow checkpoint stalls all shards",
                 (WEAK + "test_checkpoints_that_hang_or_are_refused_stop_no_reading_and_no_beating_and_are_said",)),
    13: Weakness("one batch an interval (scripts/bench catchup)",
                 (WEAK + "test_a_shard_far_behind_is_read_without_a_pause_between_pulls",)),
    14: Weakness("refused pulls are repeated at once",
                 (FAULTS + "test_a_call_that_is_always_refused_is_not_hammered_and_ends_by_itself",
                  SHARDS + "test_a_shard_that_sls_gives_and_then_refuses_is_not_hammered"),
                 SDK + "test_number_14_a_refused_pull_is_asked_again_at_each_tick"),
    15: Weakness("a body that cannot be read is pulled for ever, and logged whole",
                 (CONSUMER + "test_the_same_bad_body_three_times_is_spooled_as_suspect_and_the_shard_goes_on",
                  WEAK + "test_what_is_no_log_at_all_is_kept_once_and_said_in_a_few_words")),
    16: Weakness("forgotten, it goes on listing its shards",
                 (FAULTS + "test_forgotten_by_sls_it_comes_back_at_once_with_an_empty_list",),
                 SDK + "test_number_16_forgotten_it_goes_on_listing_its_shards"),
    17: Weakness("an empty parent holds its children back",
                 (CONSUMER + "test_children_of_an_empty_parent_are_released_in_an_ordered_group",),
                 SDK + "test_number_17_an_empty_parent_holds_its_children_back_for_ever"),
    18: Weakness("what a query empties is never checkpointed",
                 (FAULTS + "test_pulls_that_a_query_emptied_move_the_checkpoint",),
                 SDK + "test_number_18_what_a_query_empties_is_never_checkpointed"),
    19: Weakness("errors are swallowed or printed",
                 (WEAK + "test_checkpoints_that_hang_or_are_refused_stop_no_reading_and_no_beating_and_are_said",)),
    20: Weakness("one renews the token, the others sleep for minutes",
                 (WEAK + "test_a_token_that_expires_under_many_readers_stops_nobody_for_longer_than_it_takes_to_renew_it",)),
    21: Weakness("every worker overwrites the group's settings",
                 (WEAK + "test_a_group_that_exists_keeps_its_order_and_its_time_out",),
                 SDK + "test_number_21_it_writes_its_own_settings_over_the_groups"),
    22: Weakness("permanent errors are only warnings",
                 (CONSUMER + "test_a_wrong_key_is_a_hold_with_a_remedy_and_ends_when_the_key_is_right",
                  FAULTS + "test_one_source_refused_does_not_stop_the_other")),
    23: Weakness("memory without a bound",
                 (PACE + "test_no_more_bytes_are_in_flight_than_may_be_and_one_pull_always_goes",
                  CONSUMER + "test_a_body_that_would_blow_up_is_refused_while_it_is_small")),
}  # fmt: skip


@pytest.fixture(scope="module")
def tests() -> set[str]:
    """All that there are, without their parameters."""
    files = sorted({name.partition("::")[0] for one in WEAKNESSES.values() for name in (*one.ours, one.theirs) if name})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *files],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}


def test_there_are_23() -> None:
    assert sorted(WEAKNESSES) == list(range(1, 24))


@pytest.mark.parametrize("number", sorted(WEAKNESSES))
def test_each_has_a_test_of_ours(tests: set[str], number: int) -> None:
    one = WEAKNESSES[number]
    assert one.ours, one.what
    assert not {*one.ours, *([one.theirs] if one.theirs else [])} - tests


def test_what_is_shown_of_theirs_stands_beside_ours(tests: set[str]) -> None:
    assert {name for name in tests if name.startswith(SDK)} == {one.theirs for one in WEAKNESSES.values() if one.theirs}
