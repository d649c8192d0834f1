"""`lag` and `group …`: what SLS itself says; they need no supervisor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import Failed, confirm, show, span
from supervisor.cli_spool import Config, Json

group_app = typer.Typer(no_args_is_help=True)


def sources(config: Path | None) -> tuple[Any, ...]:
    """Those of the settings."""
    from supervisor.config import load

    return load(config).sources


@contextmanager
def asking(source: Any) -> Iterator[Any]:
    """A client of the source; whatever SLS refuses leaves as two lines and a code."""
    from worker.credentials import Credentials
    from worker.sls import SlsClient
    from worker.sls_errors import SlsError

    client = None
    try:
        client = SlsClient(source, Credentials(source))
        yield client
    except SlsError as error:
        raise Failed(f"{source.name}: {error.error}", error.hint, exit_code(error)) from error
    finally:
        if client is not None:
            client.close()


def exit_code(error: Exception) -> int:
    """77 where a key or a permission is refused, 78 where our own settings are, else 69."""
    from worker.sls_errors import CredentialsRefused, Forbidden, Misconfigured

    if isinstance(error, CredentialsRefused | Forbidden):
        return 77
    return 78 if isinstance(error, Misconfigured) else 69


def lag(config: Config = None, json: Json = False) -> None:
    """Source, shard, checkpoint, lag in LogGroups and retention left, as SLS has them."""
    found = []
    rows: list[list[Any]] = [["source", "shard", "status", "lag (groups)", "lag", "retention left"]]
    for source in sources(config):
        with asking(source) as client:
            one = _source_lag(source, client)
        found.append(one)
        for shard in one["shards"]:
            spans = span(shard["lag_seconds"]), span(shard["retention_left_seconds"])
            rows.append([source.name, shard["shard"], shard["status"], shard["lag_groups"], *spans])
    show({"sources": found}, json, rows)


def _source_lag(source: Any, client: Any) -> dict[str, Any]:
    from worker.sls_errors import GroupNotFound

    ttl = client.retention_seconds()
    try:
        saved = client.checkpoints(source.consumer_group)
    except GroupNotFound:
        saved = {}
    shards = [_shard_lag(client, shard, saved.get(number), ttl) for number, shard in sorted(client.shards().items())]
    return {
        "name": source.name, "project": source.project, "logstore": source.logstore, "group": source.consumer_group,
        "ttl_seconds": ttl, "shards": shards,
    }  # fmt: skip


def _shard_lag(client: Any, shard: Any, checkpoint: int | None, ttl: float) -> dict[str, Any]:
    """Cursors count LogGroups, so the distance is exact; its time is that of the pull at the checkpoint."""
    from supervisor.status import iso

    end, begin = client.get_cursor_at(shard.number, "end"), client.get_cursor_at(shard.number, "begin")
    at = begin if checkpoint is None else checkpoint
    behind = max(0, end - at)
    seconds = 0.0
    when = None
    if behind:
        arrived = client.pull_raw(shard.number, max(at, begin), 1).arrived
        seconds = max(0.0, time.time() - arrived) if arrived else 0.0
        when = iso(arrived) if arrived else None
    return {
        "shard": shard.number, "status": "readonly" if shard.readonly else "readwrite", "owner": None,
        "checkpoint_time": when, "newest_time": None, "lag_seconds": seconds, "lag_groups": behind,
        "retention_left_seconds": max(0.0, ttl - seconds),
    }  # fmt: skip


@group_app.command("ls")
def ls(config: Config = None, json: Json = False) -> None:
    """The consumer groups of each source's logstore; SLS allows 30 of them."""
    found: list[dict[str, Any]] = []
    for source in sources(config):
        with asking(source) as client:
            groups = client.groups()
        found += [
            {"source": source.name, "name": name, "order": None, "timeout_seconds": timeout}
            for name, timeout in sorted(groups.items())
        ]
    rows: list[list[Any]] = [["source", "group", "timeout"]]
    rows += [[group["source"], group["name"], span(group["timeout_seconds"])] for group in found]
    show({"groups": found}, json, rows)


@group_app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The group.")],
    source: Annotated[str, typer.Option("--source", help="A source of its logstore.")],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
) -> None:
    """Delete a consumer group that is not used any more. SLS forgets its checkpoints. Our supervisor must be stopped."""
    from buffer.operate import forget_group
    from supervisor.config import load

    settings = load(config)
    chosen = named(settings.sources, source)
    if not confirm(yes, f"delete the group {name} of {chosen.project}/{chosen.logstore} with its checkpoints"):
        return
    forgotten = forget_group(settings.spool, chosen.project, chosen.logstore, name)
    with asking(chosen) as client:
        client.delete_group(name)
    typer.echo(
        f"deleted; {forgotten} positions of this host forgotten. Stop the program on other hosts of the group too",
        err=True,
    )


def named(sources: tuple[Any, ...], name: str) -> Any:
    """The source of that name."""
    for source in sources:
        if source.name == name:
            return source
    raise Failed(f"no source is named {name}", f"one of: {', '.join(source.name for source in sources)}", 2)


def replay(
    source: Annotated[str, typer.Option("--source", help="The source's name.")],
    since: Annotated[str, typer.Option("--from", help="ISO time with offset: when it arrived in SLS.")],
    until: Annotated[str, typer.Option("--to", help="ISO time with offset.")],
    config: Config = None,
) -> None:
    """Fetch a time range again and send it, with the same ids; the consumer group is not touched."""
    from supervisor.cli_spool import directory_of
    from supervisor.config import load
    from supervisor.replay import replay as fetch

    settings = load(config)
    directory_of(config)
    chosen = named(settings.sources, source)
    begin, end = instant(since), instant(until)
    groups = 0
    with asking(chosen) as client:
        for _, found in fetch(settings.spool, chosen, client, begin, end):
            groups += found
    typer.echo(f"{groups} LogGroups spooled again; a running sender delivers them, else the next start", err=True)


def instant(text: str) -> float:
    """Unix seconds."""
    from datetime import datetime

    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failed(f"not an ISO time: {text}", "such as 2026-01-01T00:00:00+08:00", 2) from error
    if found.tzinfo is None:
        raise Failed(f"the time has no offset: {text}", "such as 2026-01-01T00:00:00+08:00", 2)
    return found.timestamp()
