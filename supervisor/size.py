"""What so many logs a day need. Pure; the ratios were measured, docs/performance.md has them."""

from __future__ import annotations

import math
import re

#: Raw to wire and disk at zstd's ratio; peak to mean; MB/s that a shard takes; raw MB per CPU-second of the whole way, under a
#: third of what was measured: TLS, many small sources, and a backlog that is to be drained beside what comes.
RATIO, PEAK, SHARD_WRITE, RAW_PER_CPU_SECOND = 5.0, 2.0, 5e6, 50e6
_SIZES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_DURATIONS: dict[str, float] = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> float:
    """1TB, 500GiB → bytes."""
    return _parse(text, _SIZES)


def parse_duration(text: str) -> float:
    """24h, 90m → seconds."""
    return _parse(text, _DURATIONS)


def _parse(text: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)", text.strip())
    if not found or found[2].lower() not in units:
        raise ValueError(f"cannot read {text!r}")
    return float(found[1]) * units[found[2].lower()]


def reckon(bytes_per_day: float, outage_seconds: float) -> dict[str, float]:
    """At twice the mean on the wire, and the mean over the outage on disk."""
    mean = bytes_per_day / 86400
    return {
        "mbit_per_second": round(mean * PEAK / RATIO * 8 / 1e6, 1),
        "shards": max(1, math.ceil(mean * PEAK / SHARD_WRITE)),
        "disk_bytes": math.ceil(mean / RATIO * outage_seconds),
        "disk_bytes_per_second": math.ceil(mean * PEAK / RATIO),
        "cores": round(mean * PEAK / RAW_PER_CPU_SECOND, 2),
    }


def spool_gib(disk_bytes: float) -> int:
    """What to set: pulling stops at 95 %, and a GiB is kept for dead letters."""
    return math.ceil(disk_bytes / 0.95 / 2**30) + 1
