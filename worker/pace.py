"""How fast a shard is read. Pure: what the last pull brought and how the lane stands, in; seconds to wait, out."""

from __future__ import annotations

IDLE = 1.0
CLOSED = 10.0
SLOW = 10.0
SMALL = 64 << 10
OLD_BACKLOG = 10.0


def wait_after_pull(*, at_end: bool, readonly: bool, raw_size: int, backlog_age: float) -> float:
    """Seconds until the next pull.

    Back to back while behind, however small the pulls: a query may leave nothing of them, and retention does not wait.
    Once a second at the end; while the lane has an old backlog, what was small there is left to grow, because each put
    costs a flush and nothing would be sent sooner.
    """
    if at_end and readonly:
        return CLOSED
    if not at_end:
        return 0.0
    return SLOW if backlog_age > OLD_BACKLOG and raw_size < SMALL else IDLE


def groups_to_ask(max_groups: int, memory_level: int) -> int:
    """LogGroups that the next pull may bring: fewer while memory is short."""
    return max(1, max_groups // 8) if memory_level >= 1 else max_groups


def may_pull(memory_level: int, spool_level: int) -> bool:
    """Whether pulling goes on at all."""
    return memory_level < 2 and spool_level == 0


def checkpoint_due(
    *, durable: int | None, saved: int | None, since_saved: float, readonly_at_end: bool, sealed: bool
) -> bool:
    """Whether a shard's checkpoint is to be saved now.

    A read-only shard is saved once more when its end is known to be its end, even unchanged: only that save lets
    SLS release the shards that were born of it.
    """
    if durable is None or since_saved < 2.0:
        return False
    return durable != saved or (readonly_at_end and not sealed)
