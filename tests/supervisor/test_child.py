"""What a child's state says about it, without any process: time and beats are arguments."""

from __future__ import annotations

import pytest

from buffer.settings import MIB
from supervisor import memory
from supervisor.child import ABORT_GRACE, BOOT_TIMEOUT, HANG_TIMEOUT, Action, Child, State, is_crash_loop
from supervisor.status import merge_holds, merge_sources, silent, state_of
from worker.backoff import next_wait, respawn_wait


def born(now: float = 100.0) -> Child:
    child = Child("consumer", 0, 0)
    child.born(1234, now)
    return child


def running(now: float = 100.0) -> Child:
    child = born(now)
    child.check(now, now)
    return child


def test_the_first_beat_makes_it_running_and_its_silence_at_boot_is_a_hang() -> None:
    child = born()
    assert child.check(100 + BOOT_TIMEOUT - 1, 0) is Action.NOTHING
    assert child.check(100 + BOOT_TIMEOUT, 0) is Action.ABORT
    assert running().state is State.RUNNING


def test_a_silent_child_is_aborted_so_that_it_prints_its_stacks_and_then_killed() -> None:
    child = running()
    assert child.check(100 + HANG_TIMEOUT - 1, 100) is Action.NOTHING
    assert child.check(100 + HANG_TIMEOUT, 100) is Action.ABORT
    child.aborted_at = 300.0
    assert child.check(300 + ABORT_GRACE - 0.1, 100) is Action.NOTHING
    assert child.check(300 + ABORT_GRACE, 100) is Action.KILL


def test_waiting_for_a_disk_is_as_good_as_a_beat_also_at_boot() -> None:
    child = running()
    child.excused = 500.0
    assert child.check(500 + HANG_TIMEOUT - 1, 100) is Action.NOTHING
    assert child.check(500 + HANG_TIMEOUT, 100) is Action.ABORT
    booting = born()
    booting.excused = 500.0
    assert booting.check(500 + BOOT_TIMEOUT - 1, 0) is Action.NOTHING
    assert booting.check(500 + BOOT_TIMEOUT, 0) is Action.ABORT
    booting.born(5, 600.0)
    assert booting.check(600 + BOOT_TIMEOUT, 0) is Action.ABORT, "its replacement has its own patience"


def test_one_that_does_not_stop_is_killed_at_the_deadline() -> None:
    child = running()
    child.stop(125.0)
    assert child.check(124, 124) is Action.NOTHING
    assert child.check(125, 125) is Action.KILL


def test_back_off_grows_for_ever_and_a_stable_life_forgets_failures() -> None:
    child = born()
    waits = []
    for _ in range(12):
        child.ended(100.0, 0.99, clean=False)
        waits.append(child.start_at - 100.0)
        child.born(1, 100.0)
    assert waits == sorted(waits)
    assert 50 < waits[-1] <= 60
    child.check(100.0, 100.0)
    child.ended(200.0, 0.5, clean=False)
    assert child.failures == 1


def test_a_recycle_and_a_clean_end_are_no_failures() -> None:
    child = running()
    child.stop(125.0, come_back=True)
    child.ended(101.0, 0.5, clean=True)
    assert (child.state, child.start_at, child.failures) == (State.BACKOFF, 101.0, 0)
    assert child.check(101.0, 0) is Action.START


def test_a_stopped_child_stays_so() -> None:
    child = running()
    child.stop(125.0)
    child.ended(110.0, 0.5, clean=True)
    assert child.state is State.STOPPED
    assert child.check(999.0, 0) is Action.NOTHING


def test_a_crash_loop_is_five_minutes_in_which_nobody_lived_ten_seconds() -> None:
    children = [Child("consumer", 0, 0), Child("sender", 0, 1)]
    for child in children:
        child.failures = 5
    assert not is_crash_loop(children, 0.0, 299.0)
    assert is_crash_loop(children, 0.0, 300.0)
    children[0].failures = 1
    assert not is_crash_loop(children, 0.0, 300.0), "one that works is enough"


@pytest.mark.parametrize(("age", "lowest", "highest"), [(0, 0.25, 0.5), (8, 1, 2), (1000, 30, 60), (1e9, 30, 60)])
def test_the_one_rule_of_waiting(age: float, lowest: float, highest: float) -> None:
    assert next_wait(age, 0.0) == lowest
    assert next_wait(age, 0.999999) == pytest.approx(highest, rel=0.001)
    assert respawn_wait(0, 0.5) == 0


def test_memory_levels_rise_at_once_and_fall_with_hysteresis() -> None:
    assert [memory.level(0, used, 100) for used in (69, 70, 85, 95)] == [0, 1, 2, 3]
    assert [memory.level(3, used, 100) for used in (94, 88, 87, 78, 77, 65, 64)] == [3, 3, 2, 2, 1, 1, 0]


