"""`spool …`: the backlog, with and without a running supervisor. Reads only, except `purge`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import (
    Failed,
    Unreadable,
    confirm,
    limited,
    new_file,
    progress,
    show,
    show_list,
    size,
    span,
    write_json,
    write_table,
)

app = typer.Typer(no_args_is_help=True)
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many.", show_default=False)]


def settings_of(config: Path | None) -> Any:
    """Without secrets that cannot be had here: looking at a spool needs none."""
    from supervisor.config import load

    return load(config, secrets=False)


def directory_of(config: Path | None, *, writes: bool = False) -> Path:
    """The spool's directory, which must be one, and of a format that we know (SpoolTooNew)."""
    from buffer.checks import check_format

    directory: Path = settings_of(config).spool.directory
    if not (directory / "format").exists():
        raise Failed(f"{directory} holds no spool", "run `sls-siem supervise` first, or name the right --config", 74)
    check_format(directory)
    if writes:
        run_as_owner(directory)
    return directory


def run_as_owner(directory: Path) -> None:
    """Root becomes whoever the spool belongs to: what root writes, the service could not read."""
    import pwd

    owner = directory.stat()
    if os.geteuid() or not owner.st_uid:
        return
    try:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


@app.command()
def stats(config: Config = None, json: Json = False) -> None:
    """How much waits, how old it is, and the books."""
    from buffer.outside import document, lane_directories, lane_stats
    from supervisor.books import balance
    from supervisor.cli_status import read
    from supervisor.picture import is_live

    directory = directory_of(config)
    lanes = [lane_stats(lane) for lane in lane_directories(directory)]
    found = document(directory, lanes, settings_of(config).spool.max_bytes, 0, (directory / "ballast").exists())
    live = read(directory)
    runs = is_live(live)
    if runs:
        found |= {
            key: live["spool"][key]
            for key in ("level", "full_in_seconds", "drained_in_seconds", "live_again_in_seconds")
        }
    rows: list[list[Any]] = [["lane", "batches", "groups", "bytes", "oldest", "dead", "parked", "damaged"]]
    rows += [
        [lane["name"], lane["batches"], lane["groups"], size(lane["bytes"]), span(lane["oldest_seconds"]), lane["dead"],
         lane["parked"], lane["damaged"]]
        for lane in found["lanes"]
    ]  # fmt: skip
    if not json:
        write_table(balance(found, sum(lane.dead_bytes for lane in lanes), live=runs), head=False)
        sys.stdout.write("\n")
    show(found, json, rows)


@app.command("ls")
def ls(config: Config = None, limit: Limit = None, json: Json = False) -> None:
    """What waits, batch by batch."""
    from buffer.outside import batches
    from supervisor.status import iso

    found = (
        {
            "lane": one["lane"], "id": one["id"], "time": iso(one["time"]), "bytes": one["bytes"], "groups": one["groups"],
            "pulls": [
                {"source": p["source"], "project": p["key"][0], "logstore": p["key"][1], "shard": p["key"][4],
                 "begin": p["begin"], "next": p["next"], "groups": p["groups"]}
                for p in one["pulls"]
            ],
        }
        for one in islice(batches(directory_of(config)), limit)
    )  # fmt: skip
    head = ("lane", "batch", "time", "bytes", "groups", "shards")
    show_list("batches", found, json, head, _batch_row, "nothing waits")


def _batch_row(one: dict[str, Any]) -> list[Any]:
    shards = ",".join(sorted({f"{p['source']}/{p['shard']}" for p in one["pulls"]}))
    return [one["lane"], one["id"], one["time"], size(one["bytes"]), one["groups"], shards]


@app.command()
def peek(
    config: Config = None,
    topic: Annotated[str, typer.Option(metavar="GLOB", help="Only topics that match this glob.")] = "*",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many events.")] = 10,
    json: Json = False,
) -> None:
    """What the waiting events will look like in Splunk, with the settings of now."""
    import orjson

    unreadable = Unreadable()
    found = limited(waiting_events(directory_of(config), settings_of(config), topic, unreadable), limit)
    unreadable.tell()
    if json:
        write_json({"events": found})
        return
    for one in found:
        typer.echo(orjson.dumps(one, option=orjson.OPT_INDENT_2).decode())


