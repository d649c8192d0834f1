"""Requests that only wait for an acknowledgement keep which events of which batches they are, and no bytes. What must be sent
again is read from its lane once more and encoded anew: the same settings give the same bytes, and a child's never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from buffer.values import Batch
from worker.decode import Undecodable, open_pull
from worker.lanes import LaneWork
from worker.logs import get_logger
from worker.pack import Piece, Request
from worker.report import Report
from worker.settle import BatchWork, Part

log = get_logger()


class Changed(Exception):
    """A batch is not what it was when it was first taken apart."""


class Resting:
    """Of one sender. A batch is let go once all that is pending of it rests, and loaded when the first of it wakes."""

    def __init__(self, lanes: Mapping[str, LaneWork], report: Report) -> None:
        self._lanes = lanes
        self._report = report
        self._loaded: dict[int, BatchWork] = {}
        """By identity: those of which something rests or did."""

    def rest(self, request: Request) -> None:
        """Its bytes are not needed until it wakes."""
        if request.rests or request.gone:
            return
        request.rests = True
        for piece, work in _of_batches(request):
            work.resting += piece.count
            self._loaded[id(work)] = work

    def ends(self, request: Request) -> None:
        """It rests no more: it wakes, or its acknowledgement has come."""
        for piece, work in _of_batches(request) if request.rests else ():
            work.resting -= piece.count
        request.rests = False

    def tend(self) -> None:
        """Let go what may be."""
        for work in list(self._loaded.values()):
            if work.rests and not work.is_lost:
                self._lanes[work.lane].hold(work, work.let_go())
            if work.is_bare or work.is_lost or not work.resting:
                del self._loaded[id(work)]

    def wake(self, request: Request) -> Request | None:
        """With its bytes, to be sent; without what was lost meanwhile; None where nothing is left."""
        if not request.rests:
            return request
        self.ends(request)
        for piece, work in _of_batches(request):
            if not work.is_lost:
                self._load(piece, work)
        left = [piece for piece in request.pieces if not (isinstance(piece.work, BatchWork) and piece.work.is_lost)]
        if len(left) == len(request.pieces):
            return request
        request.gone = True
        made = request.like()
        for piece in left:
            made.add(piece)
        return made if left else None

    def _load(self, piece: Piece, work: BatchWork) -> None:
        lane = self._lanes[work.lane]
        if work.is_bare:
            found = lane.reread(work.batch.id)
            if not found:
                self._lose(work)  # the lane has set it aside, counted and said it
                return
            self._dress(lane, work, found[0])
        part = work.part_of(piece.source, piece.encoded)
        if not part.is_loaded:
            try:
                self._encode(lane, work, part, piece.source)
            except (Undecodable, Changed) as error:
                self._begin_anew(lane, work, str(error))

    def _dress(self, lane: LaneWork, work: BatchWork, batch: Batch) -> None:
        work.batch, work.is_bare = batch, False
        lane.hold(work, work.bytes + batch.bytes)
        self._loaded[id(work)] = work

    def _encode(self, lane: LaneWork, work: BatchWork, part: Part, place: int) -> None:
        pull = work.batch.pulls[place]
        encoded = part.encoder.encode(pull, open_pull(pull))
        if (len(encoded), len(encoded.data)) != (part.events, part.bytes):
            raise Changed(f"{len(encoded)} events of {len(encoded.data)} bytes, {part.events} of {part.bytes} before")
        part.encoded.become(encoded)
        lane.hold(work, work.bytes + part.bytes)

    def _begin_anew(self, lane: LaneWork, work: BatchWork, why: str) -> None:
        """All of it goes out once more, as after a restart: which events wait cannot be told any more."""
        self._report.add("hec_possible_duplicates_total", sum(part.events for part in work.parts.values()))
        lane.anew.append(work.batch.id)
        log.error(
            "a batch is not what it was: sent again whole", lane=lane.name, batch=work.batch.id, error=why,
            hint="a defect, or memory that forgets: report it",
        )  # fmt: skip
        self._lose(work)

    def _lose(self, work: BatchWork) -> None:
        work.is_lost = True
        self._lanes[work.lane].forget(work)


def _of_batches(request: Request) -> Iterator[tuple[Piece, BatchWork]]:
    """Dead letters that are sent again carry their log."""
    for piece in request.pieces:
        if isinstance(piece.work, BatchWork):
            yield piece, piece.work