def test_a_leaking_child_is_recycled_after_three_samples_and_not_again_for_five_minutes() -> None:
    recycler = memory.Recycler()
    sizes = {1: 2000 * MIB, 2: 10 * MIB}
    chosen = [recycler.choose(now, sizes, 1000 * MIB, 0) for now in (0.0, 1.0, 2.0, 3.0)]
    assert chosen == [None, None, 1, None]
    later = [recycler.choose(now, sizes, 1000 * MIB, 0) for now in (300.0, 301.0, 302.0)]
    assert later == [None, None, 1]


def test_over_95_percent_the_largest_goes() -> None:
    recycler = memory.Recycler()
    assert [recycler.choose(float(n), {1: 5 * MIB, 2: 9 * MIB}, 16 * MIB, 3) for n in range(3)] == [None, None, 2]


def test_the_first_guard_bounds_what_a_child_holds() -> None:
    assert memory.in_flight_bytes(512 * MIB, 3) == 512 * MIB // 12
    assert memory.in_flight_bytes(1, 100) == MIB


def test_a_cgroup_limits_the_budget(tmp_path: object) -> None:
    from pathlib import Path

    root = Path(str(tmp_path))
    (root / "a/b").mkdir(parents=True)
    (root / "a/memory.max").write_text("1000000\n")
    (root / "a/b/memory.max").write_text("max\n")
    (root / "cgroup").write_text("0::/a/b\n")
    assert memory.cgroup_limits(root, root / "cgroup") == [1_000_000]
    (root / "memory/c").mkdir(parents=True)
    (root / "memory/c/memory.limit_in_bytes").write_text("2000000\n")
    (root / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "cgroup").write_text("5:cpu,memory:/c\n2:cpuset:/a\n1:name=systemd:/a\n")
    assert memory.cgroup_limits(root, root / "cgroup") == [2_000_000], "version 1; no limit is a huge number"
    assert memory.budget(123) == 123


def test_the_state_is_one_word_and_its_reason() -> None:
    children = [running(), running()]
    hold = {"kind": "token", "name": "default", "error": "403/4: Invalid token"}

    def state(**changes: object) -> tuple[str, str]:
        given = {"stopping": False, "holds": []} | changes
        return state_of(children, given.pop("holds"), **given)  # type: ignore[arg-type]

    assert state()[0] == "running"
    assert state(holds=[hold]) == ("degraded", "Splunk refuses the token: token default: 403/4: Invalid token")
    assert state(holds=[hold, hold, hold])[1].endswith("403/4: Invalid token (and 2 more)")
    disk = {"kind": "disk", "name": "room", "error": "the disk is full"}
    assert state(holds=[hold, disk]) == ("paused", "the disk is full: pulling stops, draining goes on")
    assert state(holds=[{"kind": "memory", "name": "budget", "error": "e"}])[0] == "paused"
    assert state(holds=[{"kind": "disk", "name": "spool", "error": "one lane's"}])[0] == "degraded"
    hanging = silent([("consumer-0", 1.0), ("sender-1", 25.0), ("sender-2", None)])
    assert hanging == [("sender-1", 25.0)]
    assert "sender-1 hangs" in state(silent=hanging)[1]
    assert state(stopping=True)[0] == "stopping"
    children[0].state, children[0].restarts = State.BACKOFF, 1
    assert state()[0] == "degraded"
    children[:] = [born()]
    assert state()[0] == "starting"
    children[0].state = State.BACKOFF
    assert state()[0] == "starting", "before the first start, too"
    children[:] = [running(), born()]
    children[1].restarts = 1
    assert state()[0] == "degraded", "that is not the first start"


def test_the_same_hold_of_several_children_is_one() -> None:
    hold = {"kind": "index", "name": "i", "since": 5.0, "events": 2, "error": "e", "hint": "h", "next_probe": 9.0}
    merged = merge_holds([{"holds": [hold]}, {"holds": [{**hold, "since": 3.0, "events": 4}]}])
    assert [(h["events"], h["since"]) for h in merged] == [(6, "1970-01-01T00:00:03.000Z")]


def test_the_gravest_hold_comes_first_and_a_splunk_with_other_endpoints_is_not_called_down() -> None:
    def hold(kind: str, name: str, since: float) -> dict[str, object]:
        return {"kind": kind, "name": name, "since": since, "events": 0, "error": "e", "hint": "h", "next_probe": None}

    held = [hold("index", "i", 1.0), hold("endpoint", "a", 2.0), hold("token", "t", 3.0), hold("strange", "x", 0.0)]
    merged = merge_holds([{"holds": held}], endpoints=2)
    assert [h["kind"] for h in merged] == ["token", "endpoint", "index", "strange"]
    assert merged[1]["title"] == "a Splunk endpoint does not take, others do"
    both = merge_holds([{"holds": [*held, hold("endpoint", "b", 4.0)]}], endpoints=2)
    assert {h["title"] for h in both if h["kind"] == "endpoint"} == {"Splunk does not take"}


def test_a_source_of_the_settings_is_shown_without_shards_too() -> None:
    shard = {"source": "a", "shard": 3, "lag_seconds": 1.0}
    shown = merge_sources([{"child": "consumer-0", "facts": {"shards": [shard]}}], ["a", "b"])
    assert [(one["name"], len(one["shards"])) for one in shown] == [("a", 1), ("b", 0)]
