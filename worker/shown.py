"""What a consumer shows of its shards: gauges and the fact `shards`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from worker.held import HeldShard
from worker.logs import get_logger
from worker.member import Member
from worker.report import Report

log = get_logger()
#: Of a shard's row → metric.
GAUGES = {
    "lag_seconds": "lag_seconds", "newest_seconds": "newest_log_seconds",
    "retention_left_seconds": "retention_left_seconds", "checkpoint_age_seconds": "checkpoint_age_seconds",
}  # fmt: skip


def row(held: HeldShard, retention: float | None, now: float) -> dict[str, Any]:
    """One shard. Lag: the age of the oldest that may not have been pulled."""
    lag = max(0.0, now - held.edge) if held.edge is not None else None
    if held.saved == held.durable:
        held.caught_up = now
    return {
        "source": held.source,
        "shard": held.number,
        "lag_seconds": None if lag is None else round(lag, 1),
        "newest_seconds": None if held.newest is None else round(max(0.0, now - held.newest), 1),
        "retention_left_seconds": None if lag is None or retention is None else round(retention - lag, 1),
        "checkpoint_age_seconds": round(now - held.caught_up, 1),
    }


def alarm(left: float | None, retention: float | None) -> int:
    """0, 1 under a quarter of the retention, 2 under a day (of a retention that is longer than two)."""
    if left is None or retention is None:
        return 0
    if left < 86400 and retention > 2 * 86400:
        return 2
    return 1 if left < retention / 4 else 0


def warn(held: HeldShard, left: float | None, retention: float | None) -> None:
    """Said when it gets worse, not each second."""
    now = alarm(left, retention)
    if now > held.alarm:
        log.error(
            "logs will be lost to retention", source=held.source, shard=held.number,
            retention_left_seconds=left, hint="see what holds reading up, or raise the logstore's retention now",
        )  # fmt: skip
    held.alarm = now


def show(report: Report, child: str, members: Sequence[Member]) -> None:
    """Once a second."""
    now = time.time()
    rows, labels = [], []
    for member in members:
        for held in member.live():
            rows.append(row(held, member.retention, now))
            labels.append(held.labels)
            if held.edge is not None and member.retention is not None:
                warn(held, member.retention - max(0.0, now - held.edge), member.retention)
    for name, metric in GAUGES.items():
        values = [one[name] for one in rows]
        report.set_all(metric, [(of, value) for of, value in zip(labels, values, strict=True) if value is not None])
    report.set("shards_held", len(rows), child=child)
    report.fact("shards", rows)
