"""Which route a LogGroup takes, what it gives its events, and what is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.emulators import generator_wire as wire
from tests.emulators.generator_topics import TOPICS
from tests.worker.encoding import HEC, events, pull_of
from worker.encode import Encoder
from worker.routes import Router
from worker.settings import RouteSettings


def first(*routes: RouteSettings, topic: str = "oss_access_log", source: str = "src", logstore: str = "store") -> str:
    return Router(routes, HEC).resolve(source, "project", logstore, topic).route


def envelope(
    route: RouteSettings, *, source: bytes = b"192.0.2.9", hostname: bytes = b"web-1", **fields: str
) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    tags = [(b"__hostname__", hostname)] if hostname else []
    raw = wire.group_list([wire.group([wire.log(1_767_225_601, pairs)], b"oss_access_log", source, tags)])
    found: dict[str, Any] = json.loads(events(Encoder(Router((route,), HEC)).encode(pull_of(raw, 1), raw))[0])
    return found


def test_the_first_route_that_matches_wins() -> None:
    assert (
        first(RouteSettings(name="a", topic="waf*"), RouteSettings(name="b", topic="oss*"), RouteSettings(name="c"))
        == "b"
    )


def test_all_of_topic_source_and_logstore_must_match() -> None:
    route = RouteSettings(name="a", topic="oss*", source_name="s?c", logstore="[st]*")
    assert first(route) == "a"
    assert first(route, topic="waf") == first(route, source="sc") == first(route, logstore="oss_log") == "default"


def test_globs_heed_case_on_every_system() -> None:
    assert first(RouteSettings(name="a", topic="OSS*")) == "default"


def test_a_route_without_a_name_is_called_by_its_topic_or_its_place() -> None:
    assert first(RouteSettings(topic="oss*")) == "oss*"
    assert first(RouteSettings(topic="waf"), RouteSettings()) == "route-2"


@given(st.text(max_size=20), st.text(max_size=20))
def test_every_topic_and_logstore_at_all_has_a_sourcetype(topic: str, logstore: str) -> None:
    assert Router((), HEC).resolve("s", "p", logstore, topic).sourcetype.startswith("aliyun:")


@pytest.mark.parametrize("topic", ["sas-a b", 'sas-"', "sas-\n", "aegis-" + "x" * 65, "sas-\u4e2d", "mongo_\x00"])
def test_a_topic_that_is_no_name_makes_no_sourcetype(topic: str) -> None:
    """Whoever may write logs chooses it; Splunk keeps each sourcetype that it has ever seen."""
    assert Router((), HEC).resolve("s", "p", "l", topic).sourcetype == "aliyun:sls"
    assert Router((), HEC).resolve("s", "p", "l", "sas-vul-log").sourcetype == "aliyun:sas:sas-vul-log"


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
def test_every_topic_of_the_generator_is_known_by_the_built_in_table(topic: str) -> None:
    logstore = next(one.logstore for one in TOPICS if one.name == topic)
    assert Router((), HEC).resolve("s", "p", logstore, topic).sourcetype != "aliyun:sls"


def test_dropped_events_are_decoded_and_filtered_and_leave_nothing() -> None:
    raw = wire.group_list(
        wire.group([wire.log(1, [(b"k", b"v")])] * count, topic)
        for topic, count in ((b"a", 2), (b"b", 3), (b"a", 4), (b"c", 0))
    )
    router = Router((RouteSettings(topic="a", drop=True), RouteSettings(topic="b", name="kept")), HEC)
    encoded = Encoder(router).encode(pull_of(raw, 4), raw)
    assert encoded.decoded == {"a": 6, "kept": 3}
    assert encoded.filtered == {"a": 6}
    assert [encoded.locate(event) for event in range(len(encoded))] == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", "192.0.2.9"), ("source", "192.0.2.9"), ("hostname", "web-1"), ("project", "audit-project"),
        ("=fixed", "fixed"), ("field:ip", "203.0.113.5"), ("field:none", "192.0.2.9"),
    ],
)  # fmt: skip
def test_the_host_is_what_the_route_says(host: str, expected: str) -> None:
    assert envelope(RouteSettings(host=host), ip="203.0.113.5")["host"] == expected


def test_without_source_the_host_is_the_host_name_and_without_both_the_project() -> None:
    assert envelope(RouteSettings(), source=b"")["host"] == "web-1"
    assert envelope(RouteSettings(), source=b"", hostname=b"")["host"] == "audit-project"


def test_a_route_gives_its_sourcetype_index_source_and_fields() -> None:
    found = envelope(RouteSettings(sourcetype="t", index="i", source="s", fields={"a": '"'}))
    assert (found["sourcetype"], found["index"], found["source"], found["fields"]) == ("t", "i", "s", {"a": '"'})


def test_an_empty_index_is_left_out() -> None:
    assert "index" not in envelope(RouteSettings())


def test_the_time_moves_to_the_field_and_stays_where_the_field_is_no_time() -> None:
    route = RouteSettings(time_field="at")
    assert envelope(route, at="1767225600123")["time"] == "1767225600.123000000"
    assert envelope(route, at="soon")["time"] == envelope(route)["time"] == "1767225601"
