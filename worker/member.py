"""What the threads of one source share in this process: clients, fence, troubles, the list of shards, the codec."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

from worker import slots
from worker.child import ChildContext
from worker.codec import Codec
from worker.credentials import Credentials
from worker.fence import Fence
from worker.held import HeldShard
from worker.putter import Putter
from worker.report import Report
from worker.room import Room
from worker.settings import SourceSettings
from worker.sls import Shard, SlsClient
from worker.troubles import Troubles
from worker.waiting import Waiting


class Member:
    """One source in this process, joined."""

    def __init__(self, source: SourceSettings, context: ChildContext, putter: Putter, room: Room, waiting: Waiting,
                 report: Report, consumer: str) -> None:  # fmt: skip
        self.source, self.context, self.putter, self.room, self.report = source, context, putter, room, report
        self.waiting = waiting
        self.consumer = consumer
        self.troubles = Troubles(report, source.name)
        self.fence = Fence(source.consumer_timeout)
        self.codec = Codec(source.name, source.codec)
        credentials = Credentials(source)
        agent = f"sls-siem consumergroup-{source.consumer_group}-{consumer}"
        self.control = SlsClient(source, credentials, threads=2, agent=agent)
        self.narrow(source.consumer_timeout)
        self.saving = SlsClient(source, credentials, threads=4, agent=agent)
        self.data = SlsClient(source, credentials, threads=64, agent=agent)
        self.data.limit(5.0, 30.0, 60.0)
        self.held: dict[int, HeldShard] = {}
        self.lock = threading.Lock()
        self.shards: dict[int, Shard] = {}
        self.retention: float | None = None
        self.wake = threading.Event()
        """For the heartbeat: a reader has ended."""
        self.lived = False
        """A checkpoint of the group has been seen: from now on it is not in its first run, even when it is made anew."""
        self.max_in_pull = 2 << 20
        """Compressed bytes that the next pull may bring, by what the last ones brought."""

    def heed(self, groups: Mapping[str, float]) -> None:
        """The time-out that our group has among these: whoever made it may have set another."""
        self.narrow(groups.get(self.source.consumer_group, self.source.consumer_timeout))

    def narrow(self, timeout: float) -> None:
        """The group's own time-out, where it is shorter than ours. A heartbeat that hangs must leave time for another one
        before SLS gives our shards away."""
        self.fence.narrow(timeout)
        self.control.limit(min(5.0, self.fence.timeout / 6), min(10.0, self.fence.timeout / 3))

    def expect(self, size: int) -> None:
        """A pull brought so much: the next will need about as much room."""
        self.max_in_pull = max(size, self.max_in_pull * 7 // 8, 1 << 16)

    def refresh(self) -> None:
        """List the shards anew."""
        self.shards = self.control.shards()

    def group_lock(self) -> slots.Lock:
        """Held by one slot of this host at a time, while it enters the group or begins its first run."""
        return slots.Lock(self.context.run_directory / f"group-{self.group_hash()}.lock")

    def group_hash(self) -> str:
        """The group of the logstore, in the names of files."""
        source = self.source
        return hashlib.sha256(f"{source.project}/{source.logstore}/{source.consumer_group}".encode()).hexdigest()[:16]

    def live(self) -> list[HeldShard]:
        """Those whose reader runs."""
        with self.lock:
            return [one for one in self.held.values() if not one.ended.is_set()]

    def close(self) -> None:
        """Close the connections."""
        self.control.close()
        self.saving.close()
        self.data.close()
