"""What happens to consumers in a chaos run. Each begins, lasts for a while, and is mended by its own end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.worker.chaos import Chaos

#: Of each hundred calls one goes wrong so.
ALWAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dropped connection": ("drop", "*", {}),
    "lost answer": ("drop_after", "*", {}),
    "hang": ("hang", "*", {"seconds": 2.0}),
    "500": ("status", "*", {"status": 500}),
    "500 after it was done": ("status_after", "*", {"status": 500}),
    "403": ("status", "*", {"status": 403, "code": "ShardReadQuotaExceed"}),
    "429": ("status", "*", {"status": 429, "text": "<html>slow down</html>"}),
    "garbage": ("garbage", "*", {}),
    "cut off": ("truncate", "pull", {}),
    "a cursor that is said to have expired": ("status", "pull", {"status": 400, "code": "InvalidCursor"}),
}


@contextmanager
def killed(chaos: Chaos) -> Iterator[None]:
    """Started again at once, as a supervisor does."""
    host, slot = chaos.any_running()
    chaos.houses[host].kill(slot)
    chaos.run(host, slot)
    yield


@contextmanager
def killed_and_away(chaos: Chaos) -> Iterator[None]:
    """Others get its shards in the meantime."""
    host, slot = chaos.any_running()
    chaos.houses[host].kill(slot)
    chaos.wanted.discard((host, slot))
    yield
    chaos.run_again(host, slot)


@contextmanager
def leaves(chaos: Chaos) -> Iterator[None]:
    """TERM, and back later."""
    host, slot = chaos.any_running()
    chaos.leave(host, slot)
    yield
    chaos.run_again(host, slot)


@contextmanager
def stands_still(chaos: Chaos) -> Iterator[None]:
    """Sometimes beyond the fence, sometimes beyond SLS's time-out."""
    host, slot = chaos.any_running()
    process = chaos.houses[host].processes[slot]
    chaos.stood_still.add((host, slot))
    chaos.standing.add((host, slot))
    os.kill(process.pid, signal.SIGSTOP)
    yield
    chaos.wake(host, slot)


@contextmanager
def shard_split(chaos: Chaos) -> Iterator[None]:
    chaos.sls.split(chaos.chance.choice(chaos.sls.store().writable()).number)
    yield


@contextmanager
def shards_merged(chaos: Chaos) -> Iterator[None]:
    open_shards = chaos.sls.store().writable()
    pairs = [one.number for one in open_shards if any(other.low == one.high for other in open_shards)]
    if pairs:
        chaos.sls.merge(chaos.chance.choice(pairs))
    yield


@contextmanager
def connections_cut(chaos: Chaos) -> Iterator[None]:
    chaos.sls.server.drop_connections()
    yield


@contextmanager
def cursors_expire(chaos: Chaos) -> Iterator[None]:
    """A shard cannot be pulled, and half of what waits in SLS is taken by retention.

    Without the other host: what one had spooled and not checkpointed the other would count as lost.
    """
    chaos.wait(lambda: not chaos.visiting, "the other host is away")
    shard = chaos.chance.choice(chaos.sls.store().writable())
    seen = shard.high_water
    chaos.wait(lambda: (chaos.sls.checkpoints("siem").get(shard.number) or 0) >= seen, "what it had is checkpointed")
    chaos.expiring += 1
    closed = chaos.sls.faults.add("status", "pull", shard=shard.number, status=503, code="ServerBusy")
    chaos.wait(lambda: shard.end > shard.high_water + 4, "a backlog grows")
    yield
    with chaos.sls.service.lock:
        shard.forced_begin = shard.high_water + (shard.end - shard.high_water) // 2
    chaos.sls.faults.remove(closed)
    chaos.trimmed[shard.number] = shard.forced_begin
    chaos.wait(
        lambda: (chaos.sls.checkpoints("siem").get(shard.number) or 0) >= shard.forced_begin,
        "reading goes on behind it",
    )
    chaos.expiring -= 1


@contextmanager
def another_host_visits(chaos: Chaos) -> Iterator[None]:
    """It takes its part of the shards and gives them back."""
    chaos.wait(lambda: not chaos.expiring and not chaos.visiting, "no cursor expires")
    chaos.visit()
    yield
    for slot in sorted(slot for host, slot in chaos.wanted if host == "two"):
        chaos.leave("two", slot)
    chaos.visiting = False


@contextmanager
def another_host_dies(chaos: Chaos) -> Iterator[None]:
    """It is gone without a word, with its disk whole: what it had not checkpointed is in two spools."""
    chaos.wait(lambda: not chaos.expiring and not chaos.visiting, "no cursor expires")
    chaos.visit()
    yield
    for slot in sorted(slot for host, slot in chaos.wanted if host == "two"):
        chaos.wanted.discard(("two", slot))
        chaos.standing.discard(("two", slot))
        chaos.houses["two"].kill(slot)
    chaos.visiting = False


TROUBLES: dict[str, Callable[[Chaos], AbstractContextManager[None]]] = {
    one.__name__: one
    for one in (
        killed, killed_and_away, leaves, stands_still, shard_split, shards_merged, connections_cut, cursors_expire,
        another_host_visits, another_host_dies,
    )
}  # fmt: skip
