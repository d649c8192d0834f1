"""`spool stats` in words: what waits, and the books. Pure."""

from __future__ import annotations

from typing import Any

from supervisor.cli_output import size
from supervisor.picture import waiting


def balance(found: dict[str, Any], dead_bytes: int, *, live: bool) -> list[list[Any]]:
    """What waits and how it goes on, and the books: what came is what went, waits, or was taken out."""
    books = found["books"]
    dead = sum(lane["dead"] + lane["parked"] for lane in found["lanes"])
    later = f"{books['delivered_later']:,} delivered later, {books['dead_purged']:,} purged"
    return [
        ["spool", size(max(0, found["bytes"] - dead_bytes)), "; ".join(waiting(found, live=live))],
        ["LogGroups", f"{books['put']:,} put", total(books, "settled", "waiting", "set_aside", "purged")],
        ["events", f"{books['decoded']:,} decoded", total(books, "delivered", "filtered", "buried")],
        ["dead letters", f"{dead:,} now", f"{size(dead_bytes)}; {later}"],
    ]


def total(books: dict[str, int], *terms: str) -> str:
    """The right side of an equation."""
    return "= " + " + ".join(f"{books[term]:,} {term.replace('_', ' ')}" for term in terms)
