"""A time range of a source, fetched again into a lane of its own: no positions, no recognition, the same ids.

A sender serves the lane like any other. The consumer group is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buffer.settings import SpoolSettings
from buffer.values import Pull, ShardKey
from buffer.writer import LaneWriter

#: LogGroups a pull.
COUNT = 1000


def lane_of(spool: Path) -> Path:
    """`lanes/<spool id>-replay`."""
    return spool / "lanes" / f"{(spool / 'id').read_text().strip()}-replay"


def spans(client: Any, since: float, until: float) -> list[tuple[Any, int, int]]:
    """(shard, cursor, cursor behind the last) of what arrived between two Unix times."""
    return [
        (shard, client.get_cursor_at(number, str(int(since))), client.get_cursor_at(number, str(int(until))))
        for number, shard in sorted(client.shards().items())
    ]


def replay(settings: SpoolSettings, source: Any, client: Any, wanted: list[tuple[Any, int, int]]) -> Iterator[int]:
    """Durably spool it; yields LogGroups after each pull."""
    writer = LaneWriter.open(lane_of(settings.directory), settings)
    #: Each run is an epoch of its own, so that nothing counts as a re-pull of an earlier run.
    epoch = time.time_ns() // 1000
    try:
        for shard, begin, end in wanted:
            at = begin
            while at < end:
                found = client.pull_raw(shard.number, at, COUNT, end=end)
                if found.groups:
                    writer.put([_pull(source, shard, at, epoch, found)])
                    yield found.groups
                if found.next <= at:
                    break
                at = found.next
    finally:
        writer.close()


def _pull(source: Any, shard: Any, begin: int, epoch: int, found: Any) -> Pull:
    key = ShardKey(source.project, source.logstore, source.consumer_group, source.query, shard.number, shard.created)
    return Pull(
        key=key, epoch=epoch, source=source.name, codec=found.codec, raw_size=found.raw_size, begin=begin,
        next=found.next, groups=found.groups, sparse=bool(source.query) or found.next - begin != found.groups,
        suspect=False, arrived=found.arrived, pulled=time.time(), body=found.body, first=True,
    )  # fmt: skip
