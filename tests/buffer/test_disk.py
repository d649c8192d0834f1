"""How a body reaches the disk: every byte in order, and the disk at work before the last of them is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer.disk import portions
from tests.buffer.breaking import can_trace

#: Stores 2.5 MiB in seven pieces.
STORE = """
import sys
from buffer.disk import DurableDisk
disk = DurableDisk(sys.argv[1])
disk.store([b"head", b"", b"x" * (1 << 20), b"meta", b"y" * (3 << 19), b"tail"], read=False)
"""


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_portions_hold_all_bytes_in_order(pieces: list[bytes], size: int) -> None:
    made = [b"".join(portion) for portion in portions(pieces, size)]
    assert b"".join(made) == b"".join(pieces)
    assert all(len(one) == size for one in made[:-1])
    assert all(made)


def test_the_disk_begins_while_the_rest_is_written(tmp_path: Path) -> None:
    """strace is the witness: the first MiB is handed over before the second is written, and only then comes the flush."""
    if not can_trace():
        pytest.skip("needs root and strace")
    lane, said = tmp_path / "lane", tmp_path / "strace"
    (lane / "v").mkdir(parents=True)
    calls = "trace=writev,sync_file_range,fsync"
    subprocess.run(["strace", "-o", said, "-e", calls, sys.executable, "-c", STORE, lane], check=True, timeout=120)
    shown = re.findall(r"^(\w+)\(\d+(?:, (\d+), \d+, SYNC_FILE_RANGE_WRITE)?.*= (\d+)$", said.read_text(), re.MULTILINE)
    mib = 1 << 20
    assert shown == [
        ("writev", "", str(mib)), ("sync_file_range", "0", "0"),
        ("writev", "", str(mib)), ("sync_file_range", str(mib), "0"),
        ("writev", "", str((1 << 19) + 12)), ("sync_file_range", str(2 * mib), "0"),
        ("fsync", "", "0"), ("fsync", "", "0"),
    ]  # fmt: skip
    (stored,) = (lane / "v").glob("*.val")
    assert stored.read_bytes() == b"head" + b"x" * mib + b"meta" + b"y" * (3 << 19) + b"tail"
