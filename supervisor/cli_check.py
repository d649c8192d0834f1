"""`check` and `tap`: before anything is sent in earnest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import limited, show, write_json

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def check(
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Settings, disk and memory only.")] = False,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Send no probe event to Splunk.")] = False,
    json: Json = False,
) -> None:
    """Settings, SLS, Splunk, spool and memory, step by step; each failure with its remedy."""
    from supervisor.check import run_checks
    from supervisor.config import load

    steps = run_checks(load(config), offline=offline, probe=not no_probe)
    codes = {step.code for step in steps if step.result == "FAIL"}
    found = [{"name": s.name, "result": s.result, "text": s.text, "remedy": s.remedy or None} for s in steps]
    rows: list[list[Any]] = [["step", "", "", "remedy"], *([s.name, s.result, s.text, s.remedy] for s in steps)]
    show({"ok": not codes, "steps": found}, json, rows)
    raise typer.Exit(next((code for code in (78, 74, 77, 69) if code in codes), 0))


def tap(
    config: Config = None,
    topic: Annotated[str, typer.Option(metavar="GLOB", help="Only topics that match this glob.")] = "*",
    stage: Annotated[
        str, typer.Option(metavar="STAGE", help="raw: as SLS has it; event: as Splunk will get it.")
    ] = "event",
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many.")] = 5,
    json: Json = False,
) -> None:
    """What an event looks like, now: the newest logs of each source, without touching the consumer group."""
    import orjson

    from supervisor.cli_output import Failed
    from supervisor.tap import newest_events

    if stage not in {"raw", "event"}:
        raise Failed(f"no such stage: {stage}", "use --stage raw or --stage event", 2)
    found = limited(newest_events(config, topic, stage), limit)
    if json:
        write_json({"events": found})
        return
    for one in found:
        typer.echo(orjson.dumps(one, option=orjson.OPT_INDENT_2).decode())
