"""`group …`: the consumer groups of the logstores. What changes one wants our supervisor stopped, and `--yes`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import Failed, confirm, show, span
from supervisor.cli_sls import Refused, asking, named, sources
from supervisor.cli_spool import Config, Json, run_as_owner

app = typer.Typer(no_args_is_help=True)
Yes = Annotated[bool, typer.Option("--yes", help="Really do it.")]
#: What SLS allows a logstore.
MOST_GROUPS = 30
#: Who saves a checkpoint for nobody's shard: SLS wants a name.
OPERATOR = "sls-siem-group-reset"


@app.command("ls")
def ls(config: Config = None, json: Json = False) -> None:
    """The consumer groups of each source's logstore; SLS allows 30 of them."""
    found: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    refused = Refused()
    for source in sources(config):
        with refused.of(source), asking(source) as client:
            groups = client.groups()
            counts[source.name] = len(groups)
            found += [
                {"source": source.name, "name": name, "order": None, "timeout_seconds": timeout}
                for name, timeout in sorted(groups.items())
            ]
    rows: list[list[Any]] = [["source", "group", "timeout"]]
    rows += [[group["source"], group["name"], span(group["timeout_seconds"])] for group in found]
    refused.unless(list(counts))
    used = ", ".join(f"{name} {count} of {MOST_GROUPS}" for name, count in counts.items())
    show({"groups": found} | refused.document(), json, rows, "" if json else f"groups used: {used}")
    refused.tell()


@app.command()
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group.")],
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="A source of its logstore.")],
    config: Config = None,
    yes: Yes = False,
) -> None:
    """Delete a consumer group that is not used any more. SLS forgets its checkpoints. Our supervisor must be stopped."""
    from supervisor.config import load
    from worker.sls_errors import GroupNotFound

    settings = load(config)
    chosen = named(settings.sources, source)
    if not confirm(yes, f"delete the group {name} of {chosen.project}/{chosen.logstore} with its checkpoints"):
        return
    with held(settings.spool), asking(chosen) as client:
        try:
            client.delete_group(name)
        except GroupNotFound:
            typer.echo("SLS has no such group any more", err=True)
        forgotten = forget(settings.spool, chosen, name)
    typer.echo(
        f"deleted; {forgotten} positions of this host forgotten\n"
        f"other hosts of this group: stop their supervisors and run `sls-siem group delete {name} --source … --yes` there"
        " too; a host that still runs makes the group again and goes on where it was",
        err=True,
    )


@app.command()
def reset(
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="The source; its own group is meant.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="TIME", help="begin | end | -2h | ISO time with offset: when it arrived in SLS."),
    ],
    config: Config = None,
    yes: Yes = False,
) -> None:
    """Set every checkpoint of a source's group to a time, back or forward. Our supervisor must be stopped."""
    from supervisor.config import load
    from worker.start import parse_start

    settings = load(config)
    chosen = named(settings.sources, source)
    try:
        where = parse_start(to, time.time())
    except ValueError as error:
        raise Failed(f"not a time: {to}", "begin, end, -2h, or 2026-01-01T00:00:00+08:00", 2) from error
    with asking(chosen) as client:
        moves = plan(client, chosen.consumer_group, where)
        if not confirm(yes, f"set {describe(moves, chosen)}"):
            return
        with held(settings.spool):
            # The positions first: should this be cut short, reading goes on from SLS's checkpoints and skips nothing.
            forgotten = forget(settings.spool, chosen, chosen.consumer_group)
            for shard, (_, cursor) in moves.items():
                client.save_checkpoint(chosen.consumer_group, OPERATOR, shard, cursor, force=True)
    typer.echo(
        f"set {describe(moves, chosen)}; {forgotten} positions of this host forgotten\n"
        "other hosts of this group: they must have been stopped before this, else they save over it; run the same command"
        " there too before they start, so that they forget their positions",
        err=True,
    )


def plan(client: Any, group: str, where: str) -> dict[int, tuple[int | None, int]]:
    """Shard → (checkpoint now, checkpoint then). Asks everything before anything is changed."""
    from worker.sls_errors import GroupNotFound

    try:
        saved = client.checkpoints(group)
    except GroupNotFound:
        raise Failed(f"there is no group {group}", "it is made by its first run, which begins at `start`", 69) from None
    return {number: (saved.get(number), client.get_cursor_at(number, where)) for number in sorted(client.shards())}


def describe(moves: dict[int, tuple[int | None, int]], source: Any) -> str:
    """For people: how many, and what that means in LogGroups."""
    again = sum(max(0, now - then) for now, then in moves.values() if now is not None)
    skipped = sum(max(0, then - now) for now, then in moves.values() if now is not None)
    return (
        f"{len(moves)} checkpoints of the group {source.consumer_group} of {source.project}/{source.logstore}: "
        f"{again} LogGroups are read again, {skipped} that were not read yet are skipped"
    )


@contextmanager
def held(spool: Any) -> Iterator[None]:
    """The spool's lock, where there is a spool: SpoolLocked while a supervisor runs."""
    from buffer.spool import Spool

    if not (Path(spool.directory) / "format").exists():
        yield
        return
    run_as_owner(Path(spool.directory))
    found = Spool.open(spool)
    try:
        yield
    finally:
        found.close()


def forget(spool: Any, source: Any, group: str) -> int:
    """This host's positions of the group; how many."""
    from buffer.operate import forget_group

    return forget_group(spool, source.project, source.logstore, group)
