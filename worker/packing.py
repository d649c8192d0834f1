"""From batches to requests: decoded, routed and encoded, with what a hold concerns parked, and the rest packed by token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby

from buffer.values import Batch
from worker.decode import Undecodable, open_pull
from worker.delivery import Delivery
from worker.encode import Encoded, Encoder
from worker.holds import Hold
from worker.lanes import LaneWork
from worker.logs import get_logger
from worker.pack import Piece, Request, cut
from worker.settle import BatchWork, Part

log = get_logger()


class Packing:
    """Of one sender."""

    def __init__(self, delivery: Delivery, encoder: Encoder, max_bytes_per_second: float) -> None:
        self._delivery = delivery
        self._encoder = encoder
        self._limit = max_bytes_per_second
        """Of this sender; 0: none."""
        self.open: dict[str, Request] = {}
        """Token → the request that is being packed."""
        self.growth = 8.0
        """Bytes held for each that is read: compressed five to one, with the names of the fields written out."""
        self._credit = 0.0
        self._credit_at = time.monotonic()

    def may_spend(self, now: float) -> bool:
        """This sender's share of max_bytes_per_second."""
        if not self._limit:
            return True
        self._credit = min(self._credit + (now - self._credit_at) * self._limit, self._limit)
        self._credit_at = now
        return self._credit > 0

    def take_apart(self, lane: LaneWork, batch: Batch) -> None:
        """All its pulls; what cannot be decoded is set aside whole."""
        work = lane.batches[batch.id] = BatchWork(lane.name, batch)
        size = batch.bytes
        for place, pull in enumerate(batch.pulls):
            try:
                encoded = self._encoder.encode(pull, open_pull(pull))
            except Undecodable as error:
                work.set_aside.append((place, str(error)))
                log.error(
                    "body cannot be decoded: set aside", error=str(error), source=pull.source, shard=pull.key.shard,
                    begin=pull.begin, next=pull.next, groups=pull.groups, hint="fetch it again with sls-siem replay",
                )  # fmt: skip
                continue
            size += len(encoded.data)
            self._queue_events(work, place, encoded)
        work.encoded = True
        lane.hold(work, size)
        self.growth += (max(1.0, size / max(1, batch.bytes)) - self.growth) / 8

    def _queue_events(self, work: BatchWork, place: int, encoded: Encoded) -> None:
        work.parts[place] = Part(encoded, self._encoder, len(encoded), len(encoded.data))
        work.pending += len(encoded)
        self._credit -= len(encoded.data)
        for mine, theirs in ((work.decoded, encoded.decoded), (work.filtered, encoded.filtered)):
            for route, events in theirs.items():
                mine[route] = mine.get(route, 0) + events
        for piece, token, hold in self._pieces(work, place, encoded):
            if hold is None:
                self.pack(piece, token)
            else:
                self._delivery.refusals.park(piece, hold)

    def _pieces(self, work: BatchWork, place: int, encoded: Encoded) -> Iterator[tuple[Piece, str, Hold | None]]:
        """As few pieces as tokens and holds allow: routes and indexes may differ within one."""
        holds = self._delivery.holds
        token = encoded.token()
        if token is not None and not holds.active:
            yield Piece(work, encoded, place, 0, len(encoded)), token, None
            return
        kinds = groupby(encoded.spans, key=lambda span: (span.token, hold.key if (hold := holds.of(span)) else ""))
        for (token, key), spans in kinds:
            first, *rest = spans
            count = sum(span.count for span in rest) + first.count
            yield Piece(work, encoded, place, first.first, count), token, holds.active.get(key)

    def pack(self, piece: Piece, token: str) -> None:
        """Into requests that every endpoint takes."""
        limit = min(e.max_bytes for e in self._delivery.endpoints)
        for part in cut(piece, limit):
            request = self.open.setdefault(token, Request(token))
            if request.events and request.bytes + part.bytes > limit:
                self._delivery.queue.append(request)
                request = self.open[token] = Request(token)
            request.add(part)

    def flush(self) -> None:
        """Nothing more is at hand: what is packed goes as it is."""
        if self._delivery.in_flight and self._delivery.queue:
            return  # there is enough to do: let it grow
        for token, request in list(self.open.items()):
            if request.events:
                self._delivery.queue.append(request)
            del self.open[token]
