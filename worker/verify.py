"""Is the body of a pull what its headers say? Whole, of the announced length, with the announced number of LogGroups.

Nothing is allocated before the announced length has been held against the cap and, for zstd, against the frame's own
words: an answer that would blow up is refused while it is still small.
"""

from __future__ import annotations

import struct
import zlib

import lz4.block
import zstd

from worker import compiled

#: Raw bytes of one pull, for consumers and senders alike. SLS sends at most about 10 MB; one LogGroup may have 30 MB.
MAX_RAW = 64 << 20
_ZSTD_MAGIC = 0xFD2FB528


class Unverified(Exception):
    """The body is not what its headers say. The message says why."""


def check(body: bytes, codec: str, raw_size: int, groups: int) -> bytes:
    """The decompressed bytes of a body that holds what was announced; Unverified otherwise."""
    raw = decompress(body, codec, raw_size)
    found = count_groups(raw)
    if found != groups:
        raise Unverified(f"{found} LogGroups, {groups} announced")
    return raw


def decompress(body: bytes, codec: str, raw_size: int) -> bytes:
    """Exactly `raw_size` bytes, or Unverified."""
    if not 0 < raw_size <= MAX_RAW:
        raise Unverified(f"{raw_size} raw bytes announced, at most {MAX_RAW} are taken")
    try:
        raw = _decompress(body, codec, raw_size)
    except (lz4.block.LZ4BlockError, zstd.Error, zlib.error, ValueError, struct.error, IndexError) as error:
        raise Unverified(f"not {codec or 'plain'}: {error}") from error
    if len(raw) != raw_size:
        raise Unverified(f"{len(raw)} raw bytes, {raw_size} announced")
    return raw


def _decompress(body: bytes, codec: str, raw_size: int) -> bytes:
    if codec == "lz4":
        return bytes(lz4.block.decompress(body, uncompressed_size=raw_size))
    if codec == "zstd":
        return open_zstd(body, raw_size)
    if codec in {"deflate", "gzip"}:
        return zlib.decompressobj(47).decompress(body, raw_size + 1)
    return body


def open_zstd(body: bytes, raw_size: int) -> bytes:
    """One whole frame of so many bytes; Unverified, zstd.Error. No more memory is taken than announced.

    The library takes as much as the frame says, and cannot read one of several blocks that says nothing, as who compresses a
    stream writes it: such a frame is given the size that was announced, which it then holds against what comes out.
    """
    stated, place = zstd_stated(body)
    if stated is None:
        size = raw_size.to_bytes(8, "little")
        body = b"".join((body[:4], bytes([body[4] & 0x3F | 0xC0]), body[5:place], size, body[place:]))
    elif stated > raw_size:
        raise Unverified("the zstd frame says it is longer than announced")
    return bytes(zstd.decompress(body))


def zstd_stated(body: bytes) -> tuple[int | None, int]:
    """How many bytes come out of a frame as it says itself, and where its blocks begin. One whole frame only."""
    magic, descriptor = struct.unpack_from("<IB", body)
    if magic != _ZSTD_MAGIC:
        raise Unverified("not zstd: no frame")
    single = bool(descriptor & 0x20)
    place = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    stated = int.from_bytes(body[place : place + width], "little") + (256 if width == 2 else 0)
    if _zstd_end(body, place + width) + (4 if descriptor & 4 else 0) != len(body):
        raise Unverified("not one whole zstd frame")
    return stated if width else None, place + width


def _zstd_end(body: bytes, place: int) -> int:
    """Where the blocks end that begin there."""
    while True:
        if place + 3 > len(body):
            raise Unverified("the zstd frame ends early")
        header = int.from_bytes(body[place : place + 3], "little")
        place += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        if header & 1:
            return place


def count_groups(raw: bytes) -> int:
    """Top-level LogGroups of a LogGroupList, without looking into them."""
    found = -1 if compiled.module is None else compiled.module.count(raw)
    return found if found >= 0 else count_groups_slowly(raw)


def count_groups_slowly(raw: bytes) -> int:
    """In Python, which knows what is wrong."""
    place, end, found = 0, len(raw), 0
    while place < end:
        if raw[place] != 0x0A:
            raise Unverified(f"no LogGroup at byte {place}")
        place += 1
        length = shift = 0
        while True:
            if place >= end or shift > 28:
                raise Unverified("a LogGroup's length is cut")
            byte = raw[place]
            place += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        place += length
        found += 1
    if place != end:
        raise Unverified("the last LogGroup is cut")
    return found
