"""What was accepted and not yet acknowledged keeps no bytes, and is read from its lane again when it must be sent again.

The kernel is the witness of the memory, the emulator of what came, how often and with which words, the files of the lane of
the rest. That bytes were let go is seen by spoiling the lane's file: what is sent again then is set aside instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buffer.body import head_of
from buffer.values import Pull
from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll
from tests.worker.sending import Sending, log_group, quick, sending
from worker.encode import Encoded, Encoder
from worker.settings import RouteSettings

MIB = 1 << 20
SMALL = {"ack": "required", "max_request_bytes": 16 << 10}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked more often than Splunk should be."""
    monkeypatch.setattr("worker.acks.FIRST_POLL", 0.2)


def splunk(*tokens: Token, **knobs: Any) -> HecEmulator:
    given: dict[str, Any] = {"ack_delay": -1, "keep_envelopes": True} | knobs
    return HecEmulator(tokens=tokens or [Token(TOKEN, ack=True)], knobs=Knobs(**given))


def taken(hec: HecEmulator) -> int:
    """How many events of requests that it has not acknowledged it holds."""
    return sum(len(one.ids) for one in hec.pending())


def assert_same_each_time(hec: HecEmulator) -> None:
    """An event that came twice said the same under the same id."""
    said: dict[str, dict[str, Any]] = {}
    for envelope in hec.envelopes:
        assert said.setdefault(envelope["event"]["sls_id"], envelope) == envelope


def bodies(house: Sending) -> list[Path]:
    """The lane's files of batches, oldest first."""
    found = {path: head_of(path) for path in house.lane.glob("v/*.val")}
    return sorted((path for path, head in found.items() if head), key=lambda path: found[path] or (0, 0))


@pytest.mark.parametrize("index", ["", "unknown"], ids=["", "redirected to the fallback index"])
def test_a_window_of_what_is_not_acknowledged_takes_no_memory(tmp_path: Path, index: str) -> None:
    """A process of its own: 64 MiB of events that Splunk has and has not acknowledged, under a bound on data in flight that
    they all fit in. Then all is acknowledged, and is there once."""
    limits: dict[str, Any] = {"max_unacked_bytes": 256 * MIB, "ack_timeout": 3600.0}
    fallback: dict[str, Any] = {"on_incorrect_index": "fallback", "fallback_index": "main"}
    routes = (RouteSettings(index=index, name="all"),)
    with (
        splunk(Token(TOKEN, ack=True, indexes=("main",)), keep_envelopes=False) as hec,
        sending(
            tmp_path, [hec.url], TOKEN, ack="required", memory=1 << 30, routes=routes, **limits, **fallback
        ) as house,
    ):
        house.start()
        house.put(logs=100, size=10_000)
        poll(lambda: len(hec.stored) == 100, "the first is taken")
        before = house.rss()
        for _ in range(64):
            house.put(logs=100, size=10_000)
        poll(lambda: taken(hec) == 6500, "all is taken, and nothing acknowledged")
        poll(
            lambda: house.gauge("hec_unacked_bytes") == sum(r.bytes for r in hec.posts() if r.status == 200),
            "and answered",
        )
        assert house.waiting() == 65
        grown = house.rss() - before
        assert grown < 40 * MIB, f"{grown / MIB:.0f} MiB are held"
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        house.stop()
        house.assert_books(decoded=6500, delivered=6500, buried=0, set_aside=0)


def test_it_reads_on_though_all_that_it_may_hold_waits_for_acknowledgements() -> None:
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", memory=MIB) as house:
        for _ in range(24):
            house.put(logs=50, size=5000)
        house.start()
        poll(lambda: len(hec.stored) == 24 * 50, "six times as much as it may hold is taken")
        assert house.waiting() == 24
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)


def test_what_is_never_acknowledged_is_sent_again_with_the_same_words() -> None:
    """Every second request; batches lie across requests, and pulls of two tokens across batches."""
    routes = (
        RouteSettings(topic="json", json_fields=("j",), name="json"),
        RouteSettings(topic="b", host="h", name="b"),
    )
    with splunk() as hec, quick([hec.url], TOKEN, routes=routes, ack_timeout=6.0, **SMALL) as house:
        for number in range(12):
            house.put_mixed([
                ("json", [{"j": f'{{"a": {number}}}', "pad": "x" * 900}] * 7), ("b", [{"v": "ü" * 300}] * 9), ("c", [{}])
            ])  # fmt: skip
        house.start()
        poll(lambda: taken(hec) == house.put_count, "all is taken")
        chosen = hec.pending()[1::2]
        lucky = {one for request in chosen for one in request.ids}
        for request in chosen:
            request.ready = 0.0
        assert 0 < len(lucky) < house.put_count
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        assert hec.stored == {one: 1 if one in lucky else 2 for one in house.expected}
        assert_same_each_time(hec)
        house.stop()
        house.assert_books(decoded=house.put_count, delivered=house.put_count)
        assert house.metric("hec_possible_duplicates_total") == house.put_count - len(lucky)


