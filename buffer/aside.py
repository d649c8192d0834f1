"""What is not as we wrote it is kept in `damaged/`, each file beside a note of what it held, so that it can be fetched again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from buffer import body
from buffer.checks import write_durably


def write_note(
    lane: Path, name: str, why: str, *, batch: int | None = None, pulls: Sequence[Any] = (), letters: Sequence[Any] = ()
) -> None:
    """`damaged/NAME.json`, before NAME is there: source, key, begin, next and groups of each pull, ids of dead letters.

    Raises OSError.
    """
    note = {
        "batch": batch, "file": f"v/{name}", "why": why, "time": time.time(), "pulls": list(pulls), "letters": list(letters),
    }  # fmt: skip
    write_durably(lane / "damaged" / f"{name}.json", orjson.dumps(note).decode())


def note_file(lane: Path, name: str, data: bytes, why: str) -> list[dict[str, Any]]:
    """The note of a file of which nothing else is known than what its header says; that too. Raises OSError."""
    described, head = body.described(data), body.head_in(data)
    pulls = [one for one in described if {"key", "begin", "next"} <= one.keys()]
    letters = [one for one in described if "sls_id" in one]
    batch = head[1] if head and head[0] == body.BATCH else None
    write_note(lane, name, why, batch=batch, pulls=pulls, letters=letters)
    return pulls or letters
