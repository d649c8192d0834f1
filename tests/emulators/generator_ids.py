"""The id that every event must have at the other end, computed from what the emulator stored.

An id is `<first 8 hex of SHA-256(project/logstore)>-<shard>-<cursor of the LogGroup>-<place in the group>`. Where a
query filtered the pull, the cursor part is `<begin of the pull>.<place of the group in the pull>`. Written from that
sentence, not from the product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tests.emulators.generator_wire import count_logs, parse_group, parse_list
from tests.emulators.sls_pull import compile_query
from tests.emulators.sls_store import Logstore, Shard


def head(project: str, logstore: str) -> str:
    return hashlib.sha256(f"{project}/{logstore}".encode()).hexdigest()[:8]


def groups(shard: Shard, start: int | None = None, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(cursor, LogGroup) of everything ever stored in a shard, whatever retention took."""
    for cursor, framed in enumerate(shard.framed, shard.first):
        if (start is None or cursor >= start) and (stop is None or cursor < stop):
            yield cursor, parse_list(framed)[0]


def expected_ids(store: Logstore) -> Iterator[str]:
    """Of every log in every shard, those of former shards too."""
    for shard in [*store.shards.values(), *store.former]:
        yield from shard_ids(store, shard)


def shard_ids(store: Logstore, shard: Shard, start: int | None = None, stop: int | None = None) -> Iterator[str]:
    start_of_id = f"{head(store.project, store.name)}-{shard.number}"
    counts: dict[int, int] = {}
    for cursor, framed in enumerate(shard.framed, shard.first):
        if (start is not None and cursor < start) or (stop is not None and cursor >= stop):
            continue
        if id(framed) not in counts:
            counts[id(framed)] = count_logs(parse_list(framed)[0])
        for place in range(counts[id(framed)]):
            yield f"{start_of_id}-{cursor}-{place}"


def arrivals(store: Logstore) -> Iterator[tuple[str, float]]:
    """(id of a LogGroup's first log, when SLS received the group)."""
    for shard in store.shards.values():
        start_of_id = f"{head(store.project, store.name)}-{shard.number}"
        for cursor, received in enumerate(shard.received, shard.first):
            yield f"{start_of_id}-{cursor}-0", received


def sparse_ids(store: Logstore, shard: Shard, begin: int, next_cursor: int, query: str) -> Iterator[str]:
    """Of one pull with a query: `begin` and `next_cursor` as in its PullRecord."""
    start_of_id = f"{head(store.project, store.name)}-{shard.number}"
    keep = compile_query(query)
    found = (group if keep is None else keep(group) for _, group in groups(shard, begin, next_cursor))
    for place, group in enumerate(one for one in found if one is not None):
        for log in range(count_logs(group)):
            yield f"{start_of_id}-{begin}.{place}-{log}"


def gen_ids(store: Logstore) -> Iterator[tuple[str, str]]:
    """(sls_id, gen_id) of every numbered log: what joins the product's ids to the generator's."""
    for shard in [*store.shards.values(), *store.former]:
        start_of_id = f"{head(store.project, store.name)}-{shard.number}"
        for cursor, group in groups(shard):
            for place, log in enumerate(parse_group(group).logs):
                for key, value in log.pairs:
                    if key == b"gen_id":
                        yield f"{start_of_id}-{cursor}-{place}", value.decode()
