"""The emulator is proved by the SDK's own unmodified ConsumerWorker."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aliyun.log.consumer import ConsumerProcessorBase, ConsumerWorker, CursorPosition, LogHubConfig

from tests.emulators.sls import SlsEmulator
from tests.waiting import poll


class Seen:
    """What all workers of a test were given: by shard, how often each gen_id."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.logs: Counter[str] = Counter()
        self.shards: dict[str, set[int]] = {}

    def add(self, worker: str, shard: int, groups: Any) -> None:
        with self.lock:
            self.shards.setdefault(worker, set()).add(shard)
            for group in groups.LogGroups:
                for log in group.Logs:
                    self.logs.update(one.Value for one in log.Contents if one.Key == "gen_id")


def processor(name: str, seen: Seen) -> type:
    class Processor(ConsumerProcessorBase):
        def process(self, log_groups: Any, check_point_tracker: Any) -> None:
            seen.add(name, self.shard_id, log_groups)
            check_point_tracker.save_check_point(True)

    return Processor


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def start(quiet: None) -> Iterator[Callable[..., Any]]:
    workers: list[Any] = []

    def run(sls: SlsEmulator, name: str, seen: Seen, **options: Any) -> Any:
        configure: Any = LogHubConfig
        config = configure(
            "http://cn-hangzhou.log.aliyuncs.com",
            "ak",
            "sk",
            sls.project,
            sls.logstore,
            "group",
            name,
            cursor_position=CursorPosition.BEGIN_CURSOR,
            data_fetch_interval=0.1,
            worker_pool_size=8,
            **{"heartbeat_interval": 1, **options},
        )
        worker = ConsumerWorker(processor(name, seen), consumer_option=config)
        workers.append(worker)
        worker.start()
        return worker

    yield run
    for worker in workers:
        worker.shutdown()
    for worker in workers:
        worker.join(20)


@pytest.fixture
def sls(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlsEmulator]:
    with SlsEmulator(shards=4) as emulator:
        monkeypatch.setenv("HTTP_PROXY", emulator.proxy)
        monkeypatch.setenv("http_proxy", emulator.proxy)
        yield emulator


def test_one_worker_reads_every_log_once(sls: SlsEmulator, start: Callable[..., Any]) -> None:
    """With zstd and the new signature; the other tests have lz4 and the old one."""
    ledger, seen = sls.fill(4000), Seen()
    # Silent for two intervals it would be forgotten, and read again.
    patient: dict[str, Any] = {"heartbeat_interval": 15}
    start(sls, "one", seen, accept_compress_type="zstd", auth_version="v4", region="cn-hangzhou", **patient)
    poll(lambda: sls.drained("group"), "checkpoints at the end of every shard")
    assert ledger.judge(seen.logs.elements()) == (set(), {}, set())


def test_a_second_worker_gets_its_half_and_children_of_a_split_are_read(
    sls: SlsEmulator, start: Callable[..., Any]
) -> None:
    ledger, seen = sls.fill(1000), Seen()
    start(sls, "one", seen)
    poll(lambda: sls.owners("group") == dict.fromkeys(range(4), "one"), "the first has all")
    start(sls, "two", seen)
    poll(lambda: sorted(sls.owners("group").values()) == ["one", "one", "two", "two"], "two and two")
    sls.split(0)
    sls.fill(1000)
    poll(lambda: sls.drained("group"), "checkpoints at the end of every shard")
    lost, _, foreign = ledger.judge(seen.logs.elements())
    assert (lost, foreign) == (set(), set())
    assert seen.shards["one"] | seen.shards["two"] == set(range(6))


def test_the_shards_of_a_silent_worker_go_to_the_other(sls: SlsEmulator, start: Callable[..., Any]) -> None:
    ledger, seen = sls.fill(400), Seen()
    start(sls, "one", seen)
    start(sls, "two", seen)
    poll(lambda: sorted(sls.owners("group").values()) == ["one", "one", "two", "two"], "two and two")
    sls.faults.add("status", "heartbeat", consumer="two", status=400, code="Injected")
    poll(lambda: set(sls.owners("group").values()) == {"one"}, "all shards with the first")
    sls.fill(400)
    poll(lambda: sls.drained("group"), "checkpoints at the end of every shard")
    lost, _, foreign = ledger.judge(seen.logs.elements())
    assert (lost, foreign) == (set(), set())
