"""The harness's own proof: diskcache as shipped, which must lose what it acknowledged.

python -m tests.buffer.power.control PUTS DIRECTORY MARKS
"""

from __future__ import annotations

import os
import sys

import diskcache

SIZE = 40_000


def body(number: int) -> bytes:
    """Bytes that tell their number."""
    return number.to_bytes(8, "big") * (SIZE // 8)


def main(puts: int, directory: str, marks: str) -> None:
    """Acknowledge each set as diskcache does: when it returns."""
    mark = os.open(marks, os.O_WRONLY)
    cache = diskcache.Cache(directory + "/cache")
    for number in range(puts):
        cache.set(str(number), body(number))
        os.pwrite(mark, f"acked {number}\n".encode(), 0)


def lost(directory: str, marks: list[str]) -> list[str]:
    """The acknowledged numbers that are gone or wrong."""
    acked = [int(m.split()[1]) for m in marks if m.startswith("acked")]
    if not os.path.exists(directory + "/cache"):
        return [str(n) for n in acked]
    try:
        with diskcache.Cache(directory + "/cache") as cache:
            return [str(n) for n in acked if cache.get(str(n)) != body(n)]
    except Exception:  # any way of being unreadable counts
        return [str(n) for n in acked]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
