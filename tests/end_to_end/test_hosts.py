"""Two hosts, each with its own spool and its own cable: one is cut off, dies with or without its disk, and comes back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.dns import DnsEmulator
from tests.emulators.generator_ids import expected_ids
from tests.emulators.hec import HecEmulator
from tests.emulators.sls import SlsEmulator
from tests.emulators.sls_calls import Knobs
from tests.end_to_end.books import assert_balanced, books
from tests.end_to_end.hosts import Host, Net, reason_against
from tests.waiting import poll
from tests.worker.consuming import stored

REASON = reason_against()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(REASON) and not os.environ.get("CI"), reason=REASON or "there is none"),
    pytest.mark.xdist_group("hosts"),
]


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as found:
        yield found


def share(one: Host, two: Host, shards: int) -> None:
    poll(lambda: len(one.shards()) == len(two.shards()) == shards // 2, f"half and half; {one.tail()}", 60)


def assert_all_waits(host: Host) -> None:
    """The books of one that never reached Splunk."""
    told, files = assert_balanced(host)
    assert told["put"] == files.waiting == sum(host.groups().values())
    assert told["decoded"] == 0


def assert_sums(hec: HecEmulator, *spools: dict[str, int]) -> None:
    """The books of all spools that there ever were, the last of each before it was lost. No host can tell which of two that
    read a group delivered it; Splunk's emulator knows how often somebody was told so."""
    told = dict(hec.told)
    groups = {(name.rpartition("-")[0], times) for name, times in told.items()}
    assert len(groups) == len({name for name, _ in groups}), "a group goes as a whole"
    assert not hec.unsure
    assert sum(one["put"] - one["waiting"] for one in spools) == sum(times for _, times in groups)
    assert sum(one["settled"] for one in spools) == sum(times for _, times in groups)
    assert sum(one["delivered"] for one in spools) == sum(told.values())
    assert sum(one["decoded"] for one in spools) == sum(told.values())


def test_a_host_that_is_cut_off_fences_itself_before_its_shards_move_and_comes_back(tmp_path: Path, net: Net) -> None:
    sls = SlsEmulator(shards=4, host="0.0.0.0", knobs=Knobs(max_pull_bytes=100_000))
    with sls:
        one, two = net.host(tmp_path / "one", sls), net.host(tmp_path / "two", sls)
        one.start()
        poll(lambda: len(one.shards()) == 4, f"the first has all; {one.tail()}", 60)
        two.start()
        share(one, two, 4)
        sls.feeder.start(1_000, sls.store(), None)
        poll(lambda: one.groups() and two.groups(), "both read")

        # Half of the way is gone: heartbeats and checkpoints get lost, pulls would be answered.
        lost, _ = (
            sls.faults.add("hang", name, consumer=f"*{one.id}*", seconds=600) for name in ("heartbeat", "checkpoint")
        )
        mine = one.shards()
        poll(lambda: len(two.shards()) == 4, "the other has all", 60)
        poll(lambda: all(pulled_by(sls, two, number) for number in mine), "and reads them")
        first_of_two = {number: min(pulled_by(sls, two, number)) for number in mine}
        tried = lost.happened
        poll(lambda: lost.happened >= tried + 2, "the first still tries to be heard")
        for number in mine:
            assert max(pulled_by(sls, one, number)) < first_of_two[number], "it had stopped before they moved"
        sls.faults.clear()
        had = one.groups().total()
        share(one, two, 4)
        poll(lambda: one.groups().total() > had, "the first reads again")

        # The cable is out.
        one.cut()
        poll(lambda: len(two.shards()) == 4, "the other has all", 60)
        moved = sls.clock.now()
        behind = one.groups()  # what it had been given before the cut has been put by now
        one.rejoin()
        share(one, two, 4)
        sls.feeder.stop()
        poll(lambda: sls.drained("siem"), f"all is read; {one.tail()}", 60)
        assert one.stop() == two.stop() == 0
        assert_all_waits(one)
        assert_all_waits(two)
        first, second = one.groups(), two.groups()
        assert not stored(sls) - (first + second), "nothing is lost"
        assert max(first.values()) == max(second.values()) == 1
        twice = first.keys() & second.keys()
        known = [c for c in sls.store().checkpoints if one.id in c.consumer and not c.error and c.time < moved]
        saved = {n: max(c.cursor for c in known if c.shard == n) for n in {c.shard for c in known}}
        assert twice <= behind.keys(), "what was on its way when the shards had moved is thrown away"
        assert all(at >= saved[shard] for shard, at in twice), "only what was not checkpointed is read by both"


def pulled_by(sls: SlsEmulator, host: Host, shard: int) -> list[float]:
    """When the emulator answered its pulls of a shard."""
    return [one.time for one in list(sls.store().shards[shard].pulls) if host.id in one.client]


