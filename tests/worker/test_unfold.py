"""JSON texts unfolded into objects, and times out of fields."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.unfold import event_time, unfold

DEEP = {"a": json.dumps({"b": json.dumps({"c": 'quote " and \\ slash'})})}


def unfolded(event: dict[str, Any], *paths: str) -> bytes:
    event = dict(event)
    unfold(event, paths)
    return orjson.dumps(event)


def test_json_in_json_in_json_is_unfolded_along_dotted_paths() -> None:
    event = {"event": json.dumps(DEEP), "other": "{}"}
    found = json.loads(unfolded(event, "event.a.b", "event", "event.a"))
    assert found == {"event": {"a": {"b": {"c": 'quote " and \\ slash'}}}, "other": "{}"}


def test_the_order_of_the_paths_does_not_matter_and_missing_ones_do_no_harm() -> None:
    event = {"event": json.dumps(DEEP)}
    found = json.loads(unfolded(event, "nothing", "event.a", "event", "event.x.y", "event.a.b.c.d"))
    assert found == {"event": {"a": {"b": json.dumps({"c": 'quote " and \\ slash'})}}}


@pytest.mark.parametrize(
    "text",
    ['{"a":', "", "text", "5", '"x"', "NaN", "{NaN}", '{"a":NaN}', '{"a":1}}', "[" * 2000 + "]" * 2000, '{"a":"\\ud800"}',
     "{'a':1}", '{"a":' * 61 + "1" + "}" * 61],
)  # fmt: skip
def test_what_is_no_object_or_array_of_json_stays_text(text: str) -> None:
    assert json.loads(unfolded({"k": text}, "k", "k.a")) == {"k": text}


@pytest.mark.parametrize(
    "number", ["123456789012345678901234567890", "1.10", "1e5", "1E+2", "-0", "0.1000", "12345678901234567.5", "1e-7"]
)
def test_big_and_odd_numbers_stay_as_they_were_written(number: str) -> None:
    text = f'{{"n": {number}, "s": "{{}}"}}'
    assert unfolded({"k": text}, "k") == b'{"k":' + text.encode() + b"}"
    assert number.encode() in unfolded({"k": text}, "k", "k.s")


@pytest.mark.parametrize(
    "text",
    ['{"a": "{\\u0022b\\u0022: 1}"}', '{"x": {"a": "{\\"b\\": 1}"}, "a": "{\\"b\\": 1}"}', '{"a" : "{\\"b\\": 1}", "y": 1.5}'],
)  # fmt: skip
def test_an_inner_text_that_is_written_in_another_way_or_stands_there_twice_is_unfolded_too(text: str) -> None:
    assert json.loads(unfolded({"k": text}, "k", "k.a"))["k"]["a"] == {"b": 1}


def test_an_inner_text_stays_text_where_unfolding_it_would_change_a_number() -> None:
    text = '{"a" : "{\\"b\\": 1}", "n": 1.50}'
    assert unfolded({"k": text}, "k", "k.a") == b'{"k":' + text.encode() + b"}"


def test_numbers_inside_of_strings_do_not_keep_a_text_from_being_unfolded() -> None:
    text = '{"time": "x: 1.50", "ip": "a, 10.0", "inner": "{\\"n\\": 7}", "n": 5}'
    assert json.loads(unfolded({"k": text}, "k", "k.inner"))["k"]["inner"] == {"n": 7}


def test_a_field_whose_name_has_dots_is_found_by_its_whole_name() -> None:
    assert json.loads(unfolded({"a.b": "[1]"}, "a.b")) == {"a.b": [1]}


def test_a_list_of_values_of_a_duplicate_key_is_left_alone() -> None:
    assert json.loads(unfolded({"k": ["{}", "[]"]}, "k")) == {"k": ["{}", "[]"]}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]":,0123456789.eE-abn\\ \n', max_size=40), st.booleans())
def test_any_text_at_all_gives_json_that_says_the_same(text: str, deeper: bool) -> None:
    found = json.loads(unfolded({"k": text}, "k", *(["k.a"] if deeper else [])), parse_float=str, parse_int=str)["k"]
    assert isinstance(found, str | dict | list)
    if not isinstance(found, str):
        expected = json.loads(text, parse_float=str, parse_int=str)
        assert isinstance(found, type(expected))
        if not deeper:
            assert found == expected


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("1767225601", "1767225601"),
        ("1767225601.25", "1767225601.250000000"),
        ("1767225601123", "1767225601.123000000"),
        ("1767225601123456", "1767225601.123456000"),
        ("1767225601123456789", "1767225601.123456789"),
        ("2026-01-01T00:00:01Z", "1767225601"),
        ("2026-01-01T08:00:01+08:00", "1767225601"),
        ("2026-01-01 00:00:01.5", "1767225601.500000000"),
    ],
)
def test_time_is_read_from_epochs_of_any_unit_and_iso(value: str, time: str) -> None:
    assert event_time(value) == time


@pytest.mark.parametrize(
    "value", ["", "-", "yesterday", "12", "1e9", "-1767225601", "1767225601.1234567890", "١٧٦٧٢٢٥٦٠١", ["1"], None]
)
def test_what_is_no_time_leaves_the_logs_own(value: Any) -> None:
    assert event_time(value) is None
