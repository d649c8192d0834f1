"""Events that Splunk refuses, or that wait for a remedy: who is at fault, and where each goes.

Only the verdict on a single event, sent alone, buries it. What only some events suffer from (an index, a route's own
token, a route, a firewall that dislikes certain bytes) parks them, so that the others flow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from buffer.values import DeadLetter
from worker.decode import open_pull
from worker.encode import Encoder, Span
from worker.holds import Hold, Holds, Storm
from worker.lanes import LaneWork
from worker.letter import Opened, letter_of
from worker.logs import get_logger
from worker.pack import Piece, Request
from worker.report import Report
from worker.settings import HecSettings
from worker.settle import LetterWork, Part
from worker.tokens import mask
from worker.verdict import Act, Verdict

log = get_logger()
#: Seconds for which events go to the fallback index unasked, after Splunk refused theirs.
FALLBACK_FOR = 60.0
INDEX_HINT = "add the index to the token's allowed indexes, or change the route, then `systemctl reload sls-siem`"
ROUTE_HINT = "see `sls-siem dead ls` for Splunk's reason; mend the route, then `systemctl reload sls-siem`"
PAYLOAD_HINT = (
    "others pass: a firewall dislikes these very bytes, or they crash an indexer; see `sls-siem dead ls`, let them pass"
)


class Refusals:
    """Holds that park, storms, and the way to the dead letters."""

    def __init__(
        self, settings: HecSettings, report: Report, lanes: Mapping[str, LaneWork], to_fallback: Encoder
    ) -> None:
        self._settings = settings
        self._report = report
        self._lanes = lanes
        self._to_fallback = to_fallback
        self.holds = Holds()
        self._storms: dict[str, Storm] = {}
        self._wrong: dict[str, float] = {}
        """Index → until when its events go to the fallback index unasked (monotonic)."""
        self._opened: Opened | None = None

    def refused(self, piece: Piece, verdict: Verdict) -> list[Request]:
        """A single event, alone. What to send instead."""
        span = piece.encoded.span(piece.first)
        if verdict.code == 7:
            return self._wrong_index(piece, span.index, verdict)
        self._judge_alone(piece, span.route, verdict)
        return []

    def _judge_alone(self, piece: Piece, route: str, verdict: Verdict) -> None:
        """Its own fault, unless there is a storm of them on its route, or was one before a restart."""
        storm = self._storms.setdefault(route, Storm())
        if storm.refuse() or f"route:{route}" in self.holds.active:
            self._bury(piece, verdict, "parked", self._begin("route", route, verdict, ROUTE_HINT))
        else:
            self._bury(piece, verdict, "dead", None)

    def accepted(self, request: Request) -> None:
        """For the storms: its events are well formed, whether they are acknowledged or not."""
        for piece in request.pieces if self._storms else ():
            for span in piece.encoded.spans_of(piece.first, piece.count):
                if span.route in self._storms:
                    self._storms[span.route].accepted(min(span.count, piece.count))

    def _wrong_index(self, piece: Piece, index: str, verdict: Verdict) -> list[Request]:
        settings = self._settings
        if settings.on_incorrect_index == "fallback" and index != settings.fallback_index:
            if index not in self._wrong:
                log.error("index refused: the fallback takes its events", index=index, fallback=settings.fallback_index,
                          hint=INDEX_HINT)  # fmt: skip
            self._wrong[index] = time.monotonic() + FALLBACK_FOR
            made = Request(piece.encoded.span(piece.first).token)
            made.add(self._redirected(piece))
            return [made]
        if settings.on_incorrect_index == "dead-letter":
            self._judge_alone(piece, piece.encoded.span(piece.first).route, verdict)
        else:  # the fallback may be refused too
            self._bury(piece, verdict, "parked", self._begin("index", index, verdict, INDEX_HINT))
        return []

    def _redirected(self, piece: Piece) -> Piece:
        """The same events for the fallback index. Their pull is encoded once more as if all of it went there, so that what
        stands where stays the same, and what rests can be made anew.
        """
        work = piece.work
        if isinstance(work, LetterWork):
            return Piece(work, self._to_fallback.encode_letter(work.letter), piece.source, 0, 1)
        part = work.redirected.get(piece.source)
        if part is None or not part.is_loaded:
            pull = work.batch.pulls[piece.source]
            encoded = self._to_fallback.encode(pull, open_pull(pull))
            made = Part(encoded, self._to_fallback, len(encoded), len(encoded.data))
            part = work.redirected.setdefault(piece.source, made)
            part.encoded.become(encoded)
            self._lanes[work.lane].hold(work, work.bytes + part.bytes)
        return Piece(work, part.encoded, piece.source, piece.first, piece.count)

    # what is known to be refused is not sent

    def sift(self, request: Request) -> Request | None:
        """What of it may be sent; the rest is parked, or meant for the fallback index now."""
        if not (self.holds.active or self._wrong):
            return request
        kept = request.like()
        changed = False
        for piece in request.pieces:
            for fate, part in self._fates(piece):
                changed = changed or fate is not None
                if fate is None:
                    kept.add(part)
                elif isinstance(fate, Hold):
                    self.park(part, fate)
                else:
                    kept.add(self._redirected(part))
        if not changed:
            return request
        request.gone = True
        return kept if kept.events else None

    def _fates(self, piece: Piece) -> Iterator[tuple[Hold | str | None, Piece]]:
        if isinstance(piece.work, LetterWork) and piece.work.probe:
            yield None, piece
            return
        stop = piece.first + piece.count
        for _, spans in groupby(piece.encoded.spans_of(piece.first, piece.count), key=self._fate_key):
            together = list(spans)
            first = max(together[0].first, piece.first)
            last = min(together[-1].first + together[-1].count, stop)
            yield self._fate(together[0]), piece.cut(first - piece.first, last - first)

    def _fate(self, span: Span) -> Hold | str | None:
        until = self._wrong.get(span.index)
        if until is not None and time.monotonic() > until:
            del self._wrong[span.index]  # asked again: it may be allowed by now
            until = None
        if until is None:
            return self.holds.of(span)
        return self.holds.of(span) or self.holds.active.get(f"index:{self._settings.fallback_index}") or span.index

    def _fate_key(self, span: Span) -> str:
        fate = self._fate(span)
        return fate.key if isinstance(fate, Hold) else f"fallback {fate}" if fate is not None else ""

    def park(self, piece: Piece, hold: Hold) -> None:
        """They wait for the hold to end, without being sent."""
        self._bury(piece, Verdict(Act.HOLD, 0, -1, hold.error), "parked", hold)

    def hold_token(self, request: Request, verdict: Verdict) -> None:
        """A route's own token is refused: its events are parked, the others flow."""
        hold = self._begin("token", mask(request.token), verdict, verdict.hint)
        for piece in request.pieces:
            self._bury(piece, verdict, "parked", hold)

    def hold_payload(self, request: Request, verdict: Verdict) -> None:
        """A single event that is refused wherever it goes, while others pass."""
        for piece in request.pieces:
            hold = self._begin("payload", piece.encoded.span(piece.first).route, verdict, PAYLOAD_HINT)
            self._bury(piece, verdict, "parked", hold)

    def _begin(self, kind: str, name: str, verdict: Verdict, hint: str) -> Hold:
        error = f"{verdict.status}/{verdict.code}: {verdict.why}" if verdict.status else verdict.why
        is_new = f"{kind}:{name}" not in self.holds.active
        hold = self.holds.begin(kind, name, time.monotonic(), error, hint)
        if is_new:
            log.error("hold", kind=kind, name=name, error=error, hint=hint)
        return hold

    # the dead letters

    def _bury(self, piece: Piece, verdict: Verdict, state: str, hold: Hold | None) -> None:
        work, key = piece.work, hold.key if hold else ""
        if isinstance(work, LetterWork):
            work.bury(again(work.letter, verdict, state, key))
            return
        for event, letter in enumerate(self._letters(piece, verdict, state, key), piece.first):
            work.bury(letter, piece.encoded.span(event).route)
        if state == "dead":
            log.error(
                "event refused for good: dead letter", code=verdict.code, error=verdict.why, hint="sls-siem dead ls"
            )

    def _letters(self, piece: Piece, verdict: Verdict, state: str, hold: str) -> Iterator[DeadLetter]:
        if isinstance(piece.work, LetterWork):
            return
        pull = piece.work.batch.pulls[piece.source]
        if self._opened is None or self._opened.pull is not pull:
            self._opened = Opened(pull, open_pull(pull))
        now = time.time()
        for event in range(piece.first, piece.first + piece.count):
            yield letter_of(
                self._opened, piece.encoded, event, status=verdict.status, code=verdict.code, why=verdict.why, state=state,
                hold=hold, now=now,
            )  # fmt: skip

    def forget_opened(self) -> None:
        """Nothing more of that pull is to be buried for now."""
        self._opened = None


def again(letter: DeadLetter, verdict: Verdict, state: str, hold: str) -> DeadLetter:
    """A dead letter after one try more."""
    return replace(
        letter, state=state, hold=hold, tries=letter.tries + 1, status=verdict.status, code=verdict.code,
        text=verdict.why[:500], time=time.time(),
    )  # fmt: skip
