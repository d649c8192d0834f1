"""What operators change in a spool, each in the transactions that keep the books right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from buffer.lane import add, remove_batch
from buffer.outside import lane_directories
from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool
from buffer.writer import Sweeper

_STEP = 500


def purge(settings: SpoolSettings, beat: Callable[[int], None] = lambda _: None) -> int:
    """Remove every waiting batch of every lane; the LogGroups, of which `beat` is told. Wants the spool's lock (SpoolLocked)."""
    import orjson

    spool = Spool.open(settings)
    removed = 0
    try:
        for directory in lane_directories(settings.directory):
            lane = LaneReader.open(directory, settings)
            try:
                while rows := lane.rows("SELECT id, file, groups, pulls FROM batch ORDER BY id LIMIT ?", _STEP):
                    with lane.transaction("a purge") as sql:
                        for number, _, groups, pulls in rows:
                            remove_batch(sql, number, orjson.loads(pulls))
                            add(sql, "purged", groups)
                    for _, file, groups, _ in rows:
                        lane.disk.remove(file)
                        removed += groups
                        beat(groups)
            finally:
                lane.close()
    finally:
        spool.close()
    return removed


def dead_replay(settings: SpoolSettings, ids: Sequence[str] | None) -> int:
    """Turn `dead` into `due`: the sender that serves the lane sends them, with today's settings. How many."""
    changed = 0
    for directory in lane_directories(settings.directory):
        lane = LaneReader.attach(directory, settings)
        try:
            if lane.may_have("dead"):
                changed += lane.make_due(ids)
                lane.ring()
        finally:
            lane.close()
    return changed


def dead_purge(settings: SpoolSettings, ids: Sequence[str] | None) -> int:
    """Remove dead letters in state `dead`; how many."""
    removed = 0
    for directory in lane_directories(settings.directory):
        lane = LaneReader.attach(directory, settings)
        try:
            removed += lane.remove_dead(ids)
        finally:
            lane.close()
    return removed


def forget_group(settings: SpoolSettings, project: str, logstore: str, group: str) -> int:
    """Drop this host's positions of a consumer group; how many. The caller holds the spool's lock.

    What a kill has left is taken in before: taken in by the next start it would bring its positions back.
    """
    import orjson

    forgotten = 0
    for directory in lane_directories(settings.directory):
        lane = Sweeper.open(directory, settings)
        try:
            keys = [row[0] for row in lane.rows("SELECT key FROM position")]
            chosen = [key for key in keys if orjson.loads(key)[:3] == [project, logstore, group]]
            with lane.transaction("forgetting positions") as sql:
                for key in chosen:
                    sql("DELETE FROM position WHERE key = ?", (key,))
            forgotten += len(chosen)
        finally:
            lane.close()
    return forgotten
