"""A dead letter of an event: the log behind it as a LogGroup of one, with everything needed to send it again."""

from __future__ import annotations

from typing import Any

from buffer.values import DeadLetter, Pull
from worker.encode import Encoded
from worker.encode_python import parse
from worker.envelope import text
from worker.loggroup import LogGroup


class Opened:
    """A pull, parsed for the letters of many of its events: what is parked may be all of it."""

    def __init__(self, pull: Pull, raw: bytes) -> None:
        self.pull = pull
        self.groups = parse(raw)
        self._frames: dict[int, Any] = {}
        """Each group without its logs."""

    def log(self, place: int, row: int) -> bytes:
        """One log of a group, with the group's topic, source and tags."""
        if place not in self._frames:
            frame = self._frames[place] = LogGroup()
            frame.CopyFrom(self.groups[place])
            del frame.Logs[:]
        one = LogGroup()
        one.CopyFrom(self._frames[place])
        one.Logs.add().CopyFrom(self.groups[place].Logs[row])
        found: bytes = one.SerializeToString()
        return found


def letter_of(
    opened: Opened, encoded: Encoded, event: int, *, status: int, code: int, why: str, state: str, hold: str, now: float
) -> DeadLetter:
    """`now` is Unix seconds, of the refusal."""
    place, row = encoded.locate(event)
    pull, span = opened.pull, encoded.span(event)
    return DeadLetter(
        sls_id=encoded.sls_id(event), log=opened.log(place, row), source=pull.source, project=pull.key.project,
        logstore=pull.key.logstore, shard=pull.key.shard, cursor=encoded.cursor(event), place=row,
        topic=text(opened.groups[place].Topic), status=status, code=code, text=why[:500], index=span.index,
        sourcetype=span.sourcetype, time=now, tries=1, state=state, hold=hold,
    )  # fmt: skip
