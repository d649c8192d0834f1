"""A time range of a source, fetched again into a lane of its own: no positions, no recognition, the same ids.

A sender serves the lane like any other. The consumer group is not touched. What comes is judged as a consumer judges it: a body
that does not verify is asked for again, a passing trouble is waited out.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from buffer import budget, outside
from buffer.errors import SpoolDamaged, SpoolFull
from buffer.settings import SpoolSettings
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter
from worker.backoff import next_wait
from worker.intake import Intake
from worker.putter import need_room
from worker.sls_answer import RawPull
from worker.sls_errors import BadAnswer, InvalidCursor, Revoked, SlsError
from worker.verify import Unverified

#: LogGroups a pull.
COUNT = 1000
#: Seconds for which one pull may go wrong, one try after the other; and for which a full spool may stand still.
PATIENCE = 120.0


def lane_of(spool: Path) -> Path:
    """`lanes/<spool id>-replay`."""
    return spool / "lanes" / f"{(spool / 'id').read_text().strip()}-replay"


def spans(client: Any, since: float, until: float) -> list[tuple[Any, int, int]]:
    """(shard, cursor, cursor behind the last) of what arrived between two Unix times."""
    return [
        (shard, client.get_cursor_at(number, str(int(since))), client.get_cursor_at(number, str(int(until))))
        for number, shard in sorted(client.shards().items())
    ]


def replay(
    settings: SpoolSettings, source: Any, client: Any, wanted: list[tuple[Any, int, int]],
    gone: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[int]:  # fmt: skip
    """Durably spool it; yields LogGroups after each pull. `gone` is told what retention took before its turn came. SlsError,
    SpoolError: no further."""
    writer = LaneWriter.open(lane_of(settings.directory), settings)
    try:
        for shard, begin, end in wanted:
            key = ShardKey(
                source.project, source.logstore, source.consumer_group, source.query, shard.number, shard.created
            )
            # Each run is an epoch of its own, so that nothing counts as a re-pull of an earlier run, whatever the clock was then.
            before = writer.position(key)
            epoch = max(time.time_ns() // 1000, before.epoch + 1 if before else 0)
            intake, at = Intake(key, source.name), begin
            while at < end:
                try:
                    found, pull = fetch(client, intake, shard.number, at, end, epoch)
                except (InvalidCursor, Revoked) as error:
                    left = earliest(client, shard.number, at, end, error)
                    gone(shard.number, left - at)
                    at = left
                    continue
                if pull is not None:
                    need_room(settings)
                    await_budget(settings)
                    writer.put([pull])
                    yield pull.groups
                if found.next <= at:
                    raise BadAnswer(f"shard {shard.number}: SLS has nothing from {at}, and says that it goes to {end}")
                at = found.next
    finally:
        writer.close()


def earliest(client: Any, shard: int, at: int, end: int, error: SlsError) -> int:
    """Where to go on when `at` is refused: what SLS still has of it, `end` where nothing. The error when it has `at`."""
    try:
        begin: int = client.get_cursor_at(shard, "begin")
    except Revoked:
        return end
    if begin <= at:
        raise error
    return min(begin, end)


def await_budget(settings: SpoolSettings) -> None:
    """Until so little waits in the spool that consumers may go on beside us. SpoolFull when nothing of it leaves for long."""
    left, since = -1, time.monotonic()
    while outside.used_bytes(lanes := lane_stats(settings.directory)) > budget.GO * budget.for_batches(settings):
        now = time.monotonic()
        # Not by its size: consumers may fill at once what senders free.
        if (gone := _gone(lanes)) != left:
            left, since = gone, now
        if now - since > PATIENCE:
            raise SpoolFull(
                f"the spool is full ({outside.used_bytes(lanes) >> 20} MiB), and nothing of it was sent for {PATIENCE:.0f} s",
                "what was fetched so far stays; end what holds the draining up (sls-siem status), then fetch the rest",
            )
        time.sleep(0.5)


def _gone(lanes: list[outside.LaneStats]) -> int:
    """LogGroups that have left."""
    books = outside.books(lanes)
    return sum(books[term] for term in ("settled", "set_aside", "purged"))


def lane_stats(spool: Path) -> list[outside.LaneStats]:
    """Of every lane."""
    found = []
    for lane in outside.lane_directories(spool):
        # A damaged one is mended at the next start: ours is a lane that is well.
        with contextlib.suppress(SpoolDamaged):
            found.append(outside.lane_stats(lane))
    return found


def fetch(client: Any, intake: Intake, shard: int, at: int, end: int, epoch: int) -> tuple[RawPull, Pull | None]:
    """One pull that verifies, or that SLS insists on. SlsError when it needs a human, or goes wrong for too long."""
    began = time.monotonic()
    while True:
        try:
            found = client.pull_raw(shard, at, COUNT, end=end)
            return found, intake.accept(found, at, epoch, first=True)
        except Unverified as wrong:
            error: SlsError = BadAnswer(f"shard {shard} from {at}: {wrong}")
        except SlsError as wrong:
            error = wrong
        age = time.monotonic() - began
        if error.lasting or isinstance(error, InvalidCursor | Revoked) or age > PATIENCE:
            raise error
        time.sleep(next_wait(age, random.random()))
