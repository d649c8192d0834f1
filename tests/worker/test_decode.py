"""A pull's body: what is decompressed, what is refused before memory is taken for it."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import replace

import lz4.block
import pytest
import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from buffer.values import Pull
from tests.worker.encoding import pull_of
from worker.decode import Undecodable, open_pull
from worker.verify import MAX_RAW, Unverified
from worker.verify import decompress as verify

RAW = b"some log " * 5000


def packed(codec: str, raw: bytes = RAW) -> Pull:
    body = raw
    if codec == "lz4":
        body = lz4.block.compress(raw, store_size=False)
    elif codec == "zstd":
        body = zstd.compress(raw, 1)
    return replace(pull_of(raw, 1), codec=codec, body=body)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 1_000_000])
def test_a_body_comes_out_as_it_went_in(codec: str, size: int) -> None:
    raw = RAW[:1] * size
    assert open_pull(packed(codec, raw)) == raw


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("wrong", [-1, 1, -len(RAW), 100_000, MAX_RAW])
def test_another_size_than_announced_is_refused(codec: str, wrong: int) -> None:
    pull = packed(codec)
    with pytest.raises(Undecodable):
        open_pull(replace(pull, raw_size=pull.raw_size + wrong))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_body_cut_anywhere_is_refused(codec: str) -> None:
    pull = packed(codec)
    for end in range(len(pull.body)):
        with pytest.raises(Undecodable):
            open_pull(replace(pull, body=pull.body[:end]))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_what_a_consumer_takes_a_sender_takes_and_nothing_else(codec: str, over: int) -> None:
    """At the cap: else a pull would be spooled only to be set aside."""
    pull = packed(codec, bytes(MAX_RAW + over))
    try:
        taken: bytes | None = verify(pull.body, codec, pull.raw_size)
    except Unverified:
        taken = None
    try:
        sent: bytes | None = open_pull(pull)
    except Undecodable:
        sent = None
    assert taken == sent
    assert (taken is None) == (over > 0)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["lz4", "zstd", "none", "gzip", ""]), st.binary(max_size=200), st.integers(-5, 2**40))
def test_any_bytes_at_all_are_decoded_or_refused(codec: str, body: bytes, size: int) -> None:
    with contextlib.suppress(Undecodable):
        assert len(open_pull(replace(pull_of(body, 0), codec=codec, raw_size=size))) == size


def test_a_zstd_frame_that_says_it_is_huge_takes_no_memory() -> None:
    """RFC 8878: single segment, an 8-byte content size of 2**50."""
    bomb = b"\x28\xb5\x2f\xfd\xe0" + (2**50).to_bytes(8, "little") + b"\x01\x00\x00"
    for announced in (2**50, 1000):
        with pytest.raises(Undecodable):
            open_pull(replace(pull_of(b"", 0), codec="zstd", body=bomb, raw_size=announced))


@pytest.mark.parametrize("second", [b"", b"b" * (64 << 20)])
def test_a_second_zstd_frame_behind_an_honest_one_takes_no_memory(second: bytes) -> None:
    pull = packed("zstd")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = pull.body + zstd.compress(second, 1)
    with pytest.raises(Undecodable):
        open_pull(replace(pull, body=body))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_blocks_that_repeat_one_byte_take_no_memory() -> None:
    """A frame that states no size, 3 000 run-length blocks of 128 KiB in four bytes each."""
    blocks = b"".join(((n == 2999) | 1 << 1 | 131_072 << 3).to_bytes(3, "little") + b"a" for n in range(3000))
    with pytest.raises(Undecodable):
        open_pull(replace(pull_of(b"", 0), codec="zstd", body=b"\x28\xb5\x2f\xfd\x00\x58" + blocks, raw_size=1000))
