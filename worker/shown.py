"""What a consumer shows of its shards: gauges and the fact `shards`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from worker.member import Member
from worker.reader import Reader
from worker.report import Report


def row(reader: Reader, retention: float | None, now: float) -> dict[str, Any]:
    """One shard. Lag: the age of the oldest that may not have been pulled."""
    lag = max(0.0, now - reader.edge) if reader.edge is not None else None
    if reader.saved == reader.durable:
        reader.caught_up = now
    return {
        "source": reader.member.source.name,
        "shard": reader.number,
        "lag_seconds": None if lag is None else round(lag, 1),
        "retention_left_seconds": None if lag is None or retention is None else round(retention - lag, 1),
        "checkpoint_age_seconds": round(now - reader.caught_up, 1),
    }


def show(report: Report, child: str, members: Iterable[Member]) -> None:
    """Once a second."""
    now = time.time()
    rows = [row(reader, member.retention, now) for member in members for reader in member.live_readers()]
    for name in ("lag_seconds", "retention_left_seconds", "checkpoint_age_seconds"):
        report.forget(name)
        for one in rows:
            if one[name] is not None:
                report.set(name, one[name], source=one["source"], shard=str(one["shard"]))
    report.set("shards_held", len(rows), child=child)
    report.fact("shards", rows)
