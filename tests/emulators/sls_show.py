"""What the remote control shows of the emulator: JSON-ready dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.emulators.generator import Ledger
from tests.emulators.sls_store import Logstore, Shard

if TYPE_CHECKING:
    from tests.emulators.sls import SlsEmulator


def show_ledger(ledger: Ledger) -> dict[str, Any]:
    return {
        "groups": ledger.groups,
        "logs": ledger.logs,
        "bytes": ledger.bytes,
        "numbered": ledger.numbered,
        "topics": dict(ledger.topics),
        "nasty": dict(ledger.nasty),
    }


def show_shard(sls: SlsEmulator, store: Logstore, shard: Shard) -> dict[str, Any]:
    return {
        "shard": shard.number,
        "readonly": shard.readonly,
        "first": shard.first,
        "begin": shard.begin(sls.clock.now(), store.ttl),
        "end": shard.end,
        "raw_bytes": shard.ends[-1] if shard.ends else 0,
        "pulls": len(shard.pulls),
        "groups_read": shard.high_water - shard.first,
        "pulled_groups": sum(pull.count for pull in shard.pulls),
    }


def show_store(sls: SlsEmulator, store: Logstore) -> dict[str, Any]:
    shards = list(store.shards.values())
    return {
        "project": store.project,
        "logstore": store.name,
        "shards": len(shards),
        "groups": sum(len(shard.framed) for shard in shards),
        "raw_bytes": sum(shard.ends[-1] for shard in shards if shard.ends),
        "groups_read": sum(shard.high_water - shard.first for shard in shards),
        "checkpointed": {name: _behind(store, name) for name in store.groups},
        "heartbeats": len(store.heartbeats),
    }


def _behind(store: Logstore, group: str) -> dict[str, int]:
    """LogGroups below the checkpoints, and those still above them."""
    done = left = 0
    for number, shard in store.shards.items():
        assigned = store.groups[group].shards.get(number)
        at = shard.first if assigned is None or assigned.checkpoint is None else assigned.checkpoint
        done += max(0, at - shard.first)
        left += max(0, shard.end - at)
    return {"done": done, "left": left}
