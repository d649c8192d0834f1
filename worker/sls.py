"""The only door to Alibaba's SDK: its client, made to fail fast, wait never, and hand out raw bodies.

- One try a call, with short time-outs and a deadline over all of it; no retries and no sleeps inside: callers know
  better. Every failure leaves as one of `worker.sls_errors`.
- The environment changes nothing behind our back: no .netrc, no CA bundle over the one in the settings.
- An endpoint that is an address with a port works; so do IPv6 and localhost.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import worker.lean  # noqa: F401 - before the SDK, which imports requests

# isort: split
import urllib3
from aliyun.log import LogClient
from aliyun.log.auth import AuthV1, AuthV4
from aliyun.log.credentials import Credentials as SdkCredentials

from worker import cursor as cursors
from worker.credentials import Credentials
from worker.line import Asked, Line
from worker.settings import SourceSettings
from worker.sls_address import choose_proxies, is_address, is_loopback
from worker.sls_answer import (
    Admit,
    RawPull,
    as_expected,
    await_room,
    parse_json,
    parse_pull,
    read_body,
    refusal,
    unreachable,
)
from worker.sls_errors import Misconfigured, SlsError
from worker.trust import trusted

CONNECT_SECONDS, READ_SECONDS = 5.0, 10.0
_API_VERSION = "0.6.0"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as SLS lists it."""

    number: int
    readonly: bool
    created: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What SLS holds of a shard for a consumer group."""

    cursor: int | None
    """The checkpoint; None where none is saved."""
    consumer: str
    """Who holds the shard, or saved last; empty where nobody did."""


class _Provider:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def get_credentials(self) -> Any:
        keys = self._credentials.get()
        return SdkCredentials(keys.access_key_id, keys.secret, keys.token or None)


class _V1(AuthV1):
    @staticmethod
    def _getGMT() -> str:  # noqa: N802 - the SDK's name; its own sets the locale of the whole process
        return email.utils.formatdate(usegmt=True)


class _V4(AuthV4):
    def sign_request(
        self, method: str, resource: str, params: Any, headers: Any, body: Any, compute_content_hash: bool = True
    ) -> None:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        sign: Any = self._do_sign_request
        headers["Authorization"] = sign(
            method, resource, params, headers, body, now, compute_content_hash=compute_content_hash
        )


class SlsClient(LogClient):
    """One source's calls. Threads may share it; a heartbeat should have its own."""

    _session: Any
    _user_agent: str
    _timeout: Any

    def __init__(
        self, settings: SourceSettings, credentials: Credentials, *, threads: int = 8, agent: str = "sls-siem"
    ) -> None:
        self._settings = settings
        endpoint = settings.endpoint if "://" in settings.endpoint else f"https://{settings.endpoint}"
        provider: Any = _Provider(credentials)
        super().__init__("http://127.0.0.1", "", "", source="", credentials_provider=provider)
        self._aim(endpoint)
        v1, v4 = cast("Any", _V1), cast("Any", _V4)
        self._auth = v4(provider, settings.region) if settings.region else v1(provider)
        self._user_agent = agent
        self._timeout = (CONNECT_SECONDS, READ_SECONDS)
        self.deadline = 60.0
        self._prepare_session(threads)

    def _aim(self, endpoint: str) -> None:
        """Take the endpoint apart; the SDK knows neither IPv6 nor an address with a port."""
        parts = urlsplit(endpoint.strip())
        host = parts.hostname or ""
        if parts.scheme not in {"http", "https"} or not host:
            raise Misconfigured(f"endpoint {endpoint!r} is no http(s) address")
        if parts.scheme == "http" and not self._settings.allow_plaintext and not is_loopback(host):
            wrong = Misconfigured(f"endpoint {endpoint!r} is plain http")
            wrong.hint = "use https://, or set allow_plaintext = true for this source"
            raise wrong
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self.http_type, self._port, self._logHost = f"{parts.scheme}://", port, host
        self._endpoint = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._isRowIp = is_address(host)

    def _prepare_session(self, threads: int) -> None:
        session = self._session
        adapter = type(session.get_adapter("https://"))
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter(pool_connections=2, pool_maxsize=max(threads, 2), max_retries=0))
        self._verify = trusted(self._settings.ca_file)
        self._proxies = choose_proxies(self._settings.proxy, self._logHost)
        self._lines: dict[str, Line] = {}

    def _line(self, origin: str) -> Line:
        """To a project; found once. Cookies are neither taken nor sent."""
        line = self._lines.get(origin)
        if line is None:
            connect, read = self._timeout
            line = self._lines[origin] = Line(
                self._session, Asked("GET", f"{origin}/"), verify=self._verify, proxies=self._proxies,
                connect_timeout=connect, timeout=read,
            )  # fmt: skip
        return line

    def limit(self, connect: float, read: float, whole: float | None = None) -> None:
        """Seconds of patience: to connect, between two pieces of an answer, for a whole call (default: both)."""
        self._timeout = (connect, read)
        self._lines = {}  # each has its time-outs; the connections stay
        self.deadline = connect + read if whole is None else whole

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()

    def _send(
        self, method: str, project: str | None, body: Any, resource: str, params: Any, headers: Any,
        respons_body_type: str = "json", compute_content_hash: bool = True, admit: Admit | None = None,
    ) -> tuple[Any, dict[str, str]]:  # fmt: skip
        """One try. The SDK's own repeats ten times with a second's sleep."""
        data = body.encode() if isinstance(body, str) else body
        signed = {"Accept-Encoding": "identity", **headers, "x-log-apiversion": _API_VERSION}
        signed["Content-Length"] = str(len(data or b""))
        if not data:
            signed["x-log-bodyrawsize"] = "0"
        signed["Host"] = f"{project}.{self._logHost}" if project else self._logHost
        prefix = "" if self._isRowIp or not project else f"{project}."
        query = dict(params)
        self._auth.sign_request(method, resource, query, signed, data, compute_content_hash=compute_content_hash)
        origin = f"{self.http_type}{prefix}{self._endpoint}"
        target = quote(resource, safe="/%") + (f"?{urlencode(query)}" if query else "")
        status, content, found = self._exchange(method, origin, target, data, signed, admit)
        if status != 200:
            raise refusal(status, content, found)
        if respons_body_type != "json":
            return content, found
        return parse_json(content), found

    def _exchange(
        self, method: str, origin: str, target: str, body: bytes | None, headers: dict[str, str], admit: Admit | None
    ) -> tuple[int, bytes, dict[str, str]]:
        headers["User-Agent"] = self._user_agent
        until = time.monotonic() + self.deadline
        try:
            line = self._line(origin)
            answer = line.call(method, line.target.removesuffix("/") + target, headers, body)
            try:
                found = {name.lower(): value for name, value in answer.headers.items()}
                if admit is not None and answer.status == 200:
                    until += await_room(found, admit)
                return answer.status, read_body(answer, found, until), found
            finally:
                answer.close()  # what was read to its end has given its connection back before
        except SlsError:
            raise
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:  # requests' errors are OSErrors
            raise unreachable(error) from error

    def pull_raw(
        self,
        shard: int,
        cursor: int,
        count: int,
        *,
        codec: str = "lz4",
        end: int | None = None,
        admit: Admit | None = None,
    ) -> RawPull:
        """LogGroups from `cursor`, as they came. Declined when `admit` refuses the size that the answer's head announces;
        it may take its time: the body waits with SLS.
        """
        params = {"type": "log", "cursor": cursors.to_text(cursor), "count": str(count)}
        if end is not None:
            params["end_cursor"] = cursors.to_text(end)
        if self._settings.query:
            params |= {"query": self._settings.query, "pullMode": "scan_on_stream"}
        wanted = {"Accept-Encoding": codec, "Accept": "application/x-protobuf"}
        path = f"/logstores/{self._settings.logstore}/shards/{shard}"
        body, found = self._send("GET", self._settings.project, None, path, params, wanted, "binary", admit=admit)
        return parse_pull(body, found, cursor)

    def get_cursor_at(self, shard: int, where: str) -> int:
        """begin, end, or Unix seconds."""
        with as_expected("GetCursor"):
            found = self._json("GET", f"/shards/{shard}", {"type": "cursor", "from": where})
            return cursors.to_number(found["cursor"])

    def arrival(self, shard: int, cursor: int) -> float:
        """When SLS received the LogGroup at `cursor`, Unix seconds. InvalidCursor where retention has taken it."""
        with as_expected("GetCursorTime"):
            params = {"type": "cursor_time", "cursor": cursors.to_text(cursor)}
            return float(self._json("GET", f"/shards/{shard}", params)["cursor_time"])

    def shards(self) -> dict[int, Shard]:
        """All shards of the logstore, read-only ones too."""
        with as_expected("ListShards"):
            rows = [
                Shard(int(one["shardID"]), one.get("status") == "readonly", int(one["createTime"]))
                for one in self._json("GET", "/shards", {})
            ]
        return {one.number: one for one in rows}

    def retention_seconds(self) -> float:
        """The logstore's TTL."""
        with as_expected("GetLogStore"):
            return float(self._json("GET", "", {})["ttl"]) * 86400.0

    def groups(self) -> dict[str, float]:
        """Consumer group → its time-out."""
        with as_expected("ListConsumerGroup"):
            return {str(one["name"]): float(one["timeout"]) for one in self._json("GET", "/consumergroups", {})}

    def create_group(self, name: str, timeout: float) -> None:
        """GroupExists when somebody was first."""
        wanted = {"consumerGroup": name, "timeout": int(timeout), "order": False}
        self._json("POST", "/consumergroups", {}, wanted)

    def delete_group(self, name: str) -> None:
        """With its checkpoints."""
        self._json("DELETE", f"/consumergroups/{name}", {})

    def heartbeat(self, group: str, consumer: str, held: Sequence[int]) -> list[int]:
        """The shards we have from now on."""
        params = {"type": "heartbeat", "consumer": consumer}
        with as_expected("HeartBeat"):
            found = self._json("POST", f"/consumergroups/{group}", params, list(held))
            given = found["shards"] if isinstance(found, dict) else found
            return [one + 0 for one in given]

    def saved(self, group: str) -> dict[int, Saved]:
        """Shard → checkpoint and consumer."""
        with as_expected("GetCheckPoint"):
            return {
                int(one["shard"]): Saved(
                    cursors.to_number(one["checkpoint"]) if one.get("checkpoint") else None,
                    str(one.get("consumer") or ""),
                )
                for one in self._json("GET", f"/consumergroups/{group}", {})
            }

    def checkpoints(self, group: str) -> dict[int, int | None]:
        """Shard → checkpoint, None where none is saved."""
        return {number: one.cursor for number, one in self.saved(group).items()}

    def save_checkpoint(self, group: str, consumer: str, shard: int, cursor: int, *, force: bool = False) -> None:
        """Revoked when the shard is not ours any more."""
        params = {"type": "checkpoint", "consumer": consumer, "forceSuccess": str(force)}
        wanted = {"shard": shard, "checkpoint": cursors.to_text(cursor)}
        self._json("POST", f"/consumergroups/{group}", params, wanted)

    def _json(self, method: str, path: str, params: Mapping[str, str], body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        resource = f"/logstores/{self._settings.logstore}{path}"
        headers = {"Content-Type": "application/json"}
        found, _ = self._send(method, self._settings.project, text, resource, params, headers)
        return found
