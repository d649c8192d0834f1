"""From a refused event back to exactly its one log, and from the dead letter to the same event again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buffer.values import DeadLetter
from tests.emulators import generator_wire as wire
from tests.emulators.generator_nasty import nasty_groups
from tests.worker.encoding import GROUPS, HEC, events, pull_of
from worker.encode import Encoded, Encoder
from worker.letter import Opened, letter_of
from worker.routes import Router
from worker.settings import RouteSettings

NOW = 1_767_225_601
DROP = RouteSettings(topic="dropped", drop=True)


def bury(groups: list[bytes], event: int, *, sparse: bool = False) -> tuple[Encoded, DeadLetter]:
    raw = wire.group_list(groups)
    pull = pull_of(raw, len(groups), sparse=sparse)
    encoded = Encoder(Router((DROP,), HEC)).encode(pull, raw)
    letter = letter_of(
        Opened(pull, raw), encoded, event, status=400, code=7, why="Incorrect index", state="dead", hold="", now=1.5
    )  # fmt: skip
    return encoded, letter


@pytest.mark.parametrize("name", nasty_groups(NOW))
@pytest.mark.parametrize("sparse", [False, True])
def test_a_letter_holds_exactly_the_log_behind_the_event_and_gives_the_same_event(name: str, sparse: bool) -> None:
    dropped = wire.group([wire.log(1, [(b"k", b"v")])], b"dropped")
    group = nasty_groups(NOW)[name]
    logs = wire.parse_group(group).logs
    for place in {0, len(logs) // 2, len(logs) - 1} if logs else ():
        encoded, letter = bury([dropped, group, dropped, group], len(logs) + place, sparse=sparse)
        held = wire.parse_group(letter.log)
        assert held.logs == (logs[place],)
        assert (held.topic, held.source, held.tags) == (
            wire.parse_group(group).topic, wire.parse_group(group).source, wire.parse_group(group).tags
        )  # fmt: skip
        assert letter.sls_id == f"{encoded.head}{'1000.3' if sparse else '1003'}-{place}"
        assert (letter.cursor, letter.place) == ("1000.3" if sparse else "1003", place)
        again = Encoder(Router((), HEC)).encode_letter(letter)
        assert events(again) == [events(encoded)[len(logs) + place]]
        assert again.sls_id(0) == letter.sls_id


@settings(max_examples=60, deadline=None)
@given(st.lists(GROUPS, min_size=1, max_size=4))
def test_every_event_of_any_pull_comes_back_from_its_letter(groups: list[bytes]) -> None:
    raw = wire.group_list(groups)
    encoded = Encoder(Router((DROP,), HEC)).encode(pull_of(raw, len(groups)), raw)
    for event in range(len(encoded)):
        letter = bury(groups, event)[1]
        assert events(Encoder(Router((), HEC)).encode_letter(letter)) == [events(encoded)[event]]


def test_a_letter_goes_out_with_todays_settings_and_its_old_id() -> None:
    letter = bury([nasty_groups(NOW)["emoji"]], 0)[1]
    encoded = Encoder(Router((RouteSettings(name="new", index="other", token="t"),), HEC)).encode_letter(letter)
    assert b'"index":"other"' in events(encoded)[0]
    assert letter.sls_id.encode() in events(encoded)[0]
    span = encoded.span(0)
    assert (span.first, span.count, span.route, span.token, span.index) == (0, 1, "new", "t", "other")
