"""How commands speak: tables for people, one JSON document for programs, two lines for what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class Failed(Exception):
    """A command cannot do what it was asked; `hint` says what to do next."""

    def __init__(self, message: str, hint: str, code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


def show(document: dict[str, Any], as_json: bool, rows: Sequence[Sequence[Any]] = (), note: str = "") -> None:
    """The document, or its table; the first row is the head."""
    if as_json:
        write_json(document)
    else:
        write_table(rows, note)


def write_json(document: dict[str, Any]) -> None:
    """Exactly one document, with its schema's number."""
    sys.stdout.write(json.dumps({"schema": 1, **document}, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def write_table(rows: Sequence[Sequence[Any]], note: str = "", *, head: bool = True) -> None:
    """By rich on a terminal; plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(rich_table(rows, head=head))
    else:
        write_plain(rows)
    if note:
        sys.stderr.write(note + "\n")


#: Words that carry the meaning of a line; on a terminal that has colours, and NO_COLOR unset.
STYLES = {
    "RUNNING": "bold green", "OK": "green", "STARTING": "bold yellow", "STOPPING": "bold yellow", "DEGRADED": "bold yellow",
    "WARN": "yellow", "PAUSED": "bold red", "STALE": "bold red", "DOWN": "bold red", "FAIL": "bold red", "HOLD": "bold red",
    "running": "green", "backoff": "yellow", "starting": "yellow",
}  # fmt: skip


def rich_table(rows: Sequence[Sequence[Any]], *, head: bool = True) -> Any:
    """Folded where the terminal is narrow; nothing is cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, show_header=head)
    first = max((len(text(row[0])) for row in rows if row), default=0)
    for place, name in enumerate(rows[0] if rows else ()):
        # Names stay whole where they are short: the eye looks for them.
        table.add_column(str(name) if head else "", overflow="fold", min_width=0 if place else min(first, 12))
    for row in rows[1:] if head else rows:
        table.add_row(*(Text(text(cell), style=STYLES.get(str(cell), "")) for cell in row))
    return table


def write_plain(rows: Sequence[Sequence[Any]]) -> None:
    """Columns padded with spaces; nothing is cut."""
    shown = [[text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))] if shown else []
    for row in shown:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    sys.stdout.flush()


def text(cell: Any) -> str:
    """None is a dash; control characters of hostile logs never reach a terminal."""
    shown = "-" if cell is None else str(cell)
    return "".join(c if c.isprintable() else "?" for c in shown)


def size(number: float | None) -> str:
    """Bytes for people."""
    if number is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def span(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"


def complain(error: str, hint: str, code: int, as_json: bool) -> int:
    """Two lines on stderr, and the document on stdout with --json."""
    lines = [line for line in error.split("; ") if line] or [error]
    sys.stderr.write("".join(f"error: {line}\n" for line in lines) + f"hint: {hint or 'see docs/operations.md'}\n")
    if as_json:
        write_json({"error": error, "hint": hint})
    return code


def usage_error(error: Any, as_json: bool) -> int:
    """click's, in our two lines; exit 2."""
    where = error.ctx.command_path if getattr(error, "ctx", None) else "sls-siem"
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    return complain(said, f"`{where} --help` shows how it is used", int(getattr(error, "exit_code", 2)), as_json)


def report_broken_pipe() -> int:
    """The reader of our output has gone: that is no error, and Python must not say so at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def confirm(yes: bool, would: str) -> bool:
    """Destructive commands say what they would do, and want --yes."""
    if not yes:
        sys.stderr.write(f"would {would}; add --yes to do it\n")
    return yes


def limited(rows: Iterable[Any], limit: int | None) -> list[Any]:
    """All, or the first `limit`."""
    found: list[Any] = []
    for row in rows:
        if limit is not None and len(found) >= limit:
            break
        found.append(row)
    return found


@contextlib.contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal's stderr for what takes long; silent elsewhere. The callable adds to what is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
