"""What a pull answers: the groups that fit, filtered if asked, in the codec both sides speak.

Bodies are made by joining stored bytes and kept compressed by what is in them, so that many readers of the same data,
or data that repeats, cost one compression.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import lz4.block
import zstd

from tests.emulators import generator_wire as wire
from tests.emulators.sls_groups import Refused
from tests.emulators.sls_store import Shard, decode_cursor, encode_cursor

#: a LogGroup in, what the query leaves of it out, None when nothing
Filter = Callable[[bytes], bytes | None]

_WHERE = re.compile(
    r"""\*\s*\|\s*where\s+["']?(?P<key>[^\s"'=!]+)["']?\s*(?P<op>=|!=|like)\s*'(?P<value>[^']*)'\s*""", re.DOTALL
)
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda raw: lz4.block.compress(raw, store_size=False),
    "zstd": lambda raw: zstd.compress(raw, 1),
    "deflate": zlib.compress,
    "gzip": zlib.compress,
}


@dataclass(frozen=True, slots=True)
class Answer:
    next: int
    count: int
    raw_bytes: int
    codec: str  # "" is plain
    body: bytes
    scanned: int
    scanned_bytes: int


class BodyCache:
    """Compressed bodies by codec and the stored objects in them; holding those, so that no id is used twice."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], tuple[bytes, int, list[bytes]]] = OrderedDict()

    def body(self, framed: list[bytes], codec: str) -> tuple[bytes, int]:
        """(body, raw size)"""
        if not codec:
            raw = b"".join(framed)
            return raw, len(raw)
        key = (codec, tuple(map(id, framed)))
        with self._lock:
            if found := self._kept.get(key):
                self._kept.move_to_end(key)
                return found[0], found[1]
        raw = b"".join(framed)
        body = compress(raw, codec)
        self._keep(key, body, len(raw), framed)
        return body, len(raw)

    def _keep(self, key: tuple[str, tuple[int, ...]], body: bytes, raw_size: int, framed: list[bytes]) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (body, raw_size, framed)
            self._bytes += len(body)
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                _, (old, _, _) = self._kept.popitem(last=False)
                self._bytes -= len(old)


def compress(raw: bytes, codec: str) -> bytes:
    return _COMPRESS[codec](raw) if codec else raw


def decompress(body: bytes, codec: str, raw_size: int) -> bytes:
    if codec == "lz4":
        return bytes(lz4.block.decompress(body, uncompressed_size=raw_size))
    if codec == "zstd":
        return bytes(zstd.decompress(body))
    return zlib.decompress(body) if codec in {"deflate", "gzip"} else body


def choose_codec(accepted: str, *, zstd_works: bool, forced: str | None) -> str:
    """What the service answers with to this Accept-Encoding."""
    if forced is not None:
        return forced
    wanted = [word.split(";")[0].strip().lower() for word in accepted.split(",")]
    if "zstd" in wanted:
        return "zstd" if zstd_works else "lz4"
    return next((codec for codec in ("lz4", "deflate", "gzip") if codec in wanted), "")


def compile_query(query: str) -> Filter | None:
    """`* | where KEY = 'x'` (or != or like '%x%'), `*`, or any text that a log must hold; None: everything."""
    if query.strip() in {"", "*"}:
        return None
    where = _WHERE.fullmatch(query.strip())
    if not where:
        text = query.strip().strip("\"'").encode()
        return lambda group: _keep_logs(group, lambda raw: text in raw)
    key, value = where["key"].encode(), where["value"].encode()
    if key in {b"__topic__", b"__source__"}:
        number = 3 if key == b"__topic__" else 4
        return lambda group: group if _agrees(dict(wire.fields(group)).get(number, b""), where["op"], value) else None
    return lambda group: _keep_logs(
        group, lambda raw: _agrees(dict(wire.parse_log(raw).pairs).get(key), where["op"], value)
    )


def _agrees(found: bytes | int | None, op: str, value: bytes) -> bool:
    if op == "like":
        return isinstance(found, bytes) and value.strip(b"%") in found
    return (found == value) == (op == "=")


def _keep_logs(group: bytes, wanted: Callable[[bytes], bool]) -> bytes | None:
    parts, kept = [], 0
    for number, value in wire.fields(group):
        if isinstance(value, int) or (number == 1 and not wanted(value)):
            continue
        kept += number == 1
        parts.append(wire.field(number, value))
    return b"".join(parts) if kept else None


@dataclass(frozen=True, slots=True)
class Slice:
    """What a pull reads, found under the lock."""

    cursor: int
    framed: list[bytes]
    last_received: float | None
    end: int


def cut_slice(shard: Shard, cursor_text: str, end_text: str, *, count: int, max_bytes: int, begin: int) -> Slice:
    cursor = decode_cursor(cursor_text)
    if not begin <= cursor <= shard.end:
        raise Refused(400, "InvalidCursor", "cursor is expired or out of range")
    stop = min(shard.end, cursor + count)
    if end_text:
        stop = max(cursor, min(stop, decode_cursor(end_text)))
    framed = shard.take(cursor, stop, max_bytes)
    last = shard.received[cursor - shard.first + len(framed) - 1] if framed else None
    return Slice(cursor, framed, last, shard.end)


def answer(part: Slice, query: str, codec: str, cache: BodyCache) -> Answer:
    framed = part.framed
    scanned_bytes = sum(map(len, framed)) if query else 0
    keep = compile_query(query)
    if keep is not None:
        kept = [keep(wire.parse_list(one)[0]) for one in framed]
        framed = [wire.frame(one) for one in kept if one is not None]
    following = part.cursor + len(part.framed)
    if not framed:
        return Answer(following, 0, 0, "", b"", len(part.framed), scanned_bytes)
    if keep is None:
        body, raw_bytes = cache.body(framed, codec)
    else:
        raw = b"".join(framed)
        body, raw_bytes = compress(raw, codec), len(raw)
    return Answer(following, len(framed), raw_bytes, codec, body, len(part.framed), scanned_bytes)


def headers(part: Slice, found: Answer, now: float, query: str) -> dict[str, str]:
    out = {
        "x-log-cursor": encode_cursor(found.next),
        "x-log-count": str(found.count),
        "x-log-bodyrawsize": str(found.raw_bytes),
        "x-log-cursor-time": str(int(now if part.last_received is None else part.last_received)),
        "Content-Type": "application/x-protobuf",
    }
    if found.codec:
        out["x-log-compresstype"] = found.codec
    if found.next >= part.end:
        out["x-log-end-of-cursor"] = "1"
    if part.framed:
        out["x-log-read-last-cursor"] = str(found.next - 1)
    if query:
        out |= {
            "x-log-rawdatacount": str(found.scanned),
            "x-log-rawdatasize": str(found.scanned_bytes),
            "x-log-rawdatalines": str(found.scanned),
            "x-log-resultlines": str(found.count),
            "x-log-failedlines": "0",
        }
    return out
