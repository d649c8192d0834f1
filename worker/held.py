"""A shard that this process holds: what its reader, the checkpoints, the heartbeat and the report know of it together."""

from __future__ import annotations

import threading
import time

from buffer.values import ShardKey
from worker.sls import Shard

#: Seconds for which a shard that is asked back waits for an answer; and for its last checkpoint besides.
STUCK, UNSAVED = 3.0, 8.0


class HeldShard:
    """From the heartbeat that gave it to us until its reader has ended."""

    def __init__(self, key: ShardKey, shard: Shard, source: str) -> None:
        self.key, self.shard, self.source, self.number = key, shard, source, shard.number
        self.labels = {"source": source, "shard": str(shard.number)}
        """Of its metrics."""
        self.epoch = 0
        self.acquired: int | None = None
        """S, as it was found."""
        self.durable: int | None = None
        """The next cursor up to which everything is on disk."""
        self.saved: int | None = None
        """The checkpoint that SLS has acknowledged."""
        self.sealed = False
        """Saved since it is known that nothing more will come."""
        self.closed = False
        """Read-only and read to its end."""
        self.edge: float | None = None
        """Everything that SLS received before has been pulled, Unix seconds."""
        self.newest: float | None = None
        """When the newest log that was pulled had arrived in SLS, Unix seconds."""
        self.alarm = 0
        self.caught_up = time.time()
        """When the checkpoint last was where `durable` is."""
        self.saving = threading.Lock()
        self.tried_to_save = 0.0
        self.mark: tuple[float, int] | None = None
        """(monotonic, `durable` then): how far a look begun later may let the checkpoint go, in `delivered`."""
        self.target: int | None = None
        """What the last such look allowed."""
        self.deadline = float("inf")
        """Past it the reader hangs, monotonic."""
        self.asking = False
        """A call to SLS is on its way whose answer nobody needs who lets go."""
        self.asked = float("inf")
        """Since when it shall be let go, monotonic."""
        self.ended = threading.Event()
        self.abandoned = False
        self.revoked = False
        """SLS said itself that the shard is not ours."""
        self._leave = threading.Event()

    def let_go(self) -> None:
        """Finish the put in progress, save, end."""
        self.asked = min(self.asked, time.monotonic())
        self._leave.set()

    def abandon(self) -> None:
        """The shard is somebody else's already: end without saving."""
        self.abandoned = True
        self._leave.set()

    def revoke(self) -> None:
        """SLS refused a call because the shard is not ours."""
        self.revoked = True
        self.abandon()

    @property
    def leaving(self) -> bool:
        """Asked to end."""
        return self._leave.is_set()

    def is_stuck(self, now: float) -> bool:
        """Asked to end, but SLS does not answer: what it would bring SLS has."""
        since = now - self.asked
        return self.asking and since >= (STUCK if self.saved == self.durable else UNSAVED)

    def rest(self, seconds: float) -> bool:
        """Wait, but not when asked to end; True then."""
        self.deadline = float("inf")
        return self._leave.wait(seconds)