def test_kill_9_with_acknowledgements_outstanding(tmp_path: Path) -> None:
    with splunk() as hec, sending(tmp_path, [hec.url], TOKEN, **SMALL) as house:
        for _ in range(20):
            house.put(logs=20, size=500)
        house.start()
        poll(lambda: len(hec.stored) == 400, "all is taken")
        house.kill()
        house.start()
        poll(lambda: min(hec.stored.values()) == 2, "all of it is sent again")
        hec.acknowledge()
        house.wait_empty()
        assert hec.stored == dict.fromkeys(house.expected, 2)
        assert_same_each_time(hec)
        house.assert_books(delivered=400)


def test_a_body_that_is_damaged_meanwhile_is_set_aside_and_keeps_nobody_waiting() -> None:
    """Its events share a request with those of its neighbours, which are sent again without them."""
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", ack_timeout=6.0) as house:
        first = house.put(logs=5)
        spoilt = house.put_mixed([("t", [{"k": str(n)} for n in range(5)])])
        last = house.put(logs=5)
        file = bodies(house)[1]
        house.start()
        poll(lambda: taken(hec) == 15, "all is taken")
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        assert hec.stored == dict.fromkeys(first + last, 2) | dict.fromkeys(spoilt, 1)
        house.stop()
        house.assert_books(set_aside=1, delivered=10, decoded=10)
        assert (house.lane / "damaged" / file.name).read_bytes() == data


def test_a_damaged_body_whose_acknowledgement_comes_is_not_looked_at() -> None:
    with splunk() as hec, quick([hec.url], TOKEN, ack="required") as house:
        house.put(logs=5)
        house.start()
        poll(lambda: len(hec.stored) == 5, "taken")
        bodies(house)[0].write_bytes(b"")
        hec.acknowledge()
        house.wait_empty()
        house.assert_all_once(hec.stored)
        house.assert_books(set_aside=0, delivered=5)


@pytest.mark.parametrize(
    "answer",
    [{"status": 413, "body": "<html>"}, {"code": 6, "number": 19}, {"status": 400, "body": "<html>"}, {"drop": True}],
    ids=["413", "400/6", "400", "dropped"],
)
def test_whatever_answers_the_second_try(answer: dict[str, Any]) -> None:
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", ack_timeout=1.5) as house:
        for _ in range(3):
            house.put(logs=20, groups=2)
        house.start()
        poll(lambda: len(hec.stored) == 120, "taken")
        hec.script.append(answer)
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        house.assert_none_lost(hec.stored)
        assert not house.dead()
        assert_same_each_time(hec)
        house.assert_books(delivered=120, set_aside=0)


def test_an_event_that_is_refused_at_its_second_try_is_a_dead_letter_with_its_own_log() -> None:
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", ack_timeout=6.0) as house:
        house.put(logs=20)
        bad = house.put_mixed([("x", [{"k": "good"}]), ("y", [{"k": "fine"}, {"k": "bad"}])])[2]
        house.put(logs=20)
        house.start()
        poll(lambda: taken(hec) == 43, "taken")
        hec.rules.append({"code": 12, "number": 22, "contains": '"bad"', "count": 1})
        hec.rules.append({"code": 12, "number": 0, "contains": '"bad"'})
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        (letter,) = house.dead()
        assert letter.sls_id == bad
        assert letter.log == log_group("y", [{"k": "bad"}])
        assert {one for one, times in hec.stored.items() if times < 2} == {bad}
        house.assert_books(delivered=42, buried=1)


