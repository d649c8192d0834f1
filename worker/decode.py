"""A pull's body, decompressed with its size known before anything is allocated."""

from __future__ import annotations

import struct

import lz4.block
import zstd

from buffer.values import Pull
from worker.verify import MAX_RAW, Unverified, open_zstd


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
            return open_zstd(body, size)
    except (
        lz4.block.LZ4BlockError,
        ValueError,
        IndexError,
        MemoryError,
        zstd.Error,
        struct.error,
        Unverified,
    ) as error:
        raise Undecodable(f"{codec}: {error}") from error
    if codec != "none":
        raise Undecodable(f"unknown codec {codec!r}")
    return body
