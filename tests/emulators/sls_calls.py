"""The calls of the service by name: what each of them does to a logstore.

Everything here runs under the emulator's lock, except making the body of a pull.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.emulators import generator_wire as wire
from tests.emulators.sls_groups import ConsumerGroup, Refused
from tests.emulators.sls_http import Request, Response
from tests.emulators.sls_identify import Call
from tests.emulators.sls_pull import decompress
from tests.emulators.sls_store import (
    DAY,
    CheckpointRecord,
    HeartbeatRecord,
    Logstore,
    Shard,
    decode_cursor,
    encode_cursor,
)


@dataclass(slots=True)
class Knobs:
    """What nobody outside the service knows for certain, and what a test may want otherwise."""

    max_pull_bytes: int = 10_000_000
    max_groups: int = 30
    quota_status: int = 403
    mismatch_status: int = 404  # ConsumerNotMatch and ConsumerNotExist
    missing_shard_status: int = 404
    missing_shard_pull_status: int = 400
    zstd: bool = True
    forced_codec: str | None = None
    heartbeat_object: bool = False  # {"shards": [..]} as the documentation shows, instead of the bare array
    read_bytes_per_second: float | None = None
    read_calls_per_second: float | None = None
    title_case_headers: bool = False  # as some proxies do
    region: str = "cn-hangzhou"


def ok(body: Any = None) -> Response:
    return Response(200, {"Content-Type": "application/json"}, b"" if body is None else json.dumps(body).encode())


def _json(request: Request, code: str = "PostBodyInvalid") -> Any:
    try:
        return json.loads(request.body)
    except ValueError:
        raise Refused(400, code, "the body is not JSON") from None


def perform(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    """Every call on a logstore except pull."""
    answer: Response = globals()[f"_{call.operation}"](call, request, store, now, knobs)
    return answer


def describe(store: Logstore) -> dict[str, Any]:
    return {
        "logstoreName": store.name,
        "ttl": max(1, round(store.ttl / DAY)),
        "shardCount": len(store.writable()),
        "enable_tracking": False,
        "appendMeta": False,
        "autoSplit": False,
        "maxSplitShard": 64,
        "createTime": int(store.created),
        "lastModifyTime": int(store.created),
        "mode": "standard",
        "telemetryType": "",
    }


def _get_logstore(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    return ok(describe(store))


def _update_logstore(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    store.ttl = float(_json(request)["ttl"]) * DAY
    return ok()


def _show(shard: Shard) -> dict[str, Any]:
    return {
        "shardID": shard.number,
        "status": "readonly" if shard.readonly else "readwrite",
        "inclusiveBeginKey": f"{shard.low:032x}",
        "exclusiveEndKey": "f" * 32 if shard.high == 1 << 128 else f"{shard.high:032x}",
        "createTime": int(shard.created),
        "serverIp": "",
    }


def _list_shards(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    return ok([_show(shard) for _, shard in sorted(store.shards.items())])


def _split(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    key = request.query.get("key")
    count = int(request.query.get("shardCount") or 2)
    made = store.split(call.shard or 0, now, int(key, 16) if key else None, count)
    return ok([_show(shard) for shard in made])


def _merge(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    return ok([_show(shard) for shard in store.merge(call.shard or 0, now)])


def _cursor(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    shard = store.shard(call.shard or 0)
    wanted = request.query.get("from", "")
    if wanted == "begin":
        return ok({"cursor": encode_cursor(shard.begin(now, store.ttl))})
    if wanted == "end":
        return ok({"cursor": encode_cursor(shard.end)})
    try:
        moment = float(int(wanted))
    except ValueError:
        raise Refused(400, "ParameterInvalid", f"invalid from: {wanted!r}") from None
    return ok({"cursor": encode_cursor(shard.at_time(moment, now, store.ttl))})


def _cursor_time(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    shard = store.shard(call.shard or 0)
    cursor = decode_cursor(request.query.get("cursor", ""))
    if not shard.begin(now, store.ttl) <= cursor <= shard.end:
        raise Refused(400, "InvalidCursor", "cursor is expired or out of range")
    return ok({"cursor_time": int(now if cursor == shard.end else shard.received[cursor - shard.first])})


def _put_logs(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    codec = request.headers.get("x-log-compresstype", "")
    try:
        raw = decompress(request.body, codec, int(request.headers.get("x-log-bodyrawsize") or 0))
        wire.parse_group(raw)
    except (wire.Malformed, ValueError, RuntimeError) as bad:
        raise Refused(400, "PostBodyInvalid", f"the body is not a LogGroup: {bad}") from None
    open_shards = store.writable()
    key = request.query.get("key")
    if key:
        target = next(shard for shard in open_shards if shard.low <= int(key, 16) < shard.high)
    else:
        store.next_put += 1
        target = open_shards[store.next_put % len(open_shards)]
    target.append(raw, now)
    return ok()


def _list_groups(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    return ok([{"name": g.name, "timeout": int(g.timeout), "order": g.order} for g in store.groups.values()])


def _create_group(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    wanted = _json(request)
    name = str(wanted.get("consumerGroup", ""))
    if not name:
        raise Refused(400, "ParameterInvalid", "consumerGroup is missing")
    if name in store.groups:
        raise Refused(400, "ConsumerGroupAlreadyExist", f"consumer group {name} already exist")
    if len(store.groups) >= knobs.max_groups:
        raise Refused(
            knobs.quota_status, "ConsumerGroupQuotaExceed", f"consumer group count exceeds quota {knobs.max_groups}"
        )
    store.groups[name] = ConsumerGroup(name, float(wanted["timeout"]), bool(wanted.get("order")), knobs.mismatch_status)
    return ok()


def _update_group(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    group, wanted = store.group(call.group), _json(request)
    group.timeout = float(wanted.get("timeout", group.timeout))
    group.set_order(bool(wanted.get("order", group.order)))
    return ok()


def _delete_group(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    del store.groups[store.group(call.group).name]
    return ok()


def _heartbeat(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    group, held = store.group(call.group), _json(request, "JsonInfoInvalid")
    if not call.consumer or not isinstance(held, list):
        raise Refused(400, "ParameterInvalid", "a heartbeat needs a consumer and a list of shards")
    listed = tuple(int(number) for number in held)
    try:
        given = group.heartbeat(call.consumer, listed, store.views(), now)
    except Refused:
        store.heartbeats.append(HeartbeatRecord(now, call.group, call.consumer, listed, None))
        raise
    store.heartbeats.append(HeartbeatRecord(now, call.group, call.consumer, listed, tuple(given)))
    return ok({"shards": given} if knobs.heartbeat_object else given)


def _check_consumer(call: Call, *, force: bool) -> None:
    if not call.consumer and not force:
        raise Refused(400, "ParameterInvalid", "without a consumer forceSuccess must be true")


def _checkpoint(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    group, wanted = store.group(call.group), _json(request, "JsonInfoInvalid")
    force = request.query.get("forceSuccess", "false").lower() == "true"
    cursor = decode_cursor(str(wanted.get("checkpoint", "")), "InvalidShardCheckPoint")
    shard = int(wanted.get("shard", -1))
    error = ""
    try:
        _check_consumer(call, force=force)
        group.save(call.consumer, shard, cursor, store.views(), now, force=force)
    except Refused as refused:
        error = refused.code
        raise
    finally:
        store.checkpoints.append(CheckpointRecord(now, call.group, shard, cursor, call.consumer, force, error))
    return ok()


def _get_checkpoint(call: Call, request: Request, store: Logstore, now: float, knobs: Knobs) -> Response:
    group = store.group(call.group)
    group.tend(store.views(), now)
    wanted = request.query.get("shard")
    chosen = (
        sorted(group.shards.items()) if not wanted else [(n, a) for n, a in group.shards.items() if n == int(wanted)]
    )
    return ok(
        [
            {
                "shard": number,
                "checkpoint": "" if a.checkpoint is None else encode_cursor(a.checkpoint),
                "updateTime": int(a.saved_at * 1e6),
                "consumer": a.owner or a.saved_by,
            }
            for number, a in chosen
        ]
    )
