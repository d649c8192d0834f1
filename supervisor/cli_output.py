"""How commands speak: tables for people, one JSON document for programs, two lines for what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

#: Rows of a table that stand under each other with the same widths.
TOGETHER = 1000


class Failed(Exception):
    """A command cannot do what it was asked; `hint` says what to do next."""

    def __init__(self, message: str, hint: str, code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


class Cut(Exception):
    """A document was begun on stdout, and the rest of its list cannot be had: `error` says why, and ends it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def show(document: dict[str, Any], as_json: bool, rows: Sequence[Sequence[Any]] = (), note: str = "") -> None:
    """The document, or its table; the first row is the head."""
    if as_json:
        write_json(document)
    elif rows:
        write_table(rows, note)
    elif note:
        sys.stderr.write(note + "\n")


def show_list(
    name: str, found: Iterable[dict[str, Any]], as_json: bool, head: Sequence[str],
    row: Callable[[dict[str, Any]], Sequence[Any]], nothing: str,
) -> None:  # fmt: skip
    """A document of one list, or its table, as it comes: there may be a million of them."""
    items = iter(found)
    first = next(items, None)  # what goes wrong does so mostly before the first, and then nothing is written
    if first is None:
        show({name: []}, as_json, note=nothing)
        return
    items = chain([first], items)
    if as_json:
        sys.stdout.write(f'{{"schema": 1, "{name}": [')
        for place, one in enumerate(_to_its_end(items)):
            sys.stdout.write((", " if place else "") + _json(one))
        sys.stdout.write("]}\n")
        sys.stdout.flush()
        return
    write_table([head, *map(row, islice(items, TOGETHER))])
    while rows := [row(one) for one in islice(items, TOGETHER)]:
        write_table(rows, head=False)


def _to_its_end(items: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from items
    except Exception as error:
        raise Cut(error) from error


def write_json(document: dict[str, Any]) -> None:
    """Exactly one document, with its schema's number."""
    sys.stdout.write(_json({"schema": 1, **document}) + "\n")
    sys.stdout.flush()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def write_table(rows: Sequence[Sequence[Any]], note: str = "", *, head: bool = True) -> None:
    """As wide as the terminal; plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        from supervisor.table import rich_text

        console = Console(highlight=False, soft_wrap=True)
        console.print(rich_text(rows, console.width, head=head))
    else:
        write_plain(rows)
    if note:
        sys.stderr.write(note + "\n")


def write_plain(rows: Sequence[Sequence[Any]]) -> None:
    """Columns padded with spaces; nothing is cut."""
    from supervisor.table import text

    shown = [[text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))] if shown else []
    for row in shown:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    sys.stdout.flush()


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


def complain(error: str, hint: str, code: int, as_json: bool, *, begun: bool = False) -> int:
    """Two lines on stderr, or one more for each further line of the error; and the document on stdout with --json, or the end
    of the one that was begun.
    """
    lines = error.splitlines() or [error]
    sys.stderr.write("".join(f"error: {line}\n" for line in lines) + f"hint: {hint or 'see docs/operations.md'}\n")
    told = {"error": "; ".join(lines), "hint": hint}
    if as_json and begun:
        sys.stdout.write(f"], {_json(told)[1:]}\n")
        sys.stdout.flush()
    elif as_json:
        write_json(told)
    return code


def usage_error(error: Any, as_json: bool) -> int:
    """click's, in our two lines; exit 2."""
    where = error.ctx.command_path if getattr(error, "ctx", None) else "sls-siem"
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{said}\n")
        return int(error.exit_code)
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


class Unreadable:
    """Files of the spool that a command could not read: said at the end, so that nothing goes missing quietly."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, what: str) -> None:
        self.found.append(what)

    def tell(self) -> None:
        """On stderr; silent when all could be read."""
        if self.found:
            sys.stderr.write(f"error: {self._error}\nhint: {self._hint}\n")

    def fail(self) -> None:
        """The command has done what it could, and has failed all the same."""
        if self.found:
            raise Failed(self._error, self._hint)

    @property
    def _error(self) -> str:
        number = len(self.found)
        return f"{number} {'file' if number == 1 else 'files'} of the spool cannot be read: {self.found[0]}"

    _hint = "`sls-siem spool verify` names them; what is in them can be fetched again: `sls-siem replay`"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """For our user alone. A file that could not be written to its end is removed again."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Failed(f"{path} is there already", "name a new file", 74) from error
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}", "check path, owner and permissions", 74) from error
    try:
        with os.fdopen(file, "wb") as out:
            yield out
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Failed(f"{path}: {error.strerror}", "free some space, or name another place", 74) from error
        raise
