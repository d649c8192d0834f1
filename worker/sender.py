"""A sender: drains its lanes to Splunk. Reads, decodes, routes, encodes and packs on the main thread; posts in a pool.

A batch is acked when each of its events is accepted, buried or filtered; a kill repeats the few batches that were open.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue

from buffer.errors import SpoolDamaged, SpoolError, SpoolLocked, SpoolUnusable
from buffer.outside import lane_directories
from buffer.reader import LaneReader
from buffer.values import Batch, DeadLetter
from worker.child import ChildContext
from worker.decode import Undecodable, open_pull
from worker.delivery import SUSPICIONS, Delivery
from worker.encode import Encoded, Encoder
from worker.endpoint import next_opening
from worker.holds import Hold
from worker.lanes import LaneWork, serves
from worker.logs import get_logger
from worker.pack import Piece, Request, cut
from worker.process import Stopping, Trimmer, begin, trim_memory
from worker.report import Report
from worker.routes import Router
from worker.settle import BatchWork, LetterWork

log = get_logger()
#: Seconds between looks for new lanes; between polls where no bell rang; of patience for what is in flight at a stop.
RESCAN, POLL, STOP_GRACE = 5.0, 1.0, 5.0
#: Batches, and bytes of them, that one read takes from a lane.
READ_BATCHES, READ_BYTES = 64, 8 << 20
#: Seconds until a hold is looked at again whose events are not written down as waiting yet.
HOLD_LOOK = 0.5
#: Dead letters that are sent again at a time.
DUE = 5000
#: Seconds that a certificate has left, from which on it is said.
SOON = 14 * 86400.0
EXIT_IO, EXIT_REBUILD = 74, 65


def main(context: ChildContext) -> int:
    """Run until TERM; the exit code."""
    stopping = begin(context)
    sender = Sender(context, stopping)
    try:
        return sender.run()
    except SpoolDamaged as error:
        log.error("the lane's index is damaged", error=str(error), hint=error.hint)
        return EXIT_REBUILD
    except SpoolError as error:
        log.error("the spool fails", error=str(error), hint=error.hint)
        return EXIT_IO
    finally:
        sender.close()


class Sender:
    """One sender process."""

    def __init__(self, context: ChildContext, stopping: Stopping) -> None:
        self._context = context
        self._settings = context.settings.hec
        self._stopping = stopping
        self._report = Report(context.run_directory / f"{context.name}.json", context.name)
        self._done: SimpleQueue[Future[Callable[[], None]]] = SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._pool = ThreadPoolExecutor(self._settings.in_flight + 2, thread_name_prefix="post")
        self._encoder = Encoder(Router(context.settings.routes, self._settings))
        self.delivery = Delivery(self._settings, self._report, self._submit, self._encoder)
        self._lanes: dict[str, LaneWork] = {}
        self._open: dict[str, Request] = {}
        """Token → the request that is being packed."""
        self._held_bytes = 0
        self._growth = 8.0
        """Bytes held for each that is read: compressed five to one, with the names of the fields written out."""
        self._rescan_at = self._report_at = 0.0
        self._unopened = 0
        """Lanes that are ours and whose reader's lock, or index, is not to be had just now."""
        self._credit = 0.0
        self._credit_at = time.monotonic()
        self._trimmer = Trimmer()
        self._hurry = False
        """There is more to do at once."""
        self._expiry_said: dict[str, tuple[str, float, int]] = {}

    # threads of the pool

    def _submit(self, work: Callable[[], Callable[[], None]]) -> None:
        self._pool.submit(work).add_done_callback(self._came_back)

    def _came_back(self, future: Future[Callable[[], None]]) -> None:
        self._done.put(future)
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b".")

    # the loop

    def run(self) -> int:
        """Signals, what came back, acks, what is due, what is new, sleep."""
        last_look = False
        while not self._stopping.is_set():
            if self._stopping.consumers_done and not last_look:
                last_look = True  # what the last consumer put may lie in a lane that we know as empty, or not at all
                self._rescan_at = 0.0
                for lane in self._lanes.values():
                    lane.empty_until = 0.0
            self._turn()
            if last_look and self._is_idle():
                break
            self._sleep()
        self._drain()
        return 0

    def _turn(self) -> None:
        now = time.monotonic()
        self._context.board.beat(self._context.index)
        self._collect()
        if now >= self._rescan_at:
            self._rescan_at = now + RESCAN
            self._rescan()
        for lane in self._lanes.values():
            self._settle(lane)
            self._send_due(lane)
        self._probe(now)
        self._fill(now)
        self._flush()
        self.delivery.pump(now, self._limit())
        if now >= self._report_at:
            self._report_at = now + 1.0
            self._tell()

    def _limit(self) -> int:
        """Requests in flight; fewer when memory is short."""
        return self._settings.in_flight if self._context.board.memory_level < 1 else 1

    def _sleep(self) -> None:
        bells = {lane.reader.bell(): lane for lane in self._lanes.values()}
        timeout = 0.0 if self._hurry else min(POLL, max(0.0, self._next_event() - time.monotonic()))
        self._hurry = False
        with contextlib.suppress(OSError, ValueError):
            rung, _, _ = select.select([self._wake_read, *bells], [], [], timeout)
            for fd in rung:
                if fd in bells:
                    bells[fd].reader.quiet()
                    bells[fd].empty_until = 0.0
                else:
                    os.read(fd, 4096)

    def _next_event(self) -> float:
        """When there will be something to do although nothing rings."""
        delivery = self.delivery
        soonest = min(time.monotonic() + POLL, delivery.acks.next_poll, delivery.holds.next_probe)
        if delivery.queue and delivery.in_flight < self._limit():
            soonest = min(soonest, next_opening(delivery.endpoints))
        return soonest

    def _collect(self) -> None:
        """A defect in a thread is raised here: swallowed there, its events would be in flight for ever."""
        while True:
            try:
                future = self._done.get_nowait()
            except Empty:
                return
            future.result()()

    # lanes

    def _rescan(self) -> None:
        context = self._context
        spool = context.settings.spool.directory
        self._unopened = 0
        for directory in lane_directories(spool):
            if directory.name not in self._lanes and serves(
                directory.name, context.spool_id, context.slot, context.senders
            ):
                self._open_lane(directory)
        for lane in self._lanes.values():
            self._take_over_holds(lane)

    def _take_over_holds(self, lane: LaneWork) -> None:
        """Of an earlier run, or ended while events were still being parked for it."""
        for key in lane.reader.parked().keys() - self.delivery.holds.active.keys():
            kind, _, name = key.partition(":")
            self.delivery.holds.begin(kind, name, time.monotonic(), "refused before", "it is probed")

    def _open_lane(self, directory: Path) -> None:
        if not (directory / "cache.db").exists():
            return  # its consumer is just making it
        self._unopened += 1
        try:
            reader = LaneReader.open(directory, self._context.settings.spool, beat=self._beat)
        except SpoolLocked:
            return
        except SpoolUnusable as error:
            log.warning("lane cannot be opened now", lane=directory.name, error=str(error), hint=error.hint)
            return
        self._unopened -= 1
        lane = self._lanes[directory.name] = LaneWork(directory, reader)
        self._take_over_holds(lane)
        for endpoint in self.delivery.endpoints:
            if known := reader.recall(f"max_bytes {endpoint.url}"):
                lane.caps[endpoint.url] = known
                endpoint.max_bytes = min(endpoint.max_bytes, int(known))
        log.debug("lane opened", lane=lane.name)

    def _beat(self) -> None:
        self._context.board.beat(self._context.index)

    # settling

    def _settle(self, lane: LaneWork) -> None:
        done = [work for work in lane.batches.values() if work.done]
        if done:
            self._ack(lane, done)
        fated = [work for work in lane.letters.values() if work.done]
        if fated:
            self._settle_letters(lane, fated)

    def _ack(self, lane: LaneWork, done: list[BatchWork]) -> None:
        from buffer.values import Tally

        totals: dict[str, dict[str, int]] = {"decoded": {}, "delivered": {}, "filtered": {}}
        for work in done:
            for name, total in totals.items():
                for route, events in getattr(work, name).items():
                    total[route] = total.get(route, 0) + events
        lane.reader.ack(
            [work.batch for work in done],
            [letter for work in done for letter in work.buried],
            Tally(**totals),
            [one for work in done for one in work.set_aside],
        )
        now = time.time()
        for work in done:
            del lane.batches[work.batch.id]
            self._held_bytes -= work.bytes
            arrived = min((p.arrived or p.pulled for p in work.batch.pulls), default=now)
            self._report.observe("arrival_to_accepted_seconds", max(0.0, now - arrived))

    def _settle_letters(self, lane: LaneWork, fated: list[LetterWork]) -> None:
        now = time.monotonic()
        lane.reader.settle_dead(
            [work.letter for work in fated if work.delivered], [work.refused for work in fated if work.refused]
        )
        for work in fated:
            del lane.letters[work.letter.sls_id]
            if work.probe:
                self._probed(work, now)

    def _probed(self, work: LetterWork, now: float) -> None:
        hold = self.delivery.holds.active.get(work.letter.hold)
        if hold is None:
            return
        if work.delivered or (work.refused and work.refused.hold != hold.key):
            self._end_hold(hold)
        else:
            import random

            hold.failed(now, random.random())

    def _end_hold(self, hold: Hold) -> None:
        self.delivery.holds.end(hold.key)
        for lane in self._lanes.values():
            for work in lane.batches.values():
                work.release(hold.key)
        released = sum(lane.reader.release(hold.key) for lane in self._lanes.values())
        self._report.release(hold.kind, hold.name)
        log.info("hold has ended", kind=hold.kind, name=hold.name, events=released)

    # dead letters that go out again

    def _probe(self, now: float) -> None:
        """Of each hold whose time has come, one event that waits for it."""
        for hold in [one for one in self.delivery.holds.active.values() if one.may_probe(now)]:
            hold.next_probe = now + HOLD_LOOK
            waiting = self._next_parked(hold)
            if waiting is None:
                if not self._parked_anywhere(hold):
                    self._end_hold(hold)
            elif waiting[1].sls_id not in waiting[0].letters:
                hold.probing = True
                self._post_letter(waiting[0], LetterWork(waiting[0].name, waiting[1], probe=True))

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
            for w in lane.batches.values()
            for letter in w.buried
        )
        return waiting or any(hold.key in lane.reader.parked() for lane in self._lanes.values())

    def _send_due(self, lane: LaneWork) -> None:
        """A file of them is read whole for each time that we ask: so for many at a time, and not again before those are done."""
        if not all(work.probe for work in lane.letters.values()) or self._is_queue_full():
            return
        for letter in lane.reader.due(DUE, READ_BYTES):
            if letter.sls_id not in lane.letters:
                self._post_letter(lane, LetterWork(lane.name, letter))

    def _post_letter(self, lane: LaneWork, work: LetterWork) -> None:
        lane.letters[work.letter.sls_id] = work
        encoded = self._encoder.encode_letter(work.letter)
        request = Request(encoded.spans[0].token)
        request.add(Piece(work, encoded, 0, 0, 1))
        if work.probe:
            if work.letter.hold.startswith("payload:"):  # known to be refused while others pass: parked again at once
                request.suspicions, request.passed_before = SUSPICIONS, -1
            self.delivery.queue.appendleft(request)
        else:
            self._pack(request.pieces[0], request.token)

    # new batches

    def _fill(self, now: float) -> None:
        """Read on while there is room, a little of each lane in turn."""
        for lane in self._lanes.values():
            if now < lane.empty_until or not self._room(now):
                continue
            lane.full = not lane.reader.may_bury()
            if lane.full:
                continue
            room = (self._context.max_in_flight_bytes - self._held_bytes) / self._growth
            batches = lane.reader.read(lane.after, READ_BATCHES, min(READ_BYTES, int(room)))
            if not batches:
                lane.empty_until = now + POLL
            for batch in batches:
                lane.after = batch.id
                self._take_apart(lane, batch)
                self._beat()
                self.delivery.pump(time.monotonic(), self._limit())
            if any(lane.batches[batch.id].done for batch in batches):
                self._hurry = True  # dropped, parked or set aside to the last event: no answer will wake us

    def _room(self, now: float) -> bool:
        if (
            self._held_bytes >= self._context.max_in_flight_bytes
            or self.delivery.acks.bytes >= self._settings.max_unacked_bytes
        ):
            return False
        return not self._is_queue_full() and self._may_spend(now)

    def _is_queue_full(self) -> bool:
        return len(self.delivery.queue) > 2 * self._settings.in_flight

    def _may_spend(self, now: float) -> bool:
        """This sender's share of max_bytes_per_second."""
        limit = self._settings.max_bytes_per_second / self._context.senders
        if not limit:
            return True
        self._credit = min(self._credit + (now - self._credit_at) * limit, limit)
        self._credit_at = now
        return self._credit > 0

    def _take_apart(self, lane: LaneWork, batch: Batch) -> None:
        work = lane.batches[batch.id] = BatchWork(lane.name, batch, bytes=batch.bytes)
        for place, pull in enumerate(batch.pulls):
            try:
                encoded = self._encoder.encode(pull, open_pull(pull))
            except Undecodable as error:
                work.set_aside.append((batch, place, str(error)))
                log.error(
                    "body cannot be decoded: set aside", error=str(error), source=pull.source, shard=pull.key.shard,
                    begin=pull.begin, next=pull.next, groups=pull.groups, hint="fetch it again with sls-siem replay",
                )  # fmt: skip
                continue
            self._queue_events(work, place, encoded)
        work.encoded = True
        self._held_bytes += work.bytes
        self._growth += (max(1.0, work.bytes / max(1, batch.bytes)) - self._growth) / 8

    def _queue_events(self, work: BatchWork, place: int, encoded: Encoded) -> None:
        work.bytes += len(encoded.data)
        work.pending += len(encoded)
        self._credit -= len(encoded.data)
        for mine, theirs in ((work.decoded, encoded.decoded), (work.filtered, encoded.filtered)):
            for route, events in theirs.items():
                mine[route] = mine.get(route, 0) + events
        for piece, token, hold in self._pieces(work, place, encoded):
            if hold is None:
                self._pack(piece, token)
            else:
                self.delivery.refusals.park(piece, hold)

    def _pieces(self, work: BatchWork, place: int, encoded: Encoded) -> Iterator[tuple[Piece, str, Hold | None]]:
        """As few pieces as tokens and holds allow: routes and indexes may differ within one."""
        holds = self.delivery.holds
        token = encoded.token()
        if token is not None and not holds.active:
            yield Piece(work, encoded, place, 0, len(encoded)), token, None
            return
        kinds = groupby(encoded.spans, key=lambda span: (span.token, hold.key if (hold := holds.of(span)) else ""))
        for (token, key), spans in kinds:
            first, *rest = spans
            count = sum(span.count for span in rest) + first.count
            yield Piece(work, encoded, place, first.first, count), token, holds.active.get(key)

    # packing

    def _pack(self, piece: Piece, token: str) -> None:
        limit = min(e.max_bytes for e in self.delivery.endpoints)
        for part in cut(piece, limit):
            request = self._open.setdefault(token, Request(token))
            if request.events and request.bytes + part.bytes > limit:
                self.delivery.queue.append(request)
                request = self._open[token] = Request(token)
            request.add(part)

    def _flush(self) -> None:
        """Nothing more is at hand: what is packed goes as it is."""
        if self.delivery.in_flight and self.delivery.queue:
            return  # there is enough to do: let it grow
        for token, request in list(self._open.items()):
            if request.events:
                self.delivery.queue.append(request)
            del self._open[token]

    # the end

    def _is_idle(self) -> bool:
        waiting = self._unopened or any(
            lane.batches or lane.letters or not lane.empty_until for lane in self._lanes.values()
        )
        return not waiting and not self.delivery.queue and not self.delivery.in_flight and not self._open

    def _drain(self) -> None:
        """Finish what is in flight, ack what is settled; the rest stays in the spool."""
        deadline = time.monotonic() + STOP_GRACE
        self.delivery.queue.clear()
        while (self.delivery.in_flight or self.delivery.acks.count) and time.monotonic() < deadline:
            self._beat()
            self._sleep()
            self._collect()
            self.delivery.queue.clear()
            self.delivery.pump(time.monotonic(), 0)
        for lane in self._lanes.values():
            self._settle(lane)
        self._tell()

    def close(self) -> None:
        """Give everything back; requests still out are abandoned."""
        for lane in self._lanes.values():
            lane.reader.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        os.close(self._wake_read)

    def _tell_expiry(self) -> None:
        """Certificates that end soon are said a fortnight ahead, once a day."""
        for name, end in dict(self.delivery.client.expires).items():
            left = end - time.time()
            self._report.set("certificate_left_seconds", round(left), endpoint=name)
            day = (name, end, int(left // 86400))
            if left < SOON and self._expiry_said.get(name) != day:
                self._expiry_said[name] = day
                log.warning(
                    "a certificate ends soon", endpoint=name, days_left=round(left / 86400, 1),
                    hint="renew it: Splunk's, or ours (hec.client_cert) where the endpoint is `client`",
                )  # fmt: skip

    def _tell(self) -> None:
        """Once a second: numbers, holds, learned caps."""
        busy = bool(self._held_bytes or self.delivery.in_flight)
        if self._trimmer.look(self._context.board.memory_level, busy=busy, now=time.monotonic()):
            trim_memory()
        self._report.set("hec_in_flight", self.delivery.in_flight, child=self._context.name)
        self._report.set("hec_unacked_bytes", self.delivery.acks.bytes, child=self._context.name)
        self._tell_expiry()
        self.delivery.refusals.forget_opened()
        for hold in self.delivery.holds.active.values():
            events = sum(lane.reader.parked().get(hold.key, 0) for lane in self._lanes.values())
            probe = time.time() + max(0.0, hold.next_probe - time.monotonic())
            self._report.hold(hold.kind, hold.name, hold.error, hold.hint, events=events, next_probe=probe)
        for lane in self._lanes.values():
            if lane.full:
                self._report.hold(
                    "dead", lane.name, "the dead letters' quota is reached", "sls-siem dead ls; replay or purge them"
                )
            else:
                self._report.release("dead", lane.name)
            for endpoint in self.delivery.endpoints:
                cap = str(endpoint.max_bytes)
                if cap != lane.caps.get(endpoint.url, str(endpoint.most_bytes)):
                    lane.caps[endpoint.url] = cap
                    lane.reader.remember(f"max_bytes {endpoint.url}", cap)
        self._report.write()
