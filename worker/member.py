"""What the threads of one source share in this process: clients, fence, troubles, the list of shards, the codec."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from worker.child import ChildContext
from worker.credentials import Credentials
from worker.logs import get_logger
from worker.putter import Putter
from worker.report import Report
from worker.room import Room
from worker.settings import SourceSettings
from worker.sls import Shard, SlsClient
from worker.troubles import Troubles

if TYPE_CHECKING:
    from worker.reader import Reader

log = get_logger()


def boottime() -> float:
    """Seconds, also those that the machine slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Whether our shards are still ours, by our own clock: SLS gives them away after a silence."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds after which SLS gives our shards away."""
        self._acknowledged = float("-inf")

    def narrow(self, timeout: float) -> None:
        """The group's own time-out, where it is shorter than ours."""
        self.timeout = min(self.timeout, timeout)

    def acknowledge(self, sent: float) -> None:
        """A heartbeat sent at `sent` was answered."""
        self._acknowledged = max(self._acknowledged, sent)

    def fall(self) -> None:
        """SLS says that it has forgotten us."""
        self._acknowledged = float("-inf")

    def holds(self) -> bool:
        """Pull, put and save only while it does."""
        return boottime() - self._acknowledged < 0.8 * self.timeout


class Codec:
    """What to ask SLS for. `auto`: zstd until the first answer that is something else."""

    def __init__(self, source: str, wanted: str) -> None:
        self._source = source
        self._proved = wanted != "auto"
        self.ask = "zstd" if wanted == "auto" else wanted

    @property
    def proving(self) -> bool:
        """Whether it is not known yet that SLS can do zstd."""
        return not self._proved

    def answered(self, codec: str) -> None:
        """A pull with a body came in this codec, or the question itself was refused."""
        if self._proved:
            return
        self._proved = True
        if codec != "zstd":
            self.ask = "lz4"
            log.info("this source answers without zstd; lz4 from now on", source=self._source, codec=codec)


class Member:
    """One source in this process, joined."""

    def __init__(self, source: SourceSettings, context: ChildContext, putter: Putter, room: Room, report: Report,
                 consumer: str) -> None:  # fmt: skip
        self.source, self.context, self.putter, self.room, self.report = source, context, putter, room, report
        self.consumer = consumer
        self.troubles = Troubles(report, source.name)
        self.fence = Fence(source.consumer_timeout)
        self.codec = Codec(source.name, source.codec)
        credentials = Credentials(source)
        agent = f"sls-siem consumergroup-{source.consumer_group}-{consumer}"
        self.control = SlsClient(source, credentials, threads=2, agent=agent)
        self.saving = SlsClient(source, credentials, threads=4, agent=agent)
        self.data = SlsClient(source, credentials, threads=64, agent=agent)
        self.data._timeout = (5.0, 30.0)  # noqa: SLF001 - a pull may be big
        self.readers: dict[int, Reader] = {}
        self.lock = threading.Lock()
        self.shards: dict[int, Shard] = {}
        self.retention: float | None = None
        self.wake = threading.Event()
        """For the heartbeat: a reader has ended."""
        self.starts: dict[int, int | None] = {}
        """What `start` was resolved to, by who created the group."""
        self.max_in_pull = 2 << 20
        """Compressed bytes that the next pull may bring, by what the last ones brought."""

    def expect(self, size: int) -> None:
        """A pull brought so much: the next will need about as much room."""
        self.max_in_pull = max(size, self.max_in_pull * 7 // 8, 1 << 16)

    def refresh(self) -> None:
        """List the shards anew."""
        self.shards = self.control.shards()

    def live_readers(self) -> list[Reader]:
        """Those whose thread runs."""
        with self.lock:
            return [reader for reader in self.readers.values() if not reader.ended.is_set()]

    def close(self) -> None:
        """Close the connections."""
        self.control.close()
        self.saving.close()
        self.data.close()
