"""Every numbered case has a test that bears its number: 75 of the sender (6A) and 31 of the emulator (6B), 62 rows of verdicts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Of all tests, with their parameters."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/worker", "tests/emulators"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


def numbers(names: list[str], in_function: str, in_parameter: str) -> set[int]:
    """`test_6a_35_43_…` bears two; `[row 35, 502; 6A 15]` too."""
    found: set[int] = set()
    for name in names:
        for run in re.findall(rf"_{in_function}((?:_\d\d)+)(?=_)", name):
            found |= {int(number) for number in run.split("_")[1:]}
        found |= {int(number) for number in re.findall(rf"{in_parameter} (\d\d)", name)}
    return found


def test_every_case_of_the_sender_has_its_test(names: list[str]) -> None:
    assert numbers(names, "6a", "6A") == set(range(1, 76))


def test_every_case_of_the_emulator_has_its_test(names: list[str]) -> None:
    assert numbers(names, "6b", "6B") == set(range(1, 32))


def test_every_row_of_the_verdict_table_has_its_test(names: list[str]) -> None:
    assert numbers(names, "row", "row") == set(range(1, 63))
