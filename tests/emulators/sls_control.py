"""The emulator's remote control: JSON under `/_control/`, for tests and demos that run it as a process.

GET  stats | checkpoints | requests | expected | arrivals | shards | faults
POST feed {logs: a second, shard?, project?, logstore?, reuse?}, 0 ends it
     append {logs | bytes, shard?, project?, logstore?, seed?, log_bytes?, nasty?, logs_per_group?} | nasty {shard?}
     append {bytes, reuse, shard?, project?, logstore?}; reuse: only so many raw bytes are made, once, and stored again and
     again; append does it at one moment, and pulls of them cost one compression
     faults [rule, ...] | clock {advance?, skew?} | split {shard} | merge {shard} | trim {shard, groups?} | ttl {days}
     knobs {name: value} | keys [key, ...] | logstore {logstore, shards} | drop_connections | stop
DELETE faults
All but the first two words of a POST take `project` and `logstore` too; without them the emulator's own.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tests.emulators.generator import Generator
from tests.emulators.generator_ids import arrivals, expected_ids
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_feed import Pool
from tests.emulators.sls_http import Request, Response
from tests.emulators.sls_show import show_ledger, show_shard, show_store
from tests.emulators.sls_store import DAY, Logstore

if TYPE_CHECKING:
    from tests.emulators.sls import SlsEmulator


def control(sls: SlsEmulator, request: Request) -> Response:
    name = f"{request.method.lower()}_{request.path.removeprefix('/_control/').strip('/')}"
    if name == "post_drop_connections":
        return _answer({"dropped": sls.server.drop_connections(spare=request.connection)})
    chosen = _COMMANDS.get(name)
    if chosen is None:
        return _answer({"error": f"no such command: {name}", "commands": sorted(_COMMANDS)}, 404)
    try:
        given: Any = json.loads(request.body) if request.body else dict(request.query)
        found = chosen(sls, given)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as wrong:
        return _answer({"error": f"{type(wrong).__name__}: {wrong}"}, 400)
    return found if isinstance(found, Response) else _answer(found)


def _answer(found: Any, status: int = 200) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(found).encode())


def _store(sls: SlsEmulator, given: dict[str, Any]) -> Logstore:
    return sls.store(given.get("logstore"), given.get("project"))


def _append(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    """A change of `seed`, `log_bytes`, `nasty` or `logs_per_group` starts another generator; give it another seed."""
    store = _store(sls, given)
    if "reuse" in given:
        pool = _pool(sls, store, given)
        with sls.service.lock:
            for _ in range(round(given["bytes"] / pool.bytes)):
                sls.store_framed(pool.all(), given.get("shard"), store=store)
        return {"logs": pool.logs}
    options = {key: given[key] for key in ("log_bytes", "nasty", "logs_per_group", "topics") if key in given}
    key = (store.project, store.name)
    if options or "seed" in given or key not in sls.generators:
        sls.generators[key] = Generator(int(given.get("seed", 1)), **options)
    ledger = sls.fill(given.get("logs"), max_bytes=given.get("bytes"), shard=given.get("shard"), store=store)
    return show_ledger(ledger)


def _pool(sls: SlsEmulator, store: Logstore, given: dict[str, Any]) -> Pool:
    key = (store.project, store.name)
    if key not in sls.pools:
        sls.pools[key] = Pool(int(given["reuse"]))
    return sls.pools[key]


def _feed(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    sls.feeder.stop()
    rate, store = float(given["logs"]), _store(sls, given)
    if rate:
        pool = _pool(sls, store, given) if "reuse" in given else None
        sls.feeder.start(rate, store, given.get("shard"), pool)
    return {"logs": rate}


def _nasty(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    store = _store(sls, given)
    generator = sls.generators.setdefault((store.project, store.name), Generator())
    sls.append((made.data for made in generator.nasty()), given.get("shard"), store=store)
    return show_ledger(generator.ledger)


def _shards(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    with sls.service.lock:
        store = _store(sls, given)
        return [show_shard(sls, store, shard) for _, shard in sorted(store.shards.items())]


def _checkpoints(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    with sls.service.lock:
        store = _store(sls, given)
        return {
            group.name: {
                "consumers": sorted(group.consumers),
                "timeout": group.timeout,
                "shards": {n: asdict(one) for n, one in sorted(group.shards.items())},
            }
            for group in store.groups.values()
        }


def _stats(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    with sls.service.lock:
        counts: Counter[str] = Counter()
        for (operation, status, code), times in sls.service.counts.items():
            counts[f"{operation} {status} {code}".strip()] += times
        stores = [store for held in sls.service.projects.values() for store in held.values()]
        return {
            "now": sls.clock.now(),
            "connections": sls.server.connections,
            "sent_bytes": sls.service.sent_bytes,
            "requests": dict(counts),
            "logstores": [show_store(sls, store) for store in stores],
            "generated": {f"{p}/{name}": show_ledger(one.ledger) for (p, name), one in sls.generators.items()},
            "stored_again": {f"{p}/{name}": one.logs for (p, name), one in sls.pools.items()},
        }


def _requests(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    with sls.service.lock:
        last = itertools.islice(reversed(sls.service.requests), int(given.get("limit", 100)))
        return [asdict(one) for one in last]


def _expected(sls: SlsEmulator, given: dict[str, Any]) -> Response:
    """One id a line."""
    text = "\n".join(expected_ids(_store(sls, given)))
    return Response(200, {"Content-Type": "text/plain"}, text.encode())


def _arrivals(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    with sls.service.lock:
        return dict(arrivals(_store(sls, given)))


def _faults(sls: SlsEmulator, given: Any) -> Any:
    sls.faults.load(given if isinstance(given, list) else [given])
    return sls.faults.dump()


def _clear_faults(sls: SlsEmulator, given: Any) -> Any:
    sls.faults.clear()
    return []


def _clock(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    sls.clock.advance(float(given.get("advance", 0)))
    sls.clock.skew = float(given.get("skew", sls.clock.skew))
    return {"now": sls.clock.now(), "skew": sls.clock.skew}


def _split(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    return [
        one.number for one in sls.split(int(given["shard"]), store=_store(sls, given), count=int(given.get("count", 2)))
    ]


def _merge(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    return [sls.merge(int(given["shard"]), store=_store(sls, given)).number]


def _trim(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    return {"begin": sls.trim(int(given["shard"]), given.get("groups"), store=_store(sls, given))}


def _ttl(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    _store(sls, given).ttl = float(given["days"]) * DAY
    return {"days": float(given["days"])}


def _knobs(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    for name, value in given.items():
        if name not in asdict(sls.knobs):
            raise ValueError(f"no such knob: {name}")
        setattr(sls.knobs, name, value)
    return asdict(sls.knobs)


def _keys(sls: SlsEmulator, given: list[dict[str, Any]]) -> Any:
    """The keys that are good from now on; all others are unknown."""
    made = [AccessKey(**{**one, "allowed": frozenset(one["allowed"]) if one.get("allowed") else None}) for one in given]
    with sls.service.lock:
        sls.service.keys.clear()
        sls.service.keys.update((key.id, key) for key in made)
    return [key.id for key in made]


def _logstore(sls: SlsEmulator, given: dict[str, Any]) -> Any:
    store = sls.add_logstore(given["logstore"], int(given.get("shards", 1)), project=given.get("project"))
    return {"project": store.project, "logstore": store.name, "shards": sorted(store.shards)}


def _stop(sls: SlsEmulator, given: Any) -> Any:
    sls.asked_to_stop.set()
    return {"stopping": True}


_COMMANDS: dict[str, Any] = {
    "get_stats": _stats,
    "get_shards": _shards,
    "get_checkpoints": _checkpoints,
    "get_requests": _requests,
    "get_expected": _expected,
    "get_arrivals": _arrivals,
    "get_faults": lambda sls, given: sls.faults.dump(),
    "post_faults": _faults,
    "delete_faults": _clear_faults,
    "post_append": _append,
    "post_feed": _feed,
    "post_nasty": _nasty,
    "post_clock": _clock,
    "post_split": _split,
    "post_merge": _merge,
    "post_trim": _trim,
    "post_ttl": _ttl,
    "post_knobs": _knobs,
    "post_keys": _keys,
    "post_logstore": _logstore,
    "post_stop": _stop,
}
