"""A table on a terminal: as wide as it likes, folded where there is less room, record by record where there is little. Pure.

Nothing is ever cut. The folding is our own: rich's loses characters (15.0: "200,000,000,000" in ten columns loses a 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Columns between two cells; a cell up to here is never folded; one that is folded keeps at least so much.
GAP, RIGID, LEAST = 2, 16, 12
#: Words that carry the meaning of a line; on a terminal that has colours, and NO_COLOR unset.
STYLES = {
    "RUNNING": "bold green", "OK": "green", "STARTING": "bold yellow", "STOPPING": "bold yellow", "DEGRADED": "bold yellow",
    "WARN": "yellow", "PAUSED": "bold red", "STALE": "bold red", "DOWN": "bold red", "FAIL": "bold red", "HOLD": "bold red",
    "running": "green", "backoff": "yellow", "starting": "yellow",
}  # fmt: skip

Line = list[tuple[str, str]]
"""Pieces of text, each with its style."""


def text(cell: Any) -> str:
    """None is a dash; control characters of hostile logs never reach a terminal."""
    shown = "-" if cell is None else str(cell)
    return "".join(c if c.isprintable() else "?" for c in shown)


def columns(shown: str) -> int:
    """What it takes on a terminal: Chinese takes two each."""
    from rich.cells import cell_len

    return cell_len(shown)


def fold(shown: str, width: int) -> list[str]:
    """Into lines of at most `width` columns, between words where that is possible."""
    lines, line = [], ""
    for word in shown.split(" "):
        joined = f"{line} {word}" if line else word
        if columns(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while columns(line) > width:
            end = _fitting(line, width)
            lines.append(line[:end])
            line = line[end:]
    return [*lines, line]


def _fitting(line: str, width: int) -> int:
    """How many characters fit; at least one."""
    taken = 0
    for place, character in enumerate(line):
        taken += columns(character)
        if taken > width:
            return max(1, place)
    return len(line)


def fitted(natural: Sequence[int], width: int) -> list[int] | None:
    """Widths of the columns for a terminal; the widest gives first. None: it is too narrow for a table."""
    found = list(natural)
    over = sum(found) + GAP * (len(found) - 1) - width
    while over > 0:
        widest = max(range(len(found)), key=lambda place: found[place] if natural[place] > RIGID else 0)
        if natural[widest] <= RIGID or found[widest] <= LEAST:
            return None
        found[widest] -= 1
        over -= 1
    return found


def lines(rows: Sequence[Sequence[Any]], width: int, *, head: bool = True) -> list[Line]:
    """The whole table; the first row is the head."""
    shown = [[text(cell) for cell in row] for row in rows]
    if not shown:
        return []
    widths = fitted([max(columns(row[place]) for row in shown) for place in range(len(shown[0]))], width)
    if widths is None:
        return _records(shown, width) if head else _sentences(shown, width)
    found: list[Line] = []
    for number, row in enumerate(shown):
        style = "bold" if head and not number else ""
        folded = [fold(cell, size) for cell, size in zip(row, widths, strict=True)]
        found += [
            [
                (_padded(cell[place] if place < len(cell) else "", size + GAP), style or STYLES.get(whole, ""))
                for cell, size, whole in zip(folded, widths, row, strict=True)
            ]
            for place in range(max(map(len, folded)))
        ]
    return found


def _padded(piece: str, width: int) -> str:
    return piece + " " * (width - columns(piece))


def _records(shown: list[list[str]], width: int) -> list[Line]:
    """A line a cell, with its name in front."""
    found: list[Line] = [[(name, "bold")] for name in fold(", ".join(shown[0]), width)] if len(shown) == 1 else []
    for number, row in enumerate(shown[1:]):
        found += [[]] if number else []
        for name, cell in zip(shown[0], row, strict=True):
            for place, piece in enumerate(fold(f"{name}: {cell}" if name else cell, width)):
                found.append(
                    [(f"{name}:", "bold"), (piece[len(name) + 1 :], STYLES.get(cell, ""))]
                    if name and not place and piece.startswith(f"{name}:")
                    else [(piece, STYLES.get(cell, ""))]
                )
    return found


def _sentences(shown: list[list[str]], width: int) -> list[Line]:
    """The cells of a row one after the other."""
    found: list[Line] = []
    for row in shown:
        for cell in filter(None, row):
            found += [[(piece, STYLES.get(cell, ""))] for piece in fold(cell, width)]
    return found


def rich_text(rows: Sequence[Sequence[Any]], width: int, *, head: bool = True) -> Any:
    """For a rich console."""
    from rich.text import Text

    whole = Text("\n", no_wrap=True, overflow="ignore", end="").join(
        [Text("", end="").append_text(Text.assemble(*line, end="")) for line in _trimmed(lines(rows, width, head=head))]
    )
    whole.end = "\n"
    return whole


def _trimmed(found: list[Line]) -> list[Line]:
    """Without the blanks at the ends of lines."""
    return [[*line[:-1], (line[-1][0].rstrip(), line[-1][1])] if line else [] for line in found]
