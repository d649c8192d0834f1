"""What SLS answered: the body within bounds of size and time, the headers of a pull, a refusal as an error of ours."""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker import cursor as cursors
from worker.sls_errors import BadAnswer, Declined, ProxyRefused, SlsError, TlsRefused, Unreachable, classify
from worker.words import readable

MAX_BODY = 64 << 20
#: No answer has as many LogGroups; the index holds 64 bits of their sum.
MOST_GROUPS = 1 << 32
Admit = Callable[[int], bool]
"""Bytes announced, in; whether they may come, out."""


@dataclass(frozen=True, slots=True)
class RawPull:
    """The answer to one PullLogs call, as it came."""

    body: bytes
    codec: str
    raw_size: int
    groups: int
    next: int
    arrived: float
    at_end: bool


@contextlib.contextmanager
def as_expected(what: str) -> Iterator[None]:
    """An answer without the fields it must have is an error like the others, not a crash."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadAnswer(f"the answer to {what} is not SLS's: {type(error).__name__} {error}") from error


def await_room(headers: Mapping[str, str], admit: Admit) -> float:
    """Seconds until `admit` let the body come; Declined where it will not. What announces no size is let in."""
    announced, before = headers.get("content-length", ""), time.monotonic()
    if announced.isdecimal() and not admit(min(int(announced), MAX_BODY)):
        raise Declined(f"{announced} bytes are not wanted now")
    return time.monotonic() - before


def read_body(raw: Any, headers: Mapping[str, str], until: float) -> bytes:
    """At most MAX_BODY bytes, before `until`. A body that ends early raises."""
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY:
        raise BadAnswer(f"an answer of {announced} bytes, at most {MAX_BODY} are taken")
    pieces, size = [], 0
    while piece := raw.read1(1 << 18, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY:
            raise BadAnswer(f"an answer of more than {MAX_BODY} bytes")
        if time.monotonic() > until:
            raise Unreachable("the answer comes too slowly")
    if announced.isdecimal() and size < int(announced):
        raise Unreachable(f"the answer ended after {size} of {announced} bytes")
    body = b"".join(pieces)
    if headers.get("content-encoding", "").lower() in {"gzip", "deflate"}:
        try:
            return zlib.decompressobj(47).decompress(body, MAX_BODY)
        except zlib.error as error:
            raise BadAnswer(f"the answer is not the gzip it says: {error}") from error
    return body


def parse_json(content: bytes) -> Any:
    """None for an empty body."""
    if not content:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadAnswer(f"the answer is not JSON: {content[:80]!r}") from None


def refusal(status: int, content: bytes, headers: Mapping[str, str]) -> SlsError:
    """What SLS, or something in between, said instead of 200."""
    request_id = headers.get("x-log-requestid", "")
    try:
        found = json.loads(content)
        return classify(status, readable(found["errorCode"], 60), str(found["errorMessage"]), request_id)
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content[:200].decode("utf-8", "replace")
        return classify(status, "", text or "without a word", request_id)


def unreachable(error: Exception) -> SlsError:
    """A failure below HTTP."""
    text = str(error)
    if "Tunnel connection failed: 407" in text:
        return ProxyRefused(text)
    if "certificate" in text.lower() or "SSLError" in text or "SSLCert" in text:
        return TlsRefused(text)
    return Unreachable(f"{type(error).__name__}: {text}")


def parse_pull(body: bytes, headers: Mapping[str, str], cursor: int) -> RawPull:
    """BadAnswer when the headers are not those of a pull."""
    try:
        following = cursors.to_number(headers["x-log-cursor"])
        groups, raw_size = int(headers["x-log-count"]), int(headers["x-log-bodyrawsize"])
    except (KeyError, ValueError):
        raise BadAnswer("the answer lacks x-log-cursor, x-log-count or x-log-bodyrawsize") from None
    if not 0 <= groups < MOST_GROUPS or following < cursor or (groups and following == cursor):
        raise BadAnswer(f"from {cursor} SLS went on to {following} with {groups} LogGroups")
    return RawPull(
        body=body,
        codec=headers.get("x-log-compresstype", "").lower(),
        raw_size=raw_size,
        groups=groups,
        next=following,
        arrived=parse_time(headers.get("x-log-cursor-time", "")),
        at_end=headers.get("x-log-end-of-cursor") == "1" or (groups == 0 and following == cursor),
    )


def parse_time(text: str) -> float:
    """0 where there is none."""
    return float(text) if text.isdecimal() and len(text) < 16 else 0.0
