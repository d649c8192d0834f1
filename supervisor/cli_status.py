"""`status`: the live picture, from status.json, so that it works with and without the listener and the supervisor."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import size, span, write_json, write_table

#: Seconds between two pictures of --watch; how many of them its lines remember.
EVERY, REMEMBERED = 2.0, 60


def status(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing, every two seconds; Ctrl-C ends it.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Answer as a Nagios plugin: 0 fine, 1 warning, 2 critical.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """What is going on: state and reason, lag, spool, holds, dead letters, memory, children."""
    from supervisor.config import ConfigError, load
    from supervisor.picture import blocks, nagios

    try:
        directory = load(config, secrets=False).spool.directory
        found = read(directory)
    except (PermissionError, ConfigError) as error:
        if not check:
            raise
        sys.stdout.write(f"SLS-SIEM CRITICAL - {_unseen(error)}\n")
        raise typer.Exit(2) from error
    if check:
        code, line = nagios(found)
        sys.stdout.write(line + "\n")
        raise typer.Exit(code)
    if json:
        write_json({key: value for key, value in found.items() if key != "schema"})
        return
    if watch and sys.stdout.isatty():
        _watch(directory)
        return
    for place, block in enumerate(blocks(found, time.time())):
        sys.stdout.write("\n" if place else "")
        write_table(block.rows, head=block.head)


def _unseen(error: Any) -> str:
    """Why nothing can be said, on one line: a plugin has no other exit code, and nothing but its first line is shown."""
    if isinstance(error, PermissionError):
        return f"{error.filename}: {error.strerror} (run it as root or as the service does)"
    return f"{'; '.join(error.problems)} ({error.hint})".replace("\n", " ")


def read(directory: Path) -> dict[str, Any]:
    """status.json; `stale` when nobody has written it for a while, `down` when there is none."""
    from supervisor.status import is_stale

    path = directory / "run" / "status.json"
    start = "start it: systemctl start sls-siem"
    try:
        found: dict[str, Any] = json_module.loads(path.read_bytes())
    except FileNotFoundError:
        return {"state": "down", "reason": f"no supervisor has run on {directory}; {start}", "time": None}
    except PermissionError:
        raise  # that says nothing of the supervisor
    except (OSError, ValueError) as error:
        return {"state": "down", "reason": f"{path} cannot be read: {error}", "time": None}
    if not isinstance(found, dict) or "state" not in found or "reason" not in found:
        return {"state": "down", "reason": f"{path} is not ours", "time": None}
    if found["state"] != "down" and is_stale(found, time.time()):
        gone = "the supervisor is gone (systemctl status sls-siem); started again, it goes on where it was"
        found["state"], found["reason"] = "stale", f"stale since {found.get('time')}: {gone}"
    return found


def _watch(directory: Path) -> None:
    from rich.console import Console
    from rich.live import Live

    history: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                found = read(directory)
                if "spool" in found and (not history or history[-1]["time"] != found["time"]):
                    history.append(found)
                live.update(_screen(found, list(history), console.width), refresh=True)
                time.sleep(EVERY)
        except KeyboardInterrupt:
            return


def _screen(found: dict[str, Any], history: list[dict[str, Any]], width: int) -> Any:
    """The picture, and behind it how it went in the last minutes."""
    from rich.console import Group

    from supervisor.picture import blocks
    from supervisor.table import rich_text

    parts: list[Any] = []
    shown = blocks(found, time.time())
    for place, block in enumerate(shown):
        if history and place == len(shown) - 2:  # behind the holds: a small screen ends somewhere
            parts += [rich_text(trends(history, width), width, head=False), ""]
        parts += [rich_text(block.rows, width, head=block.head), ""]
    return Group(*parts)


def trends(history: list[dict[str, Any]], width: int = 200) -> list[list[Any]]:
    """A sparkline each, as long as fits on a line, with its last and highest value."""
    from supervisor.picture import all_shards, worst
    from supervisor.table import GAP

    came = [one["rates"]["fetched_bytes_per_second"] for one in history]
    went = [one["rates"]["delivered_events_per_second"] for one in history]
    backlog = [float(max(0, one["spool"]["bytes"] - one["dead_letters"]["bytes"])) for one in history]
    lag = [worst(all_shards(one))[0] or 0.0 for one in history]
    rows = [
        ("read", came, f"{size(came[-1])}/s, at most {size(max(came))}/s"),
        ("delivered", went, f"{went[-1]:,.0f} events/s, at most {max(went):,.0f}"),
        ("backlog", backlog, f"{size(backlog[-1])}, {trend(backlog)}"),
        ("lag", lag, f"{span(lag[-1])}, at most {span(max(lag))}"),
    ]
    room = max(10, width - max(len(name) for name, _, _ in rows) - max(len(said) for _, _, said in rows) - 2 * GAP)
    return [[name, sparkline(values[-room:]), said] for name, values, said in rows]


def sparkline(values: list[float]) -> str:
    """From nothing to the highest."""
    top = max(values, default=0) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(7, max(0, int(8 * value / top)))] for value in values)


def trend(values: list[float]) -> str:
    """Which way it goes, by most of its last steps."""
    steps = [b - a for a, b in pairwise(values[-10:])]
    rising, falling = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
    return "growing" if rising > falling else "shrinking" if falling > rising else "steady"
