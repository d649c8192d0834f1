"""The file of a body, against what another library says of it."""

from __future__ import annotations

import random
import zlib

import pytest

from buffer import body
from buffer.errors import SpoolDamaged, SpoolTooNew


@pytest.mark.parametrize("sizes", [[0], [1], [7, 0, 9], [63, 64, 65], [1023, 4097], [1 << 20, 3], [5_000_001]])
def test_its_crc_is_zlibs_whatever_the_pieces_and_any_other_byte_is_found(sizes: list[int]) -> None:
    chance = random.Random(sum(sizes))
    payloads = [chance.randbytes(size) for size in sizes]
    data = b"".join(body.pack(body.BATCH, 7, 1.5, [{"size": size} for size in sizes], payloads))
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])
    assert body.unpack(data).payloads == payloads
    at = chance.randrange(body.HEAD.size, len(data) - 4)
    with pytest.raises(SpoolDamaged):
        body.unpack(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])


def test_a_newer_version_is_refused_by_name_and_a_bit_that_only_says_so_is_damage() -> None:
    data = bytearray(b"".join(body.pack(body.BATCH, 7, 1.5, [{"size": 3}], [b"abc"])))
    for bit in range(body.HEAD.size * 8):
        turned = bytearray(data)
        turned[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SpoolDamaged):
            body.unpack(bytes(turned))
    data[8] = 9
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    with pytest.raises(SpoolTooNew, match="format 9"):
        body.unpack(bytes(data))
