"""`dead …`: what Splunk refused for good, and what waits for a hold to end."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import Failed, Unreadable, confirm, new_file, progress, show, show_list, write_json
from supervisor.cli_spool import Config, Json, Limit, counted, directory_of, settings_of
from supervisor.picture import many

app = typer.Typer(no_args_is_help=True)
Yes = Annotated[bool, typer.Option("--yes", help="Really do it.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Their sls_ids; all that are dead when none is given.")
]


def describe(lane: str, letter: Any) -> dict[str, Any]:
    """As `--json` shows it."""
    from supervisor.status import iso

    return {
        "sls_id": letter.sls_id, "state": letter.state, "hold": letter.hold or None, "lane": lane, "source": letter.source,
        "topic": letter.topic, "shard": letter.shard, "cursor": letter.cursor, "place": letter.place,
        "status": letter.status, "code": letter.code, "text": letter.text, "index": letter.index,
        "sourcetype": letter.sourcetype, "time": iso(letter.time), "tries": letter.tries, "bytes": len(letter.log),
    }  # fmt: skip


@app.command("ls")
def ls(config: Config = None, limit: Limit = None, json: Json = False) -> None:
    """Each dead letter: id, state, Splunk's reason, topic, index, tries."""
    from buffer.outside import dead

    unreadable = Unreadable()
    found = (describe(lane, letter) for lane, letter in islice(dead(directory_of(config), unreadable), limit))
    show_list(
        "events", found, json, ("id", "state", "reason", "topic", "index", "tries", "time"), _row, "no dead letters"
    )
    unreadable.tell()


def _row(told: dict[str, Any]) -> list[Any]:
    reason = f"{told['status']}/{told['code']} {told['text']}" if told["status"] else told["text"]
    return [told["sls_id"], told["state"], reason, *(told[name] for name in ("topic", "index", "tries", "time"))]


@app.command("show")
def show_one(
    sls_id: Annotated[str, typer.Argument(metavar="ID", help="The sls_id, from `dead ls`.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """One dead letter with its whole log."""
    from buffer.outside import dead
    from worker.encode_python import merged_fields
    from worker.envelope import text
    from worker.loggroup import LogGroup

    unreadable = Unreadable()
    for lane, letter in dead(directory_of(config), unreadable):
        if letter.sls_id == sls_id:
            group = LogGroup()
            group.ParseFromString(letter.log)
            found = describe(lane, letter) | {
                "log": {
                    k: list(v) if isinstance(v, list) else v for k, v in merged_fields(group.Logs[0].Contents).items()
                },
                "tags": {text(tag.Key): text(tag.Value) for tag in group.LogTags},
            }
            if json:
                write_json(found)
            else:
                show(found, False, [["what", "is"], *([key, value] for key, value in found.items())])
            return
    unreadable.tell()
    raise Failed(f"no dead letter has the id {sls_id}", "`sls-siem dead ls` lists them")


@app.command()
def replay(ids: Ids = None, config: Config = None, yes: Yes = False) -> None:
    """Send them again, with today's settings and their old ids. A running sender does it; else the next start."""
    from buffer.operate import dead_replay

    spool = settings_of(config).spool
    directory_of(config, writes=True)
    if confirm(yes, f"send {len(ids) if ids else 'all'} dead letters again"):
        count = dead_replay(spool, ids or None)
        typer.echo(f"{many(count, 'dead letter')} due", err=True)
        all_found(ids, count)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A file for JSON lines; must not exist.")],
    config: Config = None,
) -> None:
    """Write all dead letters with their logs to a file. Removes nothing."""
    import orjson

    from buffer.outside import dead
    from worker.encode_python import merged_fields
    from worker.loggroup import LogGroup

    directory, unreadable, count = directory_of(config), Unreadable(), 0
    with new_file(target) as out, progress(f"writing {target}", counted_letters(directory)) as beat:
        for lane, letter in dead(directory, unreadable):
            count += 1
            beat(1)
            group = LogGroup()
            group.ParseFromString(letter.log)
            fields = {
                k: list(v) if isinstance(v, list) else v for k, v in merged_fields(group.Logs[0].Contents).items()
            }
            out.write(orjson.dumps(describe(lane, letter) | {"log": fields}) + b"\n")
    typer.echo(f"{count} dead letters written to {target}", err=True)
    unreadable.fail()


def all_found(ids: list[str] | None, count: int) -> None:
    """Whoever names ids wants to hear of those that there were none of."""
    missing = len(set(ids or ())) - count
    if missing > 0:
        which = f"{missing} of the {len(set(ids or ()))} ids" if count or missing > 1 else str((ids or [""])[0])
        raise Failed(f"{which}: no such dead letter in state dead", "`sls-siem dead ls` lists them, with their state")


def counted_letters(directory: Path) -> int:
    """Of all lanes, in whatever state."""
    return sum(counted(directory, state) for state in ("dead", "due", "parked"))


@app.command()
def purge(ids: Ids = None, config: Config = None, yes: Yes = False) -> None:
    """Remove dead letters: the only way in which an event is ever removed."""
    from buffer.operate import dead_purge

    spool = settings_of(config).spool
    directory_of(config, writes=True)
    if confirm(yes, f"remove {len(ids) if ids else 'all'} dead letters for good"):
        count = dead_purge(spool, ids or None)
        typer.echo(f"{many(count, 'dead letter')} removed", err=True)
        all_found(ids, count)
