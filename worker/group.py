"""Entering a consumer group; making it in a source's first run, where `start` counts.

Who makes the group has resolved `start` for every shard *before*, and saves it by force before its first heartbeat;
nobody else ever forces. So nothing that is written after the group's first run is skipped, whoever is killed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.logs import get_logger
from worker.member import Member
from worker.positions import first_cursors, forget_starts, note_starts, remember_starts, remembered_starts
from worker.sls_errors import GroupExists, QuotaExceeded, Revoked, SlsError

log = get_logger()


class Entrance:
    """Of one source in this process."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._starts: dict[int, int] = {}
        """Where each shard shall begin, resolved while the group did not exist."""
        self._made = self._unsure = False
        """Unsure: a call to make it went wrong, and SLS may have made it."""
        self._saved: set[int] = set()

    def step(self) -> None:
        """Done when it returns. SlsError, SpoolError: try again, and it goes on where it was."""
        self._made = self._made or self._make()
        if not self._made:
            return
        for number, cursor in self._starts.items():
            if number not in self._saved:
                self._save(number, cursor)
                self._saved.add(number)
        source = self._member.source
        log.info("consumer group made", source=source.name, group=source.consumer_group, start=source.start)

    def _save(self, number: int, cursor: int) -> None:
        member = self._member
        try:
            member.control.save_checkpoint(member.source.consumer_group, member.consumer, number, cursor, force=True)
        except Revoked:
            member.refresh()
            if number in member.shards:
                raise
            log.info("shard has ended before it was read", source=member.source.name, shard=number)

    def _make(self) -> bool:
        """Whether it was us."""
        member, source = self._member, self._member.source
        groups = member.control.groups()
        if source.consumer_group in groups:
            return self._join(groups)
        if not self._starts:
            starts = first_cursors(member)
            groups = member.control.groups()
            if source.consumer_group in groups:  # made while we asked: ours may be later than that
                return self._join(groups)
            self._starts = starts
        remember_starts(member, self._starts)
        try:
            member.control.create_group(source.consumer_group, source.consumer_timeout)
        except GroupExists:
            if not self._unsure:  # another host was first: where it begins counts, though it may not have said so yet
                self._starts = {}
                forget_starts(member)
            return self._join(member.control.groups())
        except QuotaExceeded as error:
            names = ", ".join(sorted(groups)) or "none that we may see"
            error.hint = f"groups of this logstore: {names}; delete one that is not used: sls-siem group delete"
            raise
        except SlsError:
            self._unsure = True
            raise
        note_starts(member, self._starts)
        return True

    def _join(self, groups: Mapping[str, float]) -> bool:
        """Somebody made it; or we did, and the answer was lost, or we were killed: then what we resolved counts, without force."""
        member, source = self._member, self._member.source
        member.heed(groups)
        starts = self._starts or remembered_starts(member)
        saved = member.control.checkpoints(source.consumer_group) if starts else {}
        if starts and not any(one is not None for one in saved.values()):
            note_starts(member, starts)
        else:
            forget_starts(member)
        return False
