"""A pull's body, decompressed with its size known before anything is allocated."""

from __future__ import annotations

import struct

import lz4.block
import zstd

from buffer.values import Pull
from worker.verify import MAX_RAW, Unverified, zstd_fits


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
    """One whole frame that can hold no more than announced: the library takes memory for as many as there are."""
    try:
        fits = zstd_fits(body, size)
    except (Unverified, struct.error, IndexError) as error:
        raise Undecodable(f"zstd: {error}") from error
    if not fits:
        raise Undecodable(f"the zstd frame says it is longer than the {size} bytes announced")
    found: bytes = zstd.decompress(body)
    return found
