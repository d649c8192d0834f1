"""Which call of the service a request is, and what permission that call needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.emulators.sls_groups import Refused
from tests.emulators.sls_http import Request

#: operation -> the permission it needs
ACTIONS = {
    "get_project": "log:GetProject",
    "list_logstores": "log:ListLogStores",
    "create_logstore": "log:CreateLogStore",
    "get_logstore": "log:GetLogStore",
    "update_logstore": "log:UpdateLogStore",
    "delete_logstore": "log:DeleteLogStore",
    "list_shards": "log:ListShards",
    "split": "log:SplitShard",
    "merge": "log:MergeShards",
    "pull": "log:GetCursorOrData",
    "cursor": "log:GetCursorOrData",
    "cursor_time": "log:GetCursorOrData",
    "put_logs": "log:PostLogStoreLogs",
    "list_groups": "log:ListConsumerGroup",
    "create_group": "log:CreateConsumerGroup",
    "update_group": "log:UpdateConsumerGroup",
    "delete_group": "log:DeleteConsumerGroup",
    "heartbeat": "log:ConsumerGroupHeartBeat",
    "checkpoint": "log:ConsumerGroupUpdateCheckPoint",
    "get_checkpoint": "log:GetConsumerGroupCheckPoint",
}


@dataclass(frozen=True, slots=True)
class Call:
    operation: str
    project: str
    logstore: str = ""
    shard: int | None = None
    group: str = ""
    consumer: str = ""

    def named(self) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "project": self.project,
            "logstore": self.logstore,
            "shard": self.shard,
            "consumer": self.consumer,
        }


def identify(request: Request, project: str) -> Call:
    """Which call this is."""
    parts = [part for part in request.path.split("/") if part]
    method, kind = request.method, request.query.get("type", "")
    if not parts and method == "GET":
        return Call("get_project", project)
    if parts[:1] != ["logstores"]:
        raise Refused(404, "InvalidUri", f"no such resource: {request.path}")
    if len(parts) == 1:
        return Call(_by_method(method, GET="list_logstores", POST="create_logstore"), project)
    if len(parts) == 2:
        names = {"GET": "get_logstore", "PUT": "update_logstore", "DELETE": "delete_logstore"}
        return Call(_by_method(method, **names), project, parts[1])
    if parts[2] == "shards":
        return _shard_call(request, project, parts, kind)
    if parts[2] == "consumergroups":
        return _group_call(request, project, parts, kind)
    raise Refused(404, "InvalidUri", f"no such resource: {request.path}")


def _by_method(method: str, **names: str) -> str:
    if method not in names:
        raise Refused(405, "InvalidMethod", f"The method {method} is not allowed here.")
    return names[method]


def _shard_call(request: Request, project: str, parts: list[str], kind: str) -> Call:
    if len(parts) == 3:
        return Call(_by_method(request.method, GET="list_shards"), project, parts[1])
    if parts[3] in {"lb", "route"}:
        return Call(_by_method(request.method, POST="put_logs"), project, parts[1])
    if not parts[3].isdigit():
        raise Refused(400, "ParameterInvalid", f"invalid shard: {parts[3]}")
    operation = {"log": "pull", "logs": "pull", "cursor": "cursor", "cursor_time": "cursor_time"}.get(kind, "")
    if request.method == "POST":
        operation = {"split": "split", "merge": "merge"}.get(request.query.get("action", ""), "")
    if not operation:
        raise Refused(400, "ParameterInvalid", f"unknown type {kind!r}")
    return Call(operation, project, parts[1], int(parts[3]))


def _group_call(request: Request, project: str, parts: list[str], kind: str) -> Call:
    if len(parts) == 3:
        return Call(_by_method(request.method, GET="list_groups", POST="create_group"), project, parts[1])
    names = {"PUT": "update_group", "DELETE": "delete_group", "GET": "get_checkpoint"}
    if kind in {"heartbeat", "checkpoint"}:
        names["POST"] = kind
    operation = _by_method(request.method, **names)
    shard = _shard_of(request) if operation in {"get_checkpoint", "checkpoint"} else None
    return Call(operation, project, parts[1], shard, parts[3], request.query.get("consumer", ""))


def _shard_of(request: Request) -> int | None:
    """Best effort, for fault rules; the call itself judges what is wrong with it."""
    try:
        found = json.loads(request.body)["shard"] if request.body else request.query.get("shard")
        return None if found is None else int(found)
    except (ValueError, KeyError, TypeError):
        return None
