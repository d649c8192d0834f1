"""The command line. Nothing heavy is imported before a command needs it: `--help` answers at once.

stdout is data, stderr is talk. Errors are two lines, `error:` and `hint:`; with --json also a document on stdout.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli_check import check, tap
from supervisor.cli_config import app as config_app
from supervisor.cli_dead import app as dead_app
from supervisor.cli_group import app as group_app
from supervisor.cli_output import Cut, Failed, complain, report_broken_pipe, usage_error
from supervisor.cli_sls import lag, replay
from supervisor.cli_spool import app as spool_app
from supervisor.cli_status import status

app = typer.Typer(
    name="sls-siem", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Forwards Alibaba Cloud Log Service (SLS) logs to Splunk, unattended, and loses none.",
    context_settings={"max_content_width": 160},
)  # fmt: skip
app.add_typer(spool_app, name="spool", help="The backlog: what waits on disk.")
app.add_typer(dead_app, name="dead", help="The dead letters: what Splunk refused for good.")
app.add_typer(config_app, name="config", help="The settings.")
app.add_typer(group_app, name="group", help="Consumer groups of the logstores.")
app.command()(check)
app.command()(status)
app.command()(lag)
app.command()(tap)
app.command()(replay)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False)
]


@app.command()
def supervise(
    config: ConfigOption = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Consumer processes.", show_default=False)] = None,
    senders: Annotated[int | None, typer.Option(metavar="N", help="Sender processes.", show_default=False)] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that was there is delivered.")] = False,
) -> None:
    """The main job, in the foreground: read SLS, spool, deliver to Splunk, keep everyone alive."""
    from supervisor.config import load, reloader
    from supervisor.run import run as run_supervisor

    command_line = {"supervisor.workers": workers, "supervisor.senders": senders}
    settings = load(config, command_line)
    raise typer.Exit(run_supervisor(settings, reloader(config, command_line), once=once))


Slot = Annotated[int, typer.Option(min=0, help="Which of them: consumer-0, sender-0, …")]
Once = Annotated[bool, typer.Option("--once", help="End when all that was there is read, or sent.")]


@app.command(hidden=True)
def consume(config: ConfigOption = None, slot: Slot = 0, once: Once = False) -> None:
    """One consumer alone, in this process, for a debugger."""
    _run_one(config, "consumer", slot, once)


@app.command(hidden=True)
def send(config: ConfigOption = None, slot: Slot = 0, once: Once = False) -> None:
    """One sender alone, in this process, for a debugger."""
    _run_one(config, "sender", slot, once)


def _run_one(config: Path | None, kind: str, slot: int, once: bool) -> None:
    from supervisor.config import load
    from supervisor.single import run_one

    settings = load(config)
    count = settings.supervisor.workers if kind == "consumer" else settings.supervisor.senders
    if slot >= count:
        raise Failed(f"there is no {kind}-{slot}", f"the settings have {count}: --slot 0 to {count - 1}", 2)
    raise typer.Exit(run_one(settings, kind, slot, once=once))


@app.command()
def size(
    per_day: Annotated[str, typer.Option(metavar="SIZE", help="Raw logs a day, such as 1TB.")] = "1TB",
    outage: Annotated[
        str, typer.Option(metavar="TIME", help="The longest Splunk outage to outlast, such as 24h.")
    ] = "24h",
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Bandwidth, shards, disk and CPU that so many logs a day need."""
    from supervisor.cli_output import show
    from supervisor.cli_output import size as people
    from supervisor.size import parse_duration, parse_size, reckon, spool_gib

    try:
        needed = reckon(parse_size(per_day), parse_duration(outage))
    except ValueError as error:
        raise Failed(str(error), "sizes are written 1TB or 500GiB, durations 24h or 90m", 2) from error
    rows = [
        ["what", "needed", "for"],
        ["bandwidth", f"{needed['mbit_per_second']:,} Mbit/s", "twice the mean, 5:1 compressed"],
        ["shards", f"{needed['shards']:,}", "5 MB/s written to each, at twice the mean"],
        [
            "disk",
            people(needed["disk_bytes"]),
            f'an outage of {outage}: spool.max_bytes = "{spool_gib(needed["disk_bytes"])}GiB"',
        ],
        ["disk rate", f"{people(needed['disk_bytes_per_second'])}/s", "twice the mean, durably written"],
        ["cores", f"{needed['cores']:,}", "twice the mean, and as much again for a backlog"],
    ]
    show(needed, json, rows)


@app.command()
def version(json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Version, encoder, SQLite and its journal mode."""
    import sqlite3
    from importlib.metadata import version as installed

    from buffer.database import journal_mode
    from supervisor.cli_output import show
    from worker.encode import ENCODER

    facts = {
        "version": installed("sls-siem"), "encoder": ENCODER, "sqlite": sqlite3.sqlite_version,
        "journal_mode": journal_mode(),
    }  # fmt: skip
    show(facts, json, [["what", "is"], *([name, value] for name, value in facts.items())])


def run() -> int:
    """The exit code; every error leaves here as two lines."""
    ours = sys.stdout
    try:
        code = _run(wants_json="--json" in sys.argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return report_broken_pipe()
    except SystemExit:
        if sys.stdout is ours:
            raise
        return report_broken_pipe()  # typer's way: it puts something silent in stdout's place, and ends with 1


def _run(*, wants_json: bool) -> int:
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return usage_error(error, wants_json)
    except (typer.Abort, KeyboardInterrupt):
        return 1
    except BrokenPipeError:
        raise
    except Failed as error:
        return complain(str(error), error.hint, error.code, wants_json)
    except Cut as cut:
        return complain(*_known(cut.error), wants_json, begun=True)
    except Exception as error:  # noqa: BLE001 - the outermost line of the process
        return complain(*_known(error), wants_json)


def _known(error: Exception) -> tuple[str, str, int]:
    """Text, hint and exit code of the rooms' errors, by class; anything else is a defect and keeps its stack."""
    from buffer.errors import SpoolError, SpoolLocked
    from supervisor.config import ConfigError

    if isinstance(error, ConfigError):
        return str(error), error.hint, 78
    if isinstance(error, SpoolLocked):
        return str(error), error.hint, 75
    if isinstance(error, SpoolError):
        return str(error), error.hint, 74
    if isinstance(error, OSError) and error.errno in LOCAL:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", LOCAL[error.errno], 74
    raise error


#: What a file system may refuse to any command, and what to do then.
LOCAL = {
    errno.EACCES: "run it as the service does: sudo -u sls-siem sls-siem …",
    errno.EPERM: "run it as the service does: sudo -u sls-siem sls-siem …",
    errno.EROFS: "the file system is read-only: see dmesg, and mount it again",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EIO: "look at the disk: dmesg, SMART",
}
