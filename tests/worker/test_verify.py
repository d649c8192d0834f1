"""A body is believed only when it is whole, as long and as many as announced; and refused before it takes memory."""

from __future__ import annotations

import tracemalloc

import lz4.block
import pytest
import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulators.generator import Generator
from tests.emulators.generator_wire import frame
from worker.decode import decompress as open_body
from worker.intake import verified
from worker.sls_answer import RawPull
from worker.verify import MAX_RAW, Unverified, check, count_groups, count_groups_slowly, decompress, zstd_stated

RAW = b"".join(frame(made.data) for made in Generator(3).groups(2_000))
GROUPS = sum(1 for _ in Generator(3).groups(2_000))
PACK = {"lz4": lambda raw: lz4.block.compress(raw, store_size=False), "zstd": lambda raw: zstd.compress(raw, 1)}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_sound_body_passes(codec: str) -> None:
    assert check(PACK[codec](RAW), codec, len(RAW), GROUPS) == RAW


def test_a_plain_body_passes() -> None:
    assert check(RAW, "", len(RAW), GROUPS) == RAW


@pytest.mark.parametrize("codec", ["lz4", "zstd", ""])
@pytest.mark.parametrize(("size", "count"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_wrong_size_or_count_does_not(codec: str, size: int, count: int) -> None:
    body = PACK[codec](RAW) if codec else RAW
    with pytest.raises(Unverified):
        check(body, codec, len(RAW) + size, GROUPS + count)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@given(data=st.data())
def test_cut_or_random_bytes_end_in_one_error(codec: str, data: st.DataObject) -> None:
    body = PACK[codec](RAW)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(Unverified):
        check(body[:cut], codec, len(RAW), GROUPS)
    noise = data.draw(st.binary(max_size=200))
    with pytest.raises(Unverified):
        check(noise, codec, len(RAW), GROUPS)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_bomb_takes_no_memory(codec: str) -> None:
    zeros = b"\0" * (48 << 20)
    body = PACK[codec](zeros)
    twice = body + body if codec == "zstd" else body
    del zeros
    tracemalloc.start()
    try:
        for size in (1000, MAX_RAW + 1, 1 << 40, 0, -5):
            with pytest.raises(Unverified):
                decompress(twice, codec, size)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_says_how_long_it_is_whatever_its_size() -> None:
    for size in (1, 255, 256, 257, 65_791, 65_792, 70_000, 1 << 20):
        assert zstd_stated(zstd.compress(b"x" * size, 1))[0] == size
    with pytest.raises(Unverified, match="one whole"):
        zstd_stated(zstd.compress(b"x", 1) * 2)


def unsized(raw: bytes, piece: int) -> bytes:
    """A frame that does not say how long it is, of blocks as they come from a stream that is flushed now and then."""
    blocks = [raw[at : at + piece] for at in range(0, len(raw), piece)]
    heads = [(len(block) << 3 | (n == len(blocks) - 1)).to_bytes(3, "little") for n, block in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(head + block for head, block in zip(heads, blocks, strict=True))


@pytest.mark.parametrize("piece", [1 << 17, 1 << 12, 100])
def test_a_zstd_frame_that_does_not_say_how_long_it_is_is_held_against_what_was_announced(piece: int) -> None:
    body = unsized(RAW, piece)
    assert zstd_stated(body)[0] is None
    assert check(body, "zstd", len(RAW), GROUPS) == RAW
    assert open_body(body, "zstd", len(RAW)) == RAW
    for size in (len(RAW) - 1, len(RAW) + 1):
        with pytest.raises(Unverified):
            check(body, "zstd", size, GROUPS)


@pytest.mark.parametrize("raw", [b"\x0a", b"\x0a\x05abc", b"\x12\x00", b"\x0a\xff\xff\xff\xff\xff\xff", b"\x0a\x80"])
def test_what_is_no_list_of_groups_is_refused(raw: bytes) -> None:
    with pytest.raises(Unverified):
        count_groups(raw)


def test_groups_are_counted() -> None:
    assert count_groups(b"") == 0
    assert count_groups(b"\x0a\x00" * 3) == 3
    assert count_groups(b"\x0a\x80\x01" + b"x" * 128) == 1


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=6), st.binary(max_size=300).map(frame)), max_size=6).map(b"".join))
def test_both_ways_to_count_say_the_same_of_any_bytes(raw: bytes) -> None:
    try:
        expected = count_groups_slowly(raw)
    except Unverified:
        with pytest.raises(Unverified):
            count_groups(raw)
    else:
        assert count_groups(raw) == expected


@pytest.mark.parametrize(("body", "raw_size"), [(b"x", 0), (b"", 1)])
def test_an_answer_that_says_it_is_empty_and_is_not_moves_nothing(body: bytes, raw_size: int) -> None:
    assert verified(RawPull(b"", "", 0, 0, 12, 0.0, False)) == ("", b"")
    with pytest.raises(Unverified):
        verified(RawPull(body, "", raw_size, 0, 12, 0.0, False))
