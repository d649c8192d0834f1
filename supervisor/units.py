"""Sizes and durations as people write them in the settings: "10GiB", "90s". Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
DURATIONS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE_KEYS = {"max_bytes", "min_free_bytes", "dead_letter_max_bytes", "budget", "max_request_bytes", "max_unacked_bytes",
              "max_bytes_per_second"}  # fmt: skip
DURATION_KEYS = {"stop_timeout", "heartbeat_interval", "consumer_timeout", "timeout", "connect_timeout", "ack_timeout"}


def convert(tables: dict[str, Any], problems: list[str]) -> None:
    """In place: bytes and seconds; what cannot be read goes into `problems`."""
    for section, table in tables.items():
        for row in table if isinstance(table, list) else [table]:
            for key, value in list(row.items()):
                if key in SIZE_KEYS and isinstance(value, str):
                    row[key] = _measured(value, SIZES, f"{section}.{key}", 'a size such as "10GiB"', problems)
                elif key in DURATION_KEYS and isinstance(value, str):
                    row[key] = _measured(value, DURATIONS, f"{section}.{key}", 'a duration such as "90s"', problems)
                elif isinstance(value, int) and not isinstance(value, bool) and key in DURATION_KEYS:
                    row[key] = float(value)


def is_size(dotted: str) -> bool:
    """`spool.max_bytes`."""
    return dotted.rpartition(".")[2] in SIZE_KEYS


def is_duration(dotted: str) -> bool:
    """`hec.timeout`."""
    return dotted.rpartition(".")[2] in DURATION_KEYS


def _measured(text: str, units: Mapping[str, float], where: str, wanted: str, problems: list[str]) -> float | int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    unit = (found[2].lower() or min(units, key=lambda u: abs(units[u] - 1))) if found else ""
    if not found or unit not in units:
        problems.append(f"{where}: not {wanted}")
        return 1
    value = float(found[1]) * units[unit]
    return int(value) if "b" in units else value
