"""`lag` and `replay`: what SLS itself says and has; they need no supervisor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli_output import Failed, complain, show, span
from supervisor.cli_spool import Config, Json


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


class Refused:
    """Sources that SLS refused or did not answer for: the others are shown all the same, and these at the end."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Failed]] = []

    @contextmanager
    def of(self, source: Any) -> Iterator[None]:
        """Keeps what goes wrong with it."""
        try:
            yield
        except Failed as error:
            self.found.append((source.name, error))

    def document(self) -> dict[str, Any]:
        """For --json."""
        told = [{"source": name, "error": str(error), "hint": error.hint} for name, error in self.found]
        return {"errors": told} if told else {}

    def unless(self, answered: list[Any]) -> None:
        """Where none has answered there is nothing to show."""
        if self.found and not answered:
            raise Failed("\n".join(str(error) for _, error in self.found), self._first.hint, self._first.code)

    def tell(self) -> None:
        """On stderr; the exit code is that of the first."""
        for _, error in self.found:
            complain(str(error), error.hint, error.code, as_json=False)
        if self.found:
            raise typer.Exit(self._first.code)

    @property
    def _first(self) -> Failed:
        return self.found[0][1]


def exit_code(error: Exception) -> int:
    """77 where a key or a permission is refused, 78 where our own settings are, else 69."""
    from worker.sls_errors import CredentialsRefused, Forbidden, Misconfigured

    if isinstance(error, CredentialsRefused | Forbidden):
        return 77
    return 78 if isinstance(error, Misconfigured) else 69


def lag(config: Config = None, json: Json = False) -> None:
    """Source, shard, owner, checkpoint, lag in seconds and LogGroups, and retention left, as SLS has them."""
    found = []
    rows: list[list[Any]] = [
        ["source", "shard", "status", "owner", "checkpoint", "newest", "lag", "lag (groups)", "retention left"]
    ]
    refused = Refused()
    for source in sources(config):
        with refused.of(source), asking(source) as client:
            found.append(_source_lag(source, client))
    for one in found:
        for shard in one["shards"]:
            times = shard["checkpoint_time"], shard["newest_time"], span(shard["lag_seconds"])
            left = span(shard["retention_left_seconds"])
            rows.append(
                [one["name"], shard["shard"], shard["status"], shard["owner"], *times, shard["lag_groups"], left]
            )
    refused.unless(found)
    show({"sources": found} | refused.document(), json, rows)
    refused.tell()


def _source_lag(source: Any, client: Any) -> dict[str, Any]:
    from worker.sls import Saved
    from worker.sls_errors import GroupNotFound

    ttl = client.retention_seconds()
    try:
        saved = client.saved(source.consumer_group)
    except GroupNotFound:
        saved = {}
    shards = [
        _shard_lag(client, shard, saved.get(number, Saved(None, "")), ttl)
        for number, shard in sorted(client.shards().items())
    ]
    return {
        "name": source.name, "project": source.project, "logstore": source.logstore, "group": source.consumer_group,
        "ttl_seconds": ttl, "shards": shards,
    }  # fmt: skip


def _shard_lag(client: Any, shard: Any, saved: Any, ttl: float) -> dict[str, Any]:
    """Cursors count LogGroups, so the distance is exact; the lag is the age of the oldest that is not checkpointed."""
    from supervisor.status import iso

    end, begin = client.get_cursor_at(shard.number, "end"), client.get_cursor_at(shard.number, "begin")
    at = begin if saved.cursor is None else saved.cursor
    behind = max(0, end - at)
    newest = _arrival(client, shard.number, end - 1) if end > begin else None
    oldest = _arrival(client, shard.number, max(at, begin)) if behind and end > begin else None
    seconds = 0.0 if oldest is None else max(0.0, time.time() - oldest)
    passed = newest if oldest is None else oldest
    return {
        "shard": shard.number, "status": "readonly" if shard.readonly else "readwrite", "owner": saved.consumer or None,
        "checkpoint_time": iso(passed), "newest_time": iso(newest), "lag_seconds": seconds, "lag_groups": behind,
        "retention_left_seconds": max(0.0, ttl - seconds),
    }  # fmt: skip


def _arrival(client: Any, shard: int, cursor: int) -> float | None:
    """None where retention was faster than our question."""
    from worker.sls_errors import InvalidCursor

    try:
        found: float = client.arrival(shard, cursor)
    except InvalidCursor:
        return None
    return found


def named(sources: tuple[Any, ...], name: str) -> Any:
    """The source of that name."""
    for source in sources:
        if source.name == name:
            return source
    raise Failed(f"no source is named {name}", f"one of: {', '.join(source.name for source in sources)}", 2)


def replay(
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="The source's name.")],
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="ISO time with offset: when it arrived in SLS.")],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="ISO time with offset.")],
    config: Config = None,
) -> None:
    """Fetch a time range again and send it, with the same ids; the consumer group is not touched."""
    from supervisor.cli_output import progress
    from supervisor.cli_spool import directory_of
    from supervisor.config import load
    from supervisor.replay import replay as fetch
    from supervisor.replay import spans

    settings = load(config)
    directory_of(config, writes=True)
    chosen = named(settings.sources, source)
    begin, end = instant(since), instant(until)
    if begin >= end:
        raise Failed("--from is not before --to", "the range is from the older time to the newer", 2)
    groups, lost = 0, Counter[int]()
    with asking(chosen) as client:
        wanted = spans(client, begin, end)
        with progress(f"fetching {source}", sum(behind - first for _, first, behind in wanted)) as beat:
            for found in fetch(settings.spool, chosen, client, wanted, lambda shard, gone: lost.update({shard: gone})):
                groups += found
                beat(found)
    typer.echo(f"{groups} LogGroups spooled again; a running sender delivers them, else the next start", err=True)
    if lost:
        shards = ", ".join(f"{gone} of shard {shard}" for shard, gone in sorted(lost.items()))
        raise Failed(
            f"SLS had deleted before their turn came, in LogGroups: {shards}", "its retention is over for them", 1
        )


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
