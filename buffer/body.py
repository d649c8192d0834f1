"""A body on disk: a file that describes itself, so that a lost index is rebuilt from the files alone.

    magic 8 | version 2 | kind 2 | sequence 8 | time 8 | meta length 4 | payload length 8 | meta | payloads | CRC-32 4

Little-endian. `meta` is a JSON array with one object per pull or letter; the payloads follow in its order, each as
long as its `size` says. The CRC covers everything before it. A file that is shorter, longer or different anywhere is
damaged; a file of a newer version is refused, never guessed at.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from buffer.errors import SpoolDamaged, SpoolTooNew
from buffer.values import DeadLetter, Pull, ShardKey

try:  # the same CRC-32, thirteen times as fast; every byte that is spooled passes here twice
    crc32: Callable[..., int] = importlib.import_module("isal.isal_zlib").crc32
except ImportError:
    from zlib import crc32

MAGIC = b"SLSSPOOL"
VERSION = 1
#: What a body holds: pulls, dead letters, or new states of dead letters.
BATCH, DEAD, STATES = 1, 2, 3
HEAD = struct.Struct("<8sHHQdIQ")
TAIL = struct.Struct("<I")

#: The fields of a Pull that the header keeps beside its key, under these names.
_PULL = ("epoch", "source", "codec", "raw_size", "begin", "next", "groups", "sparse", "suspect", "arrived", "pulled")
_KEY = ("project", "logstore", "group", "query", "shard", "created")
_LETTER = tuple(name for name in DeadLetter.__slots__ if name != "log")


@dataclass(frozen=True, slots=True)
class Body:
    """What a file says."""

    kind: int
    sequence: int
    time: float
    meta: list[dict[str, Any]]
    payloads: list[bytes]
    size: int


def pack(
    kind: int, sequence: int, time: float, meta: Sequence[dict[str, Any]], payloads: Sequence[bytes]
) -> list[bytes]:
    """The pieces of the file, for one writev: the payloads are not copied."""
    described = orjson.dumps(list(meta))
    head = HEAD.pack(MAGIC, VERSION, kind, sequence, time, len(described), sum(map(len, payloads)))
    crc = crc32(described, crc32(head))
    for payload in payloads:
        crc = crc32(payload, crc)
    return [head, described, *payloads, TAIL.pack(crc)]


def unpack(data: bytes) -> Body:
    """Check everything, then take it apart. Raises SpoolDamaged or SpoolTooNew."""
    if len(data) < HEAD.size + TAIL.size:
        raise SpoolDamaged(f"body of {len(data)} bytes is torn")
    magic, version, kind, sequence, time, meta_size, payload_size = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise SpoolDamaged("body does not begin as a body of ours")
    if version > VERSION and _crc_fits(data):  # else a bit turned over
        raise SpoolTooNew(f"body has format {version}, this program reads up to {VERSION}", "install the newer version")
    end = HEAD.size + meta_size + payload_size
    if len(data) != end + TAIL.size:
        raise SpoolDamaged(f"body has {len(data)} bytes, not the {end + TAIL.size} that its header says")
    if not _crc_fits(data):
        raise SpoolDamaged("body does not match its CRC")
    return _take_apart(data, kind, sequence, time, meta_size)


def _crc_fits(data: bytes) -> bool:
    """Whether its last bytes are the CRC of all before them: so in every version."""
    end = len(data) - TAIL.size
    return bool(crc32(memoryview(data)[:end]) == TAIL.unpack_from(data, end)[0])


def head_of(path: Path) -> tuple[int, int] | None:
    """The kind and the sequence number that a file says; None where it is not even a head of ours. Nothing is checked."""
    with path.open("rb") as file:
        return head_in(file.read(HEAD.size))


def head_in(data: bytes) -> tuple[int, int] | None:
    """The same, of bytes that are read already."""
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        return None
    _magic, _version, kind, sequence, *_ = HEAD.unpack_from(data)
    return kind, sequence


def described(data: bytes) -> list[dict[str, Any]]:
    """What a damaged body's header still says, as far as it can be read: for the report of what was lost."""
    try:
        meta_size = HEAD.unpack_from(data)[5]
        found = orjson.loads(data[HEAD.size : HEAD.size + meta_size])
    except (struct.error, orjson.JSONDecodeError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _take_apart(data: bytes, kind: int, sequence: int, time: float, meta_size: int) -> Body:
    at = HEAD.size + meta_size
    meta = orjson.loads(data[HEAD.size : at])
    payloads = []
    for one in meta:
        payloads.append(data[at : at + one["size"]])
        at += one["size"]
    return Body(kind, sequence, time, meta, payloads, len(data))


def describe_pull(pull: Pull) -> dict[str, Any]:
    """A pull without its bytes."""
    described: dict[str, Any] = {name: getattr(pull, name) for name in _PULL}
    described["key"] = [getattr(pull.key, name) for name in _KEY]
    described["size"] = len(pull.body)
    return described


def restore_pull(described: dict[str, Any], body: bytes) -> Pull:
    """The inverse."""
    return Pull(key=ShardKey(*described["key"]), body=body, **{name: described[name] for name in _PULL})


def place_of(meta: Sequence[dict[str, Any]], sls_id: str, place: int) -> int | None:
    """Where in its file a letter is of which the index says this: a bit of the place, or of the id, may have turned over, and of a
    number it may be the sign. None: neither is there.
    """
    is_place = 0 <= place < len(meta)
    if is_place and meta[place]["sls_id"] == sls_id:
        return place
    return next((at for at, one in enumerate(meta) if one["sls_id"] == sls_id), place if is_place else None)


def describe_letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter without its log."""
    described: dict[str, Any] = {name: getattr(letter, name) for name in _LETTER}
    described["size"] = len(letter.log)
    return described


def restore_letter(described: dict[str, Any], log: bytes) -> DeadLetter:
    """The inverse."""
    return DeadLetter(log=log, **{name: described[name] for name in _LETTER})
