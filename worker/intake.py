"""From SLS's answer to what goes into the spool: verified, compressed, and marked where it cannot be.

A body that is not what its headers say is asked for again. When the same bytes have come three times, asking again
will not help: they go into the spool as they came, marked *suspect*, and the sender judges them.
"""

from __future__ import annotations

import hashlib
import threading
import time

import lz4.block

from buffer.values import Pull, ShardKey
from worker.sls_answer import RawPull
from worker.verify import MAX_RAW, Unverified, check

SUSPECT_AFTER = 3
_ONE_AT_A_TIME = threading.Lock()  # raw bodies are big; one of them in memory is enough


class Intake:
    """Of one shard; remembers the last bad body."""

    def __init__(self, key: ShardKey, source: str) -> None:
        self._key = key
        self._source = source
        self._bad = ""
        self._times = 0

    def accept(self, pulled: RawPull, begin: int, epoch: int, *, first: bool) -> Pull | None:
        """The pull to put; None when SLS had nothing. Unverified: ask again."""
        try:
            codec, body = verified(pulled)
        except Unverified:
            if not self._same_again(pulled, begin):
                raise
            codec, body = pulled.codec if pulled.codec in {"lz4", "zstd"} else "none", pulled.body
            return self._make(pulled, begin, epoch, first, codec, body, suspect=True)
        self._bad, self._times = "", 0
        if not pulled.groups:
            return None
        return self._make(pulled, begin, epoch, first, codec, body, suspect=False)

    def _same_again(self, pulled: RawPull, begin: int) -> bool:
        facts = f"{begin} {pulled.next} {pulled.groups} {pulled.raw_size} {pulled.codec} "
        name = facts + hashlib.blake2b(pulled.body, digest_size=16).hexdigest()
        self._times = self._times + 1 if name == self._bad else 1
        self._bad = name
        if self._times < SUSPECT_AFTER:
            return False
        self._bad, self._times = "", 0
        # Without groups or without progress there is nothing to keep, and nothing to go on to.
        return pulled.groups > 0 and pulled.next > begin

    def _make(
        self, pulled: RawPull, begin: int, epoch: int, first: bool, codec: str, body: bytes, *, suspect: bool
    ) -> Pull:
        return Pull(
            key=self._key,
            epoch=epoch,
            source=self._source,
            codec=codec,
            raw_size=max(0, min(pulled.raw_size, MAX_RAW)),
            begin=begin,
            next=pulled.next,
            groups=pulled.groups,
            sparse=bool(self._key.query) or pulled.next - begin != pulled.groups,
            suspect=suspect,
            arrived=pulled.arrived,
            pulled=time.time(),
            body=body,
            first=first,
        )


def verified(pulled: RawPull) -> tuple[str, bytes]:
    """(codec, body) as they are stored: lz4 and zstd as they came, anything else as lz4."""
    if not pulled.groups:
        if pulled.raw_size > 0 or pulled.body:
            raise Unverified(f"{max(pulled.raw_size, len(pulled.body))} bytes without LogGroups")
        return "", b""
    with _ONE_AT_A_TIME:
        raw = check(pulled.body, pulled.codec, pulled.raw_size, pulled.groups)
        if pulled.codec in {"lz4", "zstd"}:
            return pulled.codec, pulled.body
        return "lz4", lz4.block.compress(raw, store_size=False)
