"""Entering a consumer group; making it in a source's first run, where `start` counts."""

from __future__ import annotations

import time

from worker.logs import get_logger
from worker.member import Member
from worker.sls_errors import GroupExists, QuotaExceeded
from worker.start import parse_start

log = get_logger()


def enter_group(member: Member) -> None:
    """Raises SlsError; the caller tries again, and what was begun here goes on then.

    Who creates the group resolves `start` once and saves it for every shard by force, before its first heartbeat.
    Nobody else ever forces.
    """
    source = member.source
    if not member.starts:
        groups = member.control.groups()
        created = source.consumer_group not in groups and _create(member, groups)
        if not created:
            # Where somebody was first this moment, its time-out may be another.
            known = groups if source.consumer_group in groups else member.control.groups()
            member.fence.narrow(known.get(source.consumer_group, source.consumer_timeout))
            return
        member.starts = dict.fromkeys(member.shards)
    where = parse_start(source.start, time.time())
    for number, done in member.starts.items():
        if done is None:
            cursor = member.control.get_cursor_at(number, where)
            member.control.save_checkpoint(source.consumer_group, member.consumer, number, cursor, force=True)
            member.starts[number] = cursor
    log.info("consumer group made", source=source.name, group=source.consumer_group, start=source.start)


def _create(member: Member, groups: dict[str, float]) -> bool:
    source = member.source
    try:
        member.control.create_group(source.consumer_group, source.consumer_timeout)
    except GroupExists:
        return False
    except QuotaExceeded as error:
        names = ", ".join(sorted(groups)) or "none that we may see"
        error.hint = f"groups of this logstore: {names}; delete one that is not used: sls-siem group delete"
        raise
    return True
