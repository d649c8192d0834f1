"""One line of `check`'s report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """OK, WARN or FAIL, with the remedy."""

    name: str
    result: str
    text: str
    remedy: str = ""
    code: int = 0
    """The exit code of a FAIL."""