@pytest.mark.parametrize("policy", ["hold", "fallback"])
def test_an_index_that_is_refused_from_the_second_try_on(policy: str) -> None:
    """Held: its events are parked, each with its log, and delivered when it is allowed again. Fallback: they go there, and
    what is not acknowledged there either is sent there again."""
    routes = (RouteSettings(topic="b", name="b", index="other"),)
    both, one = Token(TOKEN, ack=True, indexes=("main", "other")), Token(TOKEN, ack=True, indexes=("main",))
    options: dict[str, Any] = {"on_incorrect_index": policy, "fallback_index": "main"} if policy == "fallback" else {}
    with (
        splunk(both) as hec,
        quick([hec.url], TOKEN, ack="required", ack_timeout=1.5, routes=routes, **options) as house,
    ):
        for _ in range(3):
            house.put("a", logs=5)
            house.put_mixed([("a", [{"k": "1"}]), ("b", [{"k": str(n)} for n in range(5)])])
        house.start()
        poll(lambda: taken(hec) == 33, "taken")
        hec.tokens = {TOKEN: one}
        if policy == "fallback":
            poll(lambda: min(hec.stored.values()) >= 3, f"all are sent again and again: {house.holds()}")
            hec.knobs.ack_delay = 0.0
            house.wait_empty()
            redirected = [e for e in hec.envelopes if "wanted_index" in e.get("fields", {})]
            assert len({e["event"]["sls_id"] for e in redirected}) == 15
            assert {e["index"] for e in redirected} == {"main"}
            house.assert_books(delivered=33, buried=0)
        else:
            hec.knobs.ack_delay = 0.0
            house.wait_empty()
            poll(lambda: [h["kind"] for h in house.holds()] == ["index"], "held")
            assert len(house.dead()) == 15
            hec.tokens = {TOKEN: both}
            poll(lambda: not house.dead(), f"delivered: {house.holds()}")
            assert_same_each_time(hec)
            house.assert_books(delivered=18, buried=15)
        house.assert_none_lost(hec.stored)


def test_a_batch_that_is_encoded_otherwise_the_second_time_is_sent_again_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect, which costs duplicates, and not one event."""
    seen: dict[int, int] = {}
    encode: Callable[..., Encoded] = Encoder.encode

    def forgetful(self: Encoder, pull: Pull, raw: bytes) -> Encoded:
        seen[pull.begin] = seen.get(pull.begin, 0) + 1
        return Encoded() if seen[pull.begin] == 2 else encode(self, pull, raw)

    monkeypatch.setattr(Encoder, "encode", forgetful)
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", ack_timeout=6.0) as house:
        for _ in range(3):
            house.put(logs=5)
        house.start()
        poll(lambda: taken(hec) == 15, "taken")
        hec.knobs.ack_delay = 0.0
        house.wait_empty()
        assert set(seen.values()) == {3}
        assert hec.stored == dict.fromkeys(house.expected, 2)
        house.stop()
        assert house.metric("hec_possible_duplicates_total") >= 15
        house.assert_books(decoded=15, delivered=15)


def test_any_mixture_of_acknowledgements_refusals_and_losses() -> None:
    """Small requests over small batches; what comes is decided by lot. In the end: none lost, the same words each time."""
    chance = random.Random(1)
    answers: list[dict[str, Any]] = [
        {"status": 503, "code": 9}, {"status": 413, "body": ""}, {"code": 6, "number": 1}, {"drop": True, "after": True},
        {"status": 504, "body": "<html>", "after": True}, {"status": 400, "body": ""}, {"code": 10}, {"drop": True},
    ]  # fmt: skip
    options: dict[str, Any] = {"ack": "required", "ack_timeout": 0.7, "max_request_bytes": 4096, "in_flight": 3}
    with splunk(sticky=True) as hec, quick([hec.url], TOKEN, memory=MIB, **options) as house:
        house.start()
        for _ in range(60):
            taken = len(hec.posts())
            house.put_mixed([
                (chance.choice("abc"), [{"v": "x" * chance.randrange(900)}] * chance.randrange(1, 4))
                for _ in range(chance.randrange(1, 6))
            ])  # fmt: skip
            match chance.randrange(12):
                case 0 | 1:
                    hec.script.append(dict(chance.choice(answers)))
                case 2:
                    hec.knobs.session += 1
                case _:
                    for one in hec.pending():
                        one.ready = 0.0 if chance.random() < 0.5 else one.ready
            poll(lambda n=taken: len(hec.posts()) > n, "something comes")  # type: ignore[misc]
        poll(lambda: sum(hec.stored.values()) > house.put_count, "what is not acknowledged is sent again")
        hec.acknowledge()
        house.wait_empty()
        buried = {one.sls_id for one in house.dead()}
        assert hec.stored.keys() | buried == set(house.expected)
        assert_same_each_time(hec)
        house.stop()
        house.assert_books(decoded=house.put_count, delivered=house.put_count - len(buried), waiting=0)


def test_bad_events_among_good_ones_are_no_storm_before_the_good_ones_are_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.holds.STORM_IN_A_ROW", 10)
    with splunk() as hec, quick([hec.url], TOKEN, ack="required", in_flight=1) as house:
        hec.rules.append({"status": 400, "code": 12, "contains": '"bad"'})
        house.put_mixed([("t", [{"k": "good"}, {"k": "good"}, {"k": "bad"}] * 15)])
        house.start()
        poll(lambda: len(hec.stored) == 30, "the good ones are taken")
        hec.acknowledge()
        house.wait_empty()
        assert [letter.state for letter in house.dead()] == ["dead"] * 15
        assert not house.holds()
