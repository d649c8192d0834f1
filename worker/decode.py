"""A pull's body, decompressed with its size known before anything is allocated."""

from __future__ import annotations

import lz4.block
import zstd

from buffer.values import Pull

#: No pull of SLS's is larger; a body that says so is not decompressed. Bytes.
MAX_RAW = 256 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Undecodable(Exception):
    """The body is not what SLS's protocol says; it is set aside whole, with its cursors."""


def open_pull(pull: Pull) -> bytes:
    """The LogGroupList's bytes. Raises Undecodable."""
    if pull.raw_size > MAX_RAW:
        raise Undecodable(f"{pull.raw_size} bytes announced, over the cap of {MAX_RAW}")
    raw = decompress(pull.body, pull.codec, pull.raw_size)
    if len(raw) != pull.raw_size:
        raise Undecodable(f"{len(raw)} bytes after decompression, {pull.raw_size} announced")
    return raw


def decompress(body: bytes, codec: str, size: int) -> bytes:
    """Never more than `size` bytes are allocated."""
    try:
        if not size and not body:
            return b""
        if codec == "lz4":
            found: bytes = lz4.block.decompress(body, uncompressed_size=size)
            return found
        if codec == "zstd":
            return _decompress_zstd(body, size)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError, zstd.Error) as error:
        raise Undecodable(f"{codec}: {error}") from error
    if codec != "none":
        raise Undecodable(f"unknown codec {codec!r}")
    return body


def _decompress_zstd(body: bytes, size: int) -> bytes:
    announced = zstd_size(body)
    if announced is not None and announced != size:
        raise Undecodable(f"zstd frame of {announced} bytes, {size} announced")
    if announced is None and len(body) * 5000 < size:
        raise Undecodable("zstd frame without a size, far smaller than announced")
    found: bytes = zstd.decompress(body)
    return found


def zstd_size(body: bytes) -> int | None:
    """The content size in the frame's header (RFC 8878, 3.1.1.1), or None where it has none."""
    if body[:4] != _ZSTD_MAGIC or len(body) < 6:
        raise Undecodable("not a zstd frame")
    descriptor = body[4]
    flag, single, dictionary = descriptor >> 6, descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    if flag == 0 and not single:
        return None
    at = 5 + (0 if single else 1) + dictionary
    width = (1, 2, 4, 8)[flag]
    found = int.from_bytes(body[at : at + width], "little")
    return found + 256 if width == 2 else found
