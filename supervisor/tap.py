"""The newest logs of each source, as they are and as they will be sent. Reads shards beside the group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson

from buffer.values import Pull, ShardKey
from supervisor.cli_output import Failed
from supervisor.cli_sls import Refused, asking
from worker.decode import Undecodable, open_pull
from worker.encode import Encoder
from worker.encode_python import merged_fields, parse
from worker.envelope import text
from worker.routes import Router

#: LogGroups from the end of a shard.
BACK = 20


def newest_events(config: Path | None, topic: str, stage: str, refused: Refused) -> Iterator[dict[str, Any]]:
    """Envelopes, or the logs with topic and tags. Sources that cannot be asked are in `refused`."""
    from supervisor.config import load

    settings = load(config)
    encoder = Encoder(Router(settings.routes, settings.hec))
    for source in settings.sources:
        pulls: list[Pull] = []
        with refused.of(source), asking(source) as client:
            pulls = [pull for shard in client.shards().values() if (pull := _newest(client, source, shard))]
        for pull in pulls:
            with refused.of(source), _decoding(source, pull):
                yield from _shown(encoder, pull, topic, stage)


@contextmanager
def _decoding(source: Any, pull: Pull) -> Iterator[None]:
    """What a sender would set aside: said, and the other shards are shown."""
    try:
        yield
    except Undecodable as error:
        where = f"{source.name}: shard {pull.key.shard} from cursor {pull.begin}"
        hint = "SLS, or a proxy before it, answers so; if it stays like this, the supervisor sets it aside with its cursors"
        raise Failed(f"{where} cannot be decoded: {error}", hint) from error


def _newest(client: Any, source: Any, shard: Any) -> Pull | None:
    """The last LogGroups of a shard; None when it is empty."""
    end, begin = client.get_cursor_at(shard.number, "end"), client.get_cursor_at(shard.number, "begin")
    first = max(begin, end - BACK)
    found = client.pull_raw(shard.number, first, BACK)
    if not found.groups:
        return None
    return Pull(
        key=ShardKey(source.project, source.logstore, source.consumer_group, source.query, shard.number, shard.created),
        epoch=0, source=source.name, codec=found.codec or "none", raw_size=found.raw_size, begin=first,
        next=found.next, groups=found.groups, sparse=found.next - first != found.groups, suspect=False,
        arrived=found.arrived, pulled=0.0, body=found.body,
    )  # fmt: skip


def _shown(encoder: Encoder, pull: Pull, topic: str, stage: str) -> Iterator[dict[str, Any]]:
    raw = open_pull(pull)
    if stage == "raw":
        for group in parse(raw):
            if fnmatchcase(text(group.Topic), topic):
                for log in group.Logs:
                    yield _raw(group, log)
        return
    encoded = encoder.encode(pull, raw)
    for event in range(len(encoded)):
        envelope = orjson.loads(encoded.data[encoded.start(event) : encoded.ends[event]])
        if fnmatchcase(str(envelope["event"].get("__topic__", "")), topic):
            yield envelope


def _raw(group: Any, log: Any) -> dict[str, Any]:
    fields = merged_fields(log.Contents)
    return {
        "__topic__": text(group.Topic), "__source__": text(group.Source), "__time__": log.Time,
        "tags": {text(tag.Key): text(tag.Value) for tag in group.LogTags},
        "log": {name: list(value) if isinstance(value, list) else value for name, value in fields.items()},
    }  # fmt: skip