def test_a_host_dies_and_comes_back_with_its_disk_and_then_without(tmp_path: Path, net: Net) -> None:
    sls = SlsEmulator(shards=4, host="0.0.0.0", knobs=Knobs(max_pull_bytes=100_000))
    with sls, HecEmulator(host="0.0.0.0") as hec:
        one = net.host(tmp_path / "one", sls, hec.server.port)
        two = net.host(tmp_path / "two", sls, hec.server.port)

        def wait_delivered() -> None:
            poll(lambda: sls.drained("siem"), f"all is read; {one.tail()} {two.tail()}", 60)
            wanted = set(expected_ids(sls.store()))
            poll(lambda: not wanted - hec.stored.keys(), f"all {len(wanted)} are delivered; {one.tail()}", 60)

        one.start()
        two.start()
        share(one, two, 4)
        hec.outage(True)
        sls.fill(4_000)
        poll(lambda: one.groups() and two.groups(), "both spool")
        one.die()
        sls.fill(2_000)
        poll(lambda: len(two.shards()) == 4, "the other has all", 60)
        hec.outage(False)
        kept = one.groups()
        one.rejoin()
        one.start()  # with its disk: what waited on it is delivered from there
        share(one, two, 4)
        wait_delivered()
        assert kept
        poll(lambda: one.groups() == Counter(), "and settled")
        one.die()
        lost, _ = assert_balanced(one)
        one.lose_disk()
        sls.fill(2_000)
        poll(lambda: len(two.shards()) == 4, "the other has all again", 60)
        one.rejoin()
        one.start()  # as new: another spool, another consumer
        share(one, two, 4)
        sls.fill(2_000)
        wait_delivered()
        assert one.stop() == two.stop() == 0
        assert set(hec.stored) == set(expected_ids(sls.store()))
        assert_sums(hec, lost, *(assert_balanced(host)[0] for host in (one, two)))


def test_with_delivered_checkpoints_a_disk_lost_in_an_outage_of_splunk_loses_nothing(tmp_path: Path, net: Net) -> None:
    sls = SlsEmulator(shards=2, host="0.0.0.0", knobs=Knobs(max_pull_bytes=100_000))
    with sls, HecEmulator(host="0.0.0.0") as hec:
        one = net.host(tmp_path / "one", sls, hec.server.port, checkpoint="delivered")
        two = net.host(tmp_path / "two", sls, hec.server.port, checkpoint="delivered")
        sls.fill(2_000)
        one.start()
        poll(lambda: set(expected_ids(sls.store())) <= hec.stored.keys(), f"the first delivers; {one.tail()}", 60)
        poll(lambda: sls.drained("siem"), "and says so")
        hec.outage(True)
        ends = {number: shard.end for number, shard in sls.store().shards.items()}
        sls.fill(4_000)
        more = sum(shard.end - ends[number] for number, shard in sls.store().shards.items())
        poll(lambda: sum(one.groups().values()) == more, "all waits")
        poll(lambda: books(one)["waiting"] == more, "by the index too")
        assert sls.checkpoints("siem") == ends, "no checkpoint passes what is not delivered"
        one.die()
        lost, files = assert_balanced(one)
        assert files.waiting == more
        one.lose_disk()
        two.start()
        poll(lambda: len(two.shards()) == 2, "the other host takes over", 60)
        hec.outage(False)
        wanted = set(expected_ids(sls.store()))
        poll(lambda: wanted == set(hec.stored), f"{len(wanted)} events arrive all the same; {two.tail()}", 60)
        poll(lambda: sls.drained("siem"), "and are checkpointed")
        assert two.stop() == 0
        told, _ = assert_balanced(two)
        assert told["put"] == files.waiting, "what was lost with the disk, and nothing else"
        assert_sums(hec, lost, told)


RESOLVER = "nameserver {outside}\noptions timeout:1 attempts:1\n"


def test_a_name_server_in_trouble_is_a_hold_and_ends_by_itself(tmp_path: Path, net: Net) -> None:
    sls = SlsEmulator(shards=2, host="0.0.0.0")
    with sls:
        host = net.host(tmp_path / "one", sls, endpoint="http://sls.test:{port}", resolver=RESOLVER)
        with DnsEmulator(host.outside, to=host.outside) as dns:
            host.start()
            sls.fill(1_000)
            poll(lambda: sls.drained("siem"), f"it reads; {host.tail()}")
            assert dns.asked["p.sls.test"]
            for mood in ("silent", "nxdomain"):
                dns.mood = mood
                sls.server.drop_connections()
                sls.fill(500)
                # Not the connection that was dropped, but: resolution, resolve.
                poll(lambda: "esol" in host.source_hold().get("error", ""), f"a hold with {mood}; {host.tail()}")
                assert "DNS" in host.source_hold()["hint"]
                dns.mood = "answer"
                poll(lambda: sls.drained("siem"), f"it goes on; {host.tail()}")
                poll(lambda: not host.source_hold(), "the hold ends")
        assert host.stop() == 0
        assert_all_waits(host)
        assert host.groups() == stored(sls)