def waiting_events(
    directory: Path,
    settings: Any,
    topic: str,
    unreadable: Callable[[str], None],
    beat: Callable[[float], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Envelopes of what waits, oldest first; `beat` is told of LogGroups, `unreadable` of what cannot be shown."""
    from fnmatch import fnmatchcase

    import orjson

    from buffer.outside import pulls
    from worker.decode import Undecodable, open_pull
    from worker.encode import Encoder
    from worker.routes import Router

    encoder = Encoder(Router(settings.routes, settings.hec))
    for pull in pulls(directory, unreadable):
        beat(pull.groups)
        try:
            encoded = encoder.encode(pull, open_pull(pull))
        except Undecodable as error:
            unreadable(f"{pull.source}, shard {pull.key.shard}, cursor {pull.begin}: {error}")
            continue
        for event in range(len(encoded)):
            envelope = orjson.loads(encoded.data[encoded.start(event) : encoded.ends[event]])
            if fnmatchcase(str(envelope["event"].get("__topic__", "")), topic):
                yield envelope


def counted(directory: Path, what: str) -> int:
    """`batches`, `groups` … that wait in all lanes."""
    from buffer.outside import lane_directories, lane_stats

    return sum(getattr(lane_stats(lane), what) for lane in lane_directories(directory))


@app.command()
def verify(config: Config = None, json: Json = False) -> None:
    """Check every body against its CRC and its row, and the index: rows, books, positions. Exit 1 when something is not sound."""
    from buffer.audit import verify as look
    from supervisor.cli_status import read
    from supervisor.picture import is_live

    directory = directory_of(config)
    live = is_live(read(directory))
    checked, faults, missed = 0, [], list[str]()
    with progress("checking", counted(directory, "batches")) as beat:
        for one in look(directory, live=live, unchecked=missed.append):
            checked += one["file"].endswith(".val")
            faults += [one] if one["fault"] else []
            beat(1)
    for what in missed:
        typer.echo(f"not checked: {what}; stop it and run this again", err=True)
    rows: list[list[Any]] = [["lane", "file", "fault"], *([f["lane"], f["file"], f["fault"]] for f in faults)]
    said = f"{checked} bodies checked, {f'{len(faults)} not sound' if faults else 'all sound'}"
    show({"ok": not faults, "checked": checked, "faults": faults}, json, rows if faults else (), said)
    if faults:
        raise typer.Exit(1)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A file for JSON lines; must not exist.")],
    config: Config = None,
) -> None:
    """Write all waiting events, as they would be sent, to a file. Removes nothing."""
    import orjson

    directory, unreadable, count = directory_of(config), Unreadable(), 0
    with new_file(target) as out, progress(f"writing {target}", counted(directory, "groups")) as beat:
        for envelope in waiting_events(directory, settings_of(config), "*", unreadable, beat):
            count += 1
            out.write(orjson.dumps(envelope) + b"\n")
    typer.echo(f"{count} events written to {target}", err=True)
    unreadable.fail()


@app.command()
def purge(config: Config = None, yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False) -> None:
    """Remove all that waits. The supervisor must be stopped. The dead letters stay."""
    from buffer.operate import purge as purge_spool

    settings = settings_of(config).spool
    directory = directory_of(config, writes=True)
    waiting = counted(directory, "groups")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    if confirm(yes, f"remove {waiting} LogGroups that wait in {directory}"):
        with progress("purging", waiting) as beat:
            removed = purge_spool(settings, beat)
        typer.echo(f"{when}: {removed} LogGroups purged", err=True)


@app.command()
def adopt(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The spool directory of another host.")],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
    json: Json = False,
) -> None:
    """Take over what waits in another host's spool, dead letters too. That host's supervisor must be stopped; ours may run."""
    from dataclasses import asdict

    from buffer.adopt import adopt as adopt_spool
    from buffer.adopt import plan

    settings = settings_of(config).spool
    directory_of(config, writes=True)
    found = plan(settings, source)
    total = sum(one.bytes for one in found if one.action == "copy")
    does = confirm(yes, f"copy {size(total)} from {source} into {settings.directory}")
    if does:
        with progress(f"adopting {source}", total) as beat:
            found = adopt_spool(settings, source, beat)
    rows: list[list[Any]] = [["lane", "action", "as", "batches", "groups", "bytes", "dead letters"]]
    rows += [[o.lane, o.action, o.target, o.batches, o.groups, size(o.bytes), o.letters] for o in found]
    show({"done": does, "lanes": [asdict(one) for one in found]}, json, rows)
