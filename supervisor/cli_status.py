"""`status`: the live picture, from status.json, so that it works with and without the listener and the supervisor."""

from __future__ import annotations

import json as json_module
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import size, span, write_json, write_table


def status(
    config: Annotated[Path | None, typer.Option("--config", help="The settings file.", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing, every two seconds.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Answer as a Nagios plugin: 0 fine, 1 warning, 2 critical.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """What is going on: state and reason, lag, spool, holds, dead letters, memory, children."""
    from supervisor.config import load

    directory = load(config).spool.directory
    found = read(directory)
    if check:
        raise typer.Exit(nagios(found))
    if json:
        write_json({key: value for key, value in found.items() if key != "schema"})
        return
    if watch and sys.stdout.isatty():
        _watch(directory)
        return
    for rows in tables(found):
        write_table(rows)
        sys.stdout.write("\n")


def read(directory: Path) -> dict[str, Any]:
    """status.json; `stale` when nobody has written it for a while, `down` when there is none."""
    from supervisor.status import is_stale

    try:
        found: dict[str, Any] = json_module.loads((directory / "run" / "status.json").read_bytes())
    except FileNotFoundError:
        return {"state": "down", "reason": f"no supervisor has run on {directory}", "time": None}
    except (OSError, ValueError) as error:
        return {"state": "down", "reason": f"status.json cannot be read: {error}", "time": None}
    if found.get("state") != "down" and is_stale(found, time.time()):
        found["state"], found["reason"] = "stale", f"stale since {found.get('time')}: the supervisor is gone"
    return found


def nagios(found: dict[str, Any]) -> int:
    """One line, and 0, 1 or 2."""
    state = found["state"]
    code = {"running": 0, "starting": 1, "stopping": 1, "degraded": 1, "paused": 1}.get(state, 2)
    if any(hold["kind"] in {"token", "source", "disk"} for hold in found.get("holds", [])):
        code = max(code, 2)
    word = ("OK", "WARNING", "CRITICAL")[code]
    sys.stdout.write(f"SLS-SIEM {word} - {state}: {found['reason']}\n")
    return code


def tables(found: dict[str, Any]) -> list[list[list[Any]]]:
    """What people see, most important first."""
    head: list[list[Any]] = [["sls-siem", found["state"].upper(), found["reason"]]]
    if "spool" not in found:
        return [head]
    spool, memory, letters = found["spool"], found["memory"], found["dead_letters"]
    shards = [shard for source in found["sources"] for shard in source["shards"]]
    lag = max((s["lag_seconds"] or 0 for s in shards), default=None)
    left = min(
        (s["retention_left_seconds"] for s in shards if s.get("retention_left_seconds") is not None), default=None
    )
    reasons = ", ".join(f"{reason}: {n}" for reason, n in letters["reasons"].items())
    waiting = f"{spool['batches']} batches, oldest {span(spool['oldest_seconds'])}"
    waiting += f", full in {span(spool['full_in_seconds'])}, live again in {span(spool['drained_in_seconds'])}"
    head += [
        ["SLS", f"lag {span(lag)}", f"{len(shards)} shards held, retention left {span(left)}"],
        ["spool", size(spool["bytes"]), waiting],
        ["dead letters", letters["count"], reasons or "-"],
        ["memory", size(memory["used"]), f"of {size(memory['budget'])}, level {memory['level']}"],
    ]  # fmt: skip
    made = [head]
    if found["holds"]:
        rows = [["hold", "name", "waits", "why", "what to do"]]
        rows += [[h["kind"], h["name"], h["events"], h["error"], h["hint"]] for h in found["holds"]]
        made.append(rows)
    rows = [["child", "state", "pid", "memory", "beat", "restarts"]]
    rows += [
        [c["name"], c["state"], c["pid"], size(c["rss"]), span(c["beat_age"]), c["restarts"]] for c in found["children"]
    ]
    return [*made, rows]


def _watch(directory: Path) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

    history: list[float] = []
    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            found = read(directory)
            delivered = float(found.get("spool", {}).get("books", {}).get("delivered", 0))
            history = [*history[-59:], delivered]
            parts: list[Any] = []
            for rows in tables(found):
                table = Table(box=None, show_header=False)
                for row in rows:
                    table.add_row(*(str(cell) if cell is not None else "-" for cell in row))
                parts.append(table)
            parts.append(f"delivered  {sparkline(history)}  {rate(history):,.0f} events/s")
            live.update(Group(*parts), refresh=True)
            time.sleep(2)


def rate(history: list[float]) -> float:
    """Events a second over the last samples, two seconds apart."""
    return max(0.0, (history[-1] - history[-2]) / 2) if len(history) > 1 else 0.0


def sparkline(history: list[float]) -> str:
    """The growth of each step."""
    steps = [max(0.0, b - a) for a, b in pairwise(history)]
    top = max(steps, default=0) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * step / top))] for step in steps)
