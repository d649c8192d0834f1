"""Several sources in one supervisor: who reads what, and that two logstores never look alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.emulators.generator_ids import expected_ids
from tests.emulators.generator_wire import parse_group, parse_list
from tests.emulators.sls import SlsEmulator
from tests.waiting import poll
from tests.worker import consuming
from tests.worker.consuming import House, body_of, run_consumer, source_of
from worker import heartbeat
from worker.child import ChildContext
from worker.encode import Encoder
from worker.routes import Router
from worker.settings import HecSettings


def run_patiently(context: ChildContext) -> None:
    """A consumer that waits for the sources in front of each as long as it takes: eight at once may be slow."""
    heartbeat.TURN = 60.0
    run_consumer(context)


def test_twenty_sources_of_one_shard_are_spread_so_that_no_lane_gets_twice_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "run_consumer", run_patiently)
    slots = 8
    with SlsEmulator() as sls:
        stores = [sls.add_logstore(f"store-{n}", 1) for n in range(20)]
        sources = [source_of(sls, name=one.name, logstore=one.name, consumer_timeout=90.0) for one in stores]
        with House(tmp_path / "spool", *sources, consumers=slots) as house:
            for slot in range(slots):
                house.start(slot)

            def members(name: str) -> set[str]:
                return set(sls.store(name).groups["siem"].consumers) if "siem" in sls.store(name).groups else set()

            poll(lambda: all(len(members(one.name)) == 2 for one in stores), "one reads each, one stands by", 90)
            owners = [sls.owners("siem", store=one)[0] for one in stores]
            shards = Counter(owner.rsplit("-", 1)[1] for owner in owners)
            assert sum(shards.values()) == 20
            assert len(shards) == slots
            assert max(shards.values()) < 2 * 20 / slots
            # The order of the file and the name of a source decide, not who was first.
            assert [one["spare"] is not None for one in house.decided().values()] == [True] * 20
            assert list(house.decided()) == [one.name for one in stores]


def test_logstores_with_the_same_cursors_keep_their_events_apart(tmp_path: Path) -> None:
    first = 1_700_000_000_000_000_000
    with SlsEmulator(logstore="left", shards=2, first_cursor=first) as sls:
        right = sls.add_logstore("right", 2, first_cursor=first)
        other = sls.add_logstore("left", 2, project="q", first_cursor=first)
        for store in (sls.store("left"), right, other):
            sls.fill(1_000, store=store)
        proxied = {"endpoint": "http://sls.test", "proxy": sls.proxy, "allow_plaintext": True}
        sources = [
            source_of(sls, name="a", logstore="left", project="p", **proxied),
            source_of(sls, name="b", logstore="right", project="p", **proxied),
            source_of(sls, name="c", logstore="left", project="q", **proxied),
        ]
        with House(tmp_path / "spool", *sources, consumers=2, once=True) as house:
            house.start(0)
            house.start(1)
            assert [house.wait(slot) for slot in (0, 1)] == [0, 0]
            encoder = Encoder(Router((), HecSettings(urls=())))
            found = [encoder.encode(pull, body_of(pull)) for pull in house.pulls()]
            ids = Counter(one.sls_id(event) for one in found for event in range(len(one)))
        wanted = [set(expected_ids(store)) for store in (sls.store("left"), right, other)]
        assert len(set.union(*wanted)) == sum(map(len, wanted)) == 3_000
        assert ids == Counter(dict.fromkeys(set.union(*wanted), 1))


def test_two_queries_on_one_logstore_give_no_two_events_the_same_id(tmp_path: Path) -> None:
    """Both are told by the pull and the place in it, and their pulls begin at the same cursors."""
    with SlsEmulator(shards=1) as sls:
        sls.fill(3_000)
        topics = Counter(parse_group(parse_list(one)[0]).topic.decode() for one in sls.store().shards[0].framed)
        (often, _), (seldom, _) = topics.most_common(2)
        sources = [
            source_of(sls, name=name, consumer_group=name, query=f"* | where __topic__ = '{topic}'")
            for name, topic in (("often", often), ("seldom", seldom))
        ]
        with House(tmp_path / "spool", *sources, once=True) as house:
            house.start()
            assert house.wait() == 0
            pulls = house.pulls()
            encoder = Encoder(Router((), HecSettings(urls=())))
            found = [encoder.encode(pull, body_of(pull)) for pull in pulls]
        assert len({pull.begin for pull in pulls}) < len(pulls), "both have pulls that begin at the same cursor"
        ids = Counter(one.sls_id(event) for one in found for event in range(len(one)))
        assert set(ids.values()) == {1}
