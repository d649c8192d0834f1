"""The values that pass through the spool. Frozen, picklable, without behaviour beyond their own arithmetic.

Cursors are integers here: SLS's cursor is base64 of a decimal 64-bit number that grows by one per LogGroup.
The door to SLS (`worker/sls.py`) converts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class ShardKey:
    """What a position is keyed by. The same shard number created anew is another key."""

    project: str
    logstore: str
    group: str
    query: str
    shard: int
    created: int
    """The shard's createTime as SLS gives it, Unix seconds."""


@dataclass(frozen=True, slots=True)
class Pull:
    """SLS's answer to one PullLogs call, verified and still compressed."""

    key: ShardKey
    epoch: int
    """Of the key's positions, from 1; a new one begins when somebody moved the checkpoint back on purpose."""
    source: str
    """The source's name in the settings."""
    codec: str
    """`lz4` (raw block), `zstd`, or `none` (a suspect body as it came)."""
    raw_size: int
    """Bytes after decompression, as SLS announced."""
    begin: int
    next: int
    groups: int
    """LogGroups, as SLS announced (x-log-count)."""
    sparse: bool
    """Cursors inside cannot be counted up from `begin`: a query filtered, or next - begin != groups."""
    suspect: bool
    """The same bytes failed verification three times; the sender judges them."""
    arrived: float
    """When SLS received the newest of it, Unix seconds (x-log-cursor-time); 0 where unknown."""
    pulled: float
    """Unix seconds."""
    body: bytes
    first: bool = False
    """First pull since the shard was acquired; not stored."""


class Outcome(enum.Enum):
    """What a put did with one pull."""

    STORED = "stored"
    REPULL = "repull"
    """begins below the position: nothing stored, go on at `next`."""
    GAP = "gap"
    """begins above the position: refused, go back to `next`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The spool's answer to one pull: where the reader goes on."""

    outcome: Outcome
    next: int


@dataclass(frozen=True, slots=True)
class Position:
    """What this host knows of a shard. None stands for minus infinity."""

    epoch: int
    put: int | None
    """P: next cursor of the highest put."""
    checkpoint: int | None
    """C: the last checkpoint this host knows of."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one put made durable, read back and checked against its CRC."""

    id: int
    """The sequence number in its lane; grows, never reused."""
    pulls: tuple[Pull, ...]
    time: float
    """When it was put, Unix seconds."""
    bytes: int
    """Of the body file."""

    @property
    def groups(self) -> int:
        return sum(pull.groups for pull in self.pulls)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event that Splunk refused, or that waits for a hold to end."""

    sls_id: str
    log: bytes
    """A serialized LogGroup with exactly this one log, with topic, source and tags."""
    source: str
    project: str
    logstore: str
    shard: int
    cursor: str
    """The cursor part of the sls_id."""
    place: int
    """The log's place in its LogGroup."""
    topic: str
    status: int
    """HTTP status of the refusal; 0 where there was none (an event that we could not send)."""
    code: int
    """HEC code; -1 where there was none."""
    text: str
    index: str
    sourcetype: str
    time: float
    """Of the refusal, Unix seconds."""
    tries: int
    state: str
    """`dead`, `parked` or `due`."""
    hold: str = ""
    """`<kind>:<name>` of the hold that a parked event waits for."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Events at the exit, by route: added to the books in the transaction of the ack."""

    decoded: Mapping[str, int] = field(default_factory=dict)
    delivered: Mapping[str, int] = field(default_factory=dict)
    filtered: Mapping[str, int] = field(default_factory=dict)
