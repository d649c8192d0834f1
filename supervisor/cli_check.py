"""`check` and `tap`: before anything is sent in earnest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supervisor.cli_output import limited, write_json

if TYPE_CHECKING:
    from supervisor.check_step import Step

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def check(
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Settings, disk and memory only.")] = False,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Send no probe event to Splunk.")] = False,
    json: Json = False,
) -> None:
    """Settings, SLS, Splunk, spool and memory, step by step; each failure with its remedy."""
    from supervisor.check import run_checks, settings_steps
    from supervisor.config import ConfigError, load

    found: list[Step] = []
    try:
        steps: Iterable[Step] = run_checks(load(config), offline=offline, probe=not no_probe)
    except ConfigError as error:
        steps = settings_steps(error.problems)
    for step in steps:
        found.append(step)
        if not json:
            tell(step)
    codes = {step.code for step in found if step.result == "FAIL"}
    if json:
        shown = [{"name": s.name, "result": s.result, "text": s.text, "remedy": s.remedy or None} for s in found]
        write_json({"ok": not codes, "steps": shown})
    raise typer.Exit(next((code for code in (78, 74, 77, 69) if code in codes), 0))


def tell(step: Step) -> None:
    """At once: a name server may take long to say that it does not know."""
    from supervisor.table import text

    result = f"{step.result:<4}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        colour = {"OK": 32, "WARN": 33}.get(step.result, 31)
        result = f"\x1b[{colour}m{result}\x1b[0m"
    sys.stdout.write(f"{result}  {text(step.name)}: {text(step.text)}\n")
    if step.remedy:
        sys.stdout.write(f"      do: {text(step.remedy)}\n")
    sys.stdout.flush()


def tap(
    config: Config = None,
    topic: Annotated[str, typer.Option(metavar="GLOB", help="Only topics that match this glob.")] = "*",
    stage: Annotated[
        str, typer.Option(metavar="STAGE", help="raw: as SLS has it; event: as Splunk will get it.")
    ] = "event",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 5,
    json: Json = False,
) -> None:
    """What an event looks like, now: the newest logs of each source, without touching the consumer group."""
    import orjson

    from supervisor.cli_output import Failed
    from supervisor.cli_sls import Refused
    from supervisor.tap import newest_events

    if stage not in {"raw", "event"}:
        raise Failed(f"no such stage: {stage}", "use --stage raw or --stage event", 2)
    refused = Refused()
    found = limited(newest_events(config, topic, stage, refused), limit)
    refused.unless(found)
    if json:
        write_json({"events": found} | refused.document())
    else:
        for one in found:
            typer.echo(orjson.dumps(one, option=orjson.OPT_INDENT_2).decode())
    refused.tell()
