"""Pulls for the tests of the encoders, and both encoders side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from buffer.values import Pull, ShardKey
from tests.emulators import generator_wire as wire
from worker.decode import Undecodable
from worker.encode import Encoded, Encoder
from worker.routes import Router
from worker.settings import HecSettings, RouteSettings

KEY = ShardKey("audit-project", "store", "group", "", 7, 1)
HEC = HecSettings(urls=("http://127.0.0.1:1",))


def pull_of(raw: bytes, groups: int, *, begin: int = 1000, sparse: bool = False, suspect: bool = False) -> Pull:
    return Pull(
        key=KEY, epoch=1, source="store", codec="none", raw_size=len(raw), begin=begin, next=begin + groups,
        groups=groups, sparse=sparse, suspect=suspect, arrived=0, pulled=0, body=raw,
    )  # fmt: skip


class Pair:
    """Both encoders with the same routes; what they say must be the same."""

    def __init__(self, *routes: RouteSettings, index: str = "", **hec: Any) -> None:
        router = Router(routes, replace(HEC, **hec))
        self.python, self.compiled = (Encoder(router, compiled=one, index=index) for one in (False, True))

    def encode(self, groups: list[bytes], **pull: Any) -> Encoded:
        raw = wire.group_list(groups)
        return self.encode_pull(pull_of(raw, len(groups), **pull), raw)

    def encode_pull(self, pull: Pull, raw: bytes) -> Encoded:
        """What both say; Undecodable where both say so."""
        try:
            expected = self.python.encode(pull, raw)
        except Undecodable:
            expected = None
        try:
            found = self.compiled.encode(pull, raw)
        except Undecodable:
            assert expected is None, f"only the compiled encoder refuses {raw.hex()}"
            raise
        assert expected is not None, f"only the Python encoder refuses {raw.hex()}"
        same(expected, found)
        return found


def same(one: Encoded, other: Encoded) -> None:
    assert events(one) == events(other)
    assert bytes(one.data) == bytes(other.data)
    assert one.ends == other.ends
    assert list(one.spans) == list(other.spans)
    assert (one.decoded, one.filtered, one.head) == (other.decoded, other.filtered, other.head)
    for name in ("firsts", "places", "cursors"):
        assert list(getattr(one, name)) == list(getattr(other, name)), name


def events(encoded: Encoded) -> list[bytes]:
    return [bytes(encoded.data[encoded.start(event) : encoded.ends[event]]) for event in range(len(encoded))]


def text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def expected_event(log: wire.ParsedLog, group: wire.ParsedGroup) -> dict[str, Any]:
    """The event's fields without its id, from the rules and by no code of the product."""
    found: dict[str, list[str]] = {}
    for key, value in log.pairs:
        name = text(key)
        mine = name in {"__topic__", "sls_id"} or name.startswith("__tag__:")
        found.setdefault(f"{name}_" if mine else name, []).append(text(value))
    shown: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    shown["__topic__"] = text(group.topic)
    tags: dict[str, list[str]] = {}
    for key, value in group.tags:
        tags.setdefault(f"__tag__:{text(key)}", []).append(text(value))
    return shown | {name: values[0] if len(values) == 1 else values for name, values in tags.items()}


#: bytes that break encoders, more often than chance would have it
SPITEFUL = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from(
            [b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xf0\x9f\x98", b"\xe4\xb8", b"\xe4\xb8\xad", b"\xc0\xaf", b"\xff",
             b"\xf4\x90\x80\x80", b'"', b"\\", b"\x00", b"\x1f", b"\x7f", b"abcdefgh", b"\xe2\x80\xa8", b"\xc2\x80"]
        ),
        max_size=12,
    ).map(b"".join),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        [b"", b"a", b"b", b"__topic__", b"__topic___", b"sls_id", b"sls_id_", b"__tag__:x", b"__tag__:x_", b"__tag__:",
         b"\xff", b"\xfe", b"a key of more than sixteen bytes", b"0123456789abcdef"]
    ),
    SPITEFUL,
)  # fmt: skip
LOGS = st.builds(
    wire.log,
    st.one_of(st.integers(0, 2**32 - 1), st.just(1_767_225_601)),
    st.lists(st.tuples(KEYS, SPITEFUL), max_size=8),
    st.one_of(st.none(), st.integers(0, 2**32 - 1), st.integers(0, 999_999_999)),
)
GROUPS = st.builds(
    wire.group,
    st.lists(LOGS, max_size=5),
    st.one_of(st.none(), st.just(b"oss_access_log"), SPITEFUL),
    st.one_of(st.none(), SPITEFUL),
    st.lists(st.tuples(st.one_of(st.just(b"__hostname__"), KEYS), SPITEFUL), max_size=4),
)
