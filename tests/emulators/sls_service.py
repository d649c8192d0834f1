"""The emulated service: one request in, one answer out, with everything that can go wrong in between."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.emulators import sls_calls as calls
from tests.emulators import sls_pull as pulling
from tests.emulators.book import Book
from tests.emulators.sls_auth import AccessKey, Signed, authenticate, authorize
from tests.emulators.sls_break import after_call, before_call
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_faults import Faults
from tests.emulators.sls_groups import Refused
from tests.emulators.sls_http import Request, Response
from tests.emulators.sls_identify import ACTIONS, Call, identify
from tests.emulators.sls_store import Clock, Logstore, PullRecord, Shard, new_logstore


@dataclass(frozen=True, slots=True)
class RequestRecord:
    time: float
    operation: str
    logstore: str
    shard: int | None
    consumer: str
    status: int  # 0: no answer
    code: str
    fault: str
    peer: str
    connection: int
    sent_bytes: int
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Service:
    """Everything of the emulator except its port. `lock` guards all state; faults guard themselves."""

    def __init__(self, *, default_project: str, stopping: threading.Event, knobs: Knobs | None = None) -> None:
        self.knobs = knobs or Knobs()
        self.clock = Clock()
        self.faults = Faults()
        self.keys: dict[str, AccessKey] = {}
        self.projects: dict[str, dict[str, Logstore]] = {default_project: {}}
        self.default_project = default_project
        self.lock = threading.RLock()
        self.requests: Book[RequestRecord] = Book(maxlen=20_000)
        self.counts: Counter[tuple[str, int, str]] = Counter()
        self.sent_bytes = 0
        self.taken_bytes = 0
        """Of pulls' bodies that were handed to the network whole; see `HttpServer.send_buffer`."""
        self.cache = pulling.BodyCache()
        self._stopping = stopping
        self._answered = 0

    def add_logstore(
        self, project: str, name: str, shards: int, *, ttl: float = 30 * 86400.0, first_cursor: int | None = None
    ) -> Logstore:
        """Also makes one anew under an old name: its shards begin again with other cursors."""
        with self.lock:
            old = self.projects.get(project, {}).get(name)
            # createTime is in whole seconds: anew means another one
            now = self.clock.now() if old is None else max(self.clock.now(), old.last_created() + 1)
            store = new_logstore(project, name, shards, now, ttl=ttl, first_cursor=first_cursor)
            self.projects.setdefault(project, {})[name] = store
            return store

    def handle(self, request: Request) -> Response:
        call = Call("unknown", self._project(request))
        fault_name = ""
        try:
            call = identify(request, call.project)
            fault = self.faults.strike(call.named())
            fault_name = fault.kind if fault else ""
            response = before_call(fault, self._stopping) if fault else None
            if response is None:
                response = self._perform(call, request)
                response = after_call(fault, response, self._stopping) if fault else response
        except Refused as refused:
            response = _error(refused)
        except (ValueError, KeyError, TypeError, StopIteration) as wrong:
            response = _error(Refused(400, "ParameterInvalid", f"{type(wrong).__name__}: {wrong}"))
        self._record(call, request, response, fault_name)
        if self.knobs.title_case_headers:
            response.headers = {name.title(): value for name, value in response.headers.items()}
        return response

    def _project(self, request: Request) -> str:
        """The first label of the host; an address or `localhost` alone means the default project."""
        name = request.host.rsplit(":", 1)[0].strip("[]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.partition(".")[0] if "." in name else self.default_project
        return self.default_project

    def _perform(self, call: Call, request: Request) -> Response:
        signed = Signed(request.method, request.path, request.query, request.headers, request.body)
        with self.lock:
            key = authenticate(signed, self.keys, self.clock.server_time())
            if call.project not in self.projects:
                raise Refused(404, "ProjectNotExist", f"The Project does not exist : {call.project}")
            authorize(key, ACTIONS[call.operation], _resource(call, self.knobs.region))
            if call.operation in {"get_project", "list_logstores", "create_logstore", "delete_logstore"}:
                return self._on_project(call, request)
            store = self._store(call)
            if call.operation != "pull":
                return calls.perform(call, request, store, self.clock.now(), self.knobs)
        return self._pull(call, request, store)

    def _store(self, call: Call) -> Logstore:
        store = self.projects[call.project].get(call.logstore)
        if store is None:
            raise Refused(404, "LogStoreNotExist", f"logstore {call.logstore} does not exist")
        store.expire(self.clock.now())
        if call.operation in {"cursor", "cursor_time", "split", "merge", "pull"} and call.shard not in store.shards:
            pull = call.operation == "pull"
            status = self.knobs.missing_shard_pull_status if pull else self.knobs.missing_shard_status
            raise Refused(status, "ShardNotExist", f"Shard does not exist: {call.shard}")
        return store

    def _on_project(self, call: Call, request: Request) -> Response:
        stores = self.projects[call.project]
        if call.operation == "get_project":
            named = dict.fromkeys(("description", "owner", "createTime", "lastModifyTime"), "")
            return calls.ok({**named, "projectName": call.project, "status": "Normal", "region": self.knobs.region})
        if call.operation == "list_logstores":
            return calls.ok({"count": len(stores), "total": len(stores), "logstores": sorted(stores)})
        if call.operation == "delete_logstore":
            del stores[self._store(call).name]
            return calls.ok()
        wanted = json.loads(request.body)
        if wanted["logstoreName"] in stores:
            raise Refused(400, "LogStoreAlreadyExist", f"logstore {wanted['logstoreName']} already exists")
        self.add_logstore(
            call.project, wanted["logstoreName"], int(wanted["shardCount"]), ttl=float(wanted["ttl"]) * 86400
        )
        return calls.ok()

    def _pull(self, call: Call, request: Request, store: Logstore) -> Response:
        query, wanted = request.query, request.query.get("query", "")
        with self.lock:
            now = self.clock.now()
            shard = store.shard(call.shard or 0)
            _check_quota(shard, now, self.knobs)
            count = _count(query.get("count", "1000"))
            begin = shard.begin(now, store.ttl)
            part = pulling.cut_slice(
                shard,
                query.get("cursor", ""),
                query.get("end_cursor", ""),
                count=count,
                max_bytes=self.knobs.max_pull_bytes,
                begin=begin,
            )
        accepted = request.headers.get("accept-encoding", "")
        codec = pulling.choose_codec(accepted, zstd_works=self.knobs.zstd, forced=self.knobs.forced_codec)
        found = pulling.answer(part, wanted, codec, self.cache)
        client = request.headers.get("user-agent", "")
        with self.lock:
            if self.knobs.read_bytes_per_second is not None:
                shard.read_bytes -= found.raw_bytes
            shard.high_water = max(shard.high_water, found.next)
            shard.pulls.append(PullRecord(now, part.cursor, found.next, found.count, found.raw_bytes, client, wanted))
        return Response(
            200, pulling.headers(part, found, now, wanted), found.body, told=self._count_taken(len(found.body))
        )

    def _count_taken(self, size: int) -> Callable[[bool], None]:
        def told(was_sent: bool) -> None:
            if was_sent:
                with self.lock:
                    self.taken_bytes += size

        return told

    def _record(self, call: Call, request: Request, response: Response, fault: str) -> None:
        code = response.headers.pop("x-emulator-code", "")
        status = 0 if response.drop else response.status
        record = RequestRecord(
            self.clock.now(),
            call.operation,
            call.logstore,
            call.shard,
            call.consumer,
            status,
            code,
            fault,
            request.peer,
            request.connection,
            len(response.body),
            request.query,
            request.headers,
        )
        with self.lock:
            self._answered += 1
            response.headers.setdefault("x-log-requestid", f"{self._answered:024X}")
            self.requests.append(record)
            self.counts[call.operation, status, code] += 1
            self.sent_bytes += len(response.body)


def _resource(call: Call, region: str) -> str:
    where = f"acs:log:{region}:1234567890123456:project/{call.project}"
    if call.logstore:
        where += f"/logstore/{call.logstore}"
    return f"{where}/consumergroup/{call.group}" if call.group else where


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise Refused(400, "ParameterInvalid", f"count must be 1 to 1000: {text}")
    return int(text)


def _check_quota(shard: Shard, now: float, knobs: Knobs) -> None:
    """Two token buckets of one second each; bytes are taken after the answer, so they may be overdrawn."""
    passed, shard.read_at = max(0.0, now - shard.read_at), now
    if (rate := knobs.read_bytes_per_second) is not None:
        shard.read_bytes = min(rate, shard.read_bytes + rate * passed)
        if shard.read_bytes <= 0:
            raise Refused(403, "ShardReadQuotaExceed", "shard read bytes exceed quota limits")
    if (rate := knobs.read_calls_per_second) is not None:
        shard.read_calls = min(rate, shard.read_calls + rate * passed)
        if shard.read_calls < 1:
            raise Refused(403, "ShardReadQuotaExceed", "shard read qps exceed quota limits")
        shard.read_calls -= 1


def _error(refused: Refused) -> Response:
    body = json.dumps({"errorCode": refused.code, "errorMessage": refused.message}).encode()
    return Response(refused.status, {"Content-Type": "application/json", "x-emulator-code": refused.code}, body)
