"""Dead letters that go out again: what an operator made due, what a hold that has ended released, and one event now and then of
each hold that lasts, to see whether its cause has ended.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping

from buffer.errors import SpoolFull
from buffer.values import DeadLetter
from worker.delivery import Delivery
from worker.encode import Encoder
from worker.holds import Hold
from worker.isolate import SUSPICIONS
from worker.lanes import LaneWork
from worker.logs import get_logger
from worker.pack import Piece, Request
from worker.report import Report
from worker.settle import LetterWork

log = get_logger()
#: Seconds until a hold is looked at again whose events are not written down as waiting yet.
HOLD_LOOK = 0.5
#: Dead letters that are sent again at a time, and bytes of them.
DUE, DUE_BYTES = 5000, 8 << 20


class Resending:
    """Of all lanes of a sender."""

    def __init__(
        self, lanes: Mapping[str, LaneWork], delivery: Delivery, encoder: Encoder, report: Report,
        pack: Callable[[Piece, str], None],
    ) -> None:  # fmt: skip
        self._lanes = lanes
        self._delivery = delivery
        self._holds = delivery.holds
        self._encoder = encoder
        self._report = report
        self._pack = pack

    def take_over(self, lane: LaneWork) -> None:
        """Holds of an earlier run, or ended while events were still being parked for them."""
        for key in lane.reader.parked().keys() - self._holds.active.keys():
            kind, _, name = key.partition(":")
            self._holds.begin(kind, name, time.monotonic(), "refused before", "it is probed")

    def send_due(self, lane: LaneWork) -> None:
        """A file of them is read whole for each time that we ask: so for many at a time, and not again before those are done."""
        if not all(work.probe for work in lane.letters.values()):
            return
        for letter in lane.reader.due(DUE, DUE_BYTES):
            if letter.sls_id not in lane.letters:
                self._post(lane, LetterWork(lane.name, letter))

    def probe(self, now: float) -> None:
        """Of each hold whose time has come, one event that waits for it."""
        for hold in [one for one in self._holds.active.values() if one.may_probe(now)]:
            hold.next_probe = now + HOLD_LOOK
            waiting = self._next_parked(hold)
            if waiting is None:
                if not self._parked_anywhere(hold):
                    self._end(hold)
            elif waiting[1].sls_id not in waiting[0].letters:
                hold.probing = True
                self._post(waiting[0], LetterWork(waiting[0].name, waiting[1], probe=True))

    def _next_parked(self, hold: Hold) -> tuple[LaneWork, DeadLetter] | None:
        """Round and round, oldest first: one that is bad in itself must not keep the others waiting for ever."""
        lane_name, after = hold.probed
        lanes = sorted(self._lanes.values(), key=lambda lane: (lane.name < lane_name, lane.name))
        for lane in [*lanes, *lanes[:1]]:
            letter = lane.reader.oldest_parked(hold.key, after)
            if letter is not None:
                hold.probed = lane.name, letter.sls_id
                return lane, letter
            after = ""
        return None

    def _parked_anywhere(self, hold: Hold) -> bool:
        waiting = any(
            letter.hold == hold.key
            for lane in self._lanes.values()
            for work in lane.batches.values()
            for letter in work.buried
        )
        return waiting or any(hold.key in lane.reader.parked() for lane in self._lanes.values())

    def _post(self, lane: LaneWork, work: LetterWork) -> None:
        lane.letters[work.letter.sls_id] = work
        encoded = self._encoder.encode_letter(work.letter)
        request = Request(encoded.spans[0].token)
        request.add(Piece(work, encoded, 0, 0, 1))
        if work.probe:
            if work.letter.hold.startswith("payload:"):  # known to be refused while others pass: parked again at once
                request.suspicions, request.passed_before = SUSPICIONS, -1
            self._delivery.queue.appendleft(request)
        else:
            self._pack(request.pieces[0], request.token)

    # what became of them

    def settle(self, lane: LaneWork) -> None:
        """Those whose fate is known, in one transaction."""
        fated = [work for work in lane.letters.values() if work.done]
        if not fated:
            return
        now = time.monotonic()
        lane.reader.settle_dead(
            [work.letter for work in fated if work.delivered], [work.refused for work in fated if work.refused]
        )
        for work in fated:
            del lane.letters[work.letter.sls_id]
            if work.probe:
                self._probed(work, now)

    def _probed(self, work: LetterWork, now: float) -> None:
        hold = self._holds.active.get(work.letter.hold)
        if hold is None:
            return
        if work.delivered or (work.refused and work.refused.hold != hold.key):
            self._end(hold)
        else:
            hold.failed(now, random.random())

    def _end(self, hold: Hold) -> None:
        self._holds.end(hold.key)
        for lane in self._lanes.values():
            for work in lane.batches.values():
                work.release(hold.key)
        released = 0
        for lane in self._lanes.values():
            with contextlib.suppress(SpoolFull):  # `take_over` begins the hold anew, and its probe ends it again
                released += lane.reader.release(hold.key)
        self._report.release(hold.kind, hold.name)
        log.info("hold has ended", kind=hold.kind, name=hold.name, events=released)

    def tell(self) -> None:
        """Each hold, with how many events wait for it."""
        for hold in self._holds.active.values():
            events = sum(lane.reader.parked().get(hold.key, 0) for lane in self._lanes.values())
            probe = time.time() + max(0.0, hold.next_probe - time.monotonic())
            self._report.hold(hold.kind, hold.name, hold.error, hold.hint, events=events, next_probe=probe)
