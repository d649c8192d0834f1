"""A sender: drains its lanes to Splunk. Reads, decodes, routes, encodes and packs on the main thread; posts in a pool.

A batch is acked when each of its events is accepted, buried or filtered; a kill repeats the few batches that were open.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

from buffer.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolLocked, SpoolUnusable
from buffer.outside import lane_directories
from buffer.reader import LaneReader
from worker.child import ChildContext
from worker.delivery import Delivery
from worker.encode import Encoder
from worker.endpoint import next_opening
from worker.expiry import Expiry
from worker.lanes import LaneWork, serves
from worker.logs import get_logger
from worker.packing import Packing
from worker.process import Stopping, Trimmer, begin, trim_memory
from worker.refusals import Refusals
from worker.report import Report
from worker.resend import Resending
from worker.resting import Resting
from worker.routes import Router
from worker.settle import BatchWork

log = get_logger()
#: Seconds between looks for new lanes; between polls where no bell rang; of patience for what is in flight at a stop.
RESCAN, POLL, STOP_GRACE = 5.0, 1.0, 5.0
#: Batches, and bytes of them, that one read takes from a lane.
READ_BATCHES, READ_BYTES = 64, 8 << 20
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
        router = Router(context.settings.routes, self._settings)
        encoder, to_fallback = Encoder(router), Encoder(router, index=self._settings.fallback_index)
        self._lanes: dict[str, LaneWork] = {}
        refusals = Refusals(self._settings, self._report, self._lanes, to_fallback)
        resting = Resting(self._lanes, self._report)
        self.delivery = Delivery(self._settings, self._report, self._submit, refusals, resting)
        self._packing = Packing(self.delivery, encoder, self._settings.max_bytes_per_second / context.senders)
        self._resending = Resending(self._lanes, self.delivery, encoder, self._report, self._packing.pack)
        self._rescan_at = self._report_at = self._turned_at = 0.0
        self._unopened = 0
        """Lanes that are ours and whose reader's lock, or index, is not to be had just now."""
        self._trimmer = Trimmer()
        self._hurry = False
        """There is more to do at once."""
        self._expiry = Expiry(self._report)

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
        now = self._turned_at = time.monotonic()
        self._context.board.beat(self._context.index)
        self._collect()
        if now >= self._rescan_at:
            self._rescan_at = now + RESCAN
            self._rescan()
        for lane in self._lanes.values():
            self._settle(lane)
            if not self._is_queue_full() and not lane.no_room_until:
                self._resending.send_due(lane)
        self._resending.probe(now)
        self.delivery.resting.tend()
        self._fill(now)
        self._packing.flush()
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
        poller = select.poll()  # select() takes no descriptor over 1023
        for fd in (self._wake_read, *bells):
            poller.register(fd, select.POLLIN)
        with contextlib.suppress(OSError, ValueError):
            for fd, _ in poller.poll(timeout * 1000):
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
            soonest = min(soonest, next_opening(delivery.endpoints, self._turned_at))
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
            self._resending.take_over(lane)

    def _open_lane(self, directory: Path) -> None:
        if not (directory / "cache.db").exists():
            return  # its consumer is just making it
        self._unopened += 1
        try:
            reader = LaneReader.open(directory, self._context.settings.spool, beat=self._beat)
        except SpoolLocked:
            return
        except (SpoolFull, SpoolUnusable) as error:
            log.warning("lane cannot be opened now", lane=directory.name, error=str(error), hint=error.hint)
            return
        self._unopened -= 1
        lane = self._lanes[directory.name] = LaneWork(directory, reader)
        self._resending.take_over(lane)
        lane.recall_caps(self.delivery.endpoints)
        log.debug("lane opened", lane=lane.name)

    def _beat(self) -> None:
        self._context.board.beat(self._context.index)

    # settling

    def _settle(self, lane: LaneWork) -> None:
        """Without room on the disk what Splunk has taken is kept and written down later: ending here would send it all again."""
        now = time.monotonic()
        if now < lane.no_room_until:
            return
        try:
            self._write_down(lane)
        except SpoolFull as error:
            lane.no_room_until = now + POLL
            if self._report.hold("disk", lane.name, str(error), error.hint, next_probe=time.time() + POLL):
                log.error("the spool does not take", lane=lane.name, error=str(error), hint=error.hint)
            return
        if lane.no_room_until:
            lane.no_room_until = 0.0
            self._report.release("disk", lane.name)

    def _write_down(self, lane: LaneWork) -> None:
        done = [work for work in lane.batches.values() if work.done]
        if done:
            self._ack(lane, done)
        self._resending.settle(lane)

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
            [(work.batch, place, why) for work in done for place, why in work.set_aside],
        )
        now = time.time()
        for work in done:
            lane.forget(work)
            arrived = min((p.arrived or p.pulled for p in work.batch.pulls), default=now)
            self._report.observe("arrival_to_accepted_seconds", max(0.0, now - arrived))

    # new batches

    def _fill(self, now: float) -> None:
        """Read on while there is room, a little of each lane in turn."""
        for lane in self._lanes.values():
            if now < lane.empty_until or lane.no_room_until or not self._room(now):
                continue
            # Over all lanes once a second by the supervisor; what this lane has by itself is known at once.
            lane.full = self._context.board.letters_level > 0 or not lane.reader.may_bury()
            if lane.full:
                continue
            if lane.anew:
                batches = lane.reread(lane.anew.pop())
            else:
                room = (self._context.max_in_flight_bytes - self._held_bytes()) / self._packing.growth
                batches = lane.reader.read(lane.after, READ_BATCHES, min(READ_BYTES, int(room)))
                if not batches:
                    lane.empty_until = now + POLL
            for batch in batches:
                lane.after = max(lane.after, batch.id)
                self._packing.take_apart(lane, batch)
                self._beat()
                self.delivery.pump(time.monotonic(), self._limit())
            if any(lane.batches[batch.id].done for batch in batches):
                self._hurry = True  # dropped, parked or set aside to the last event: no answer will wake us

    def _room(self, now: float) -> bool:
        if (
            self._held_bytes() >= self._context.max_in_flight_bytes
            or self.delivery.acks.bytes >= self._settings.max_unacked_bytes
        ):
            return False
        return not self._is_queue_full() and self._packing.may_spend(now)

    def _held_bytes(self) -> int:
        return sum(lane.held_bytes for lane in self._lanes.values())

    def _is_queue_full(self) -> bool:
        return len(self.delivery.queue) > 2 * self._settings.in_flight

    # the end

    def _is_idle(self) -> bool:
        waiting = self._unopened or any(
            lane.batches or lane.letters or lane.anew or not lane.empty_until for lane in self._lanes.values()
        )
        return not waiting and not self.delivery.queue and not self.delivery.in_flight and not self._packing.open

    def _drain(self) -> None:
        """Finish what is in flight, ack what is settled, also where room for that comes late; the rest stays in the spool."""
        deadline = time.monotonic() + STOP_GRACE
        self.delivery.queue.clear()
        self._settle_all()
        while self._has_open_ends() and time.monotonic() < deadline:
            self._beat()
            self._sleep()
            self._collect()
            self.delivery.queue.clear()
            self.delivery.pump(time.monotonic(), 0)
            self._settle_all()
        self._tell()

    def _has_open_ends(self) -> bool:
        has_no_room = any(lane.no_room_until for lane in self._lanes.values())
        return bool(self.delivery.in_flight or self.delivery.acks.count or has_no_room)

    def _settle_all(self) -> None:
        for lane in self._lanes.values():
            self._settle(lane)

    def close(self) -> None:
        """Give everything back; requests still out are abandoned."""
        for lane in self._lanes.values():
            lane.reader.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        os.close(self._wake_read)

    def _tell(self) -> None:
        """Once a second: numbers, holds, learned caps."""
        busy = bool(self._held_bytes() or self.delivery.in_flight)
        if self._trimmer.look(self._context.board.memory_level, busy=busy, now=time.monotonic()):
            trim_memory()
        self._report.set("hec_in_flight", self.delivery.in_flight, child=self._context.name)
        self._report.set("hec_unacked_bytes", self.delivery.acks.bytes, child=self._context.name)
        self._expiry.tell(self.delivery.client.expires)
        self.delivery.refusals.forget_opened()
        self._resending.tell()
        for lane in self._lanes.values():
            if lane.full:
                self._report.hold(
                    "dead", lane.name, "the dead letters' quota is reached", "sls-siem dead ls; replay or purge them"
                )
            else:
                self._report.release("dead", lane.name)
            lane.remember_caps(self.delivery.endpoints)
        self._report.write()
