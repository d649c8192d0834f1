"""The only door to Alibaba's SDK: its client, made to fail fast, wait never, and hand out raw bodies.

- One try a call, with short time-outs and a deadline over all of it; no retries and no sleeps inside: callers know
  better. Every failure leaves as one of `worker.sls_errors`.
- The environment changes nothing behind our back: no .netrc, no CA bundle over the one in the settings.
- An endpoint that is an address with a port works; so do IPv6 and localhost.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import json
import os
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import urlsplit

import urllib3
from aliyun.log import LogClient
from aliyun.log.auth import AuthV1, AuthV4
from aliyun.log.credentials import Credentials as SdkCredentials

from worker import cursor as cursors
from worker.credentials import Credentials
from worker.settings import SourceSettings
from worker.sls_errors import BadAnswer, Misconfigured, SlsError, TlsRefused, Unreachable, classify

MAX_BODY = 64 << 20
CONNECT_SECONDS, READ_SECONDS = 5.0, 10.0
_API_VERSION = "0.6.0"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as SLS lists it."""

    number: int
    readonly: bool
    created: int


@dataclass(frozen=True, slots=True)
class RawPull:
    """The answer to one PullLogs call, as it came."""

    body: bytes
    codec: str
    raw_size: int
    groups: int
    next: int
    arrived: float
    at_end: bool


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


def is_address(host: str) -> bool:
    """Whether a project's name cannot be put in front of it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def is_loopback(host: str) -> bool:
    """This machine."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


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
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
        self._verify: str | bool = str(self._settings.ca_file) if self._settings.ca_file else bundle or True
        self._proxies = choose_proxies(self._settings.proxy, self._logHost)

    def close(self) -> None:
        """Close the kept connections."""
        self._session.close()

    def _send(
        self, method: str, project: str | None, body: Any, resource: str, params: Any, headers: Any,
        respons_body_type: str = "json", compute_content_hash: bool = True,
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
        url = f"{self.http_type}{prefix}{self._endpoint}{resource}"
        status, content, found = self._exchange(method, url, query, data, signed)
        if status != 200:
            raise refusal(status, content, found)
        if respons_body_type != "json":
            return content, found
        return parse_json(content), found

    def _exchange(
        self, method: str, url: str, params: Any, body: Any, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        headers["User-Agent"] = self._user_agent
        until = time.monotonic() + self.deadline
        try:
            answer = self._session.request(
                method, url, params=params, data=body, headers=headers, timeout=self._timeout, stream=True,
                allow_redirects=False, verify=self._verify, proxies=self._proxies,
            )  # fmt: skip
            with answer:
                found = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status_code, read_body(answer.raw, found, until), found
        except SlsError:
            raise
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:  # requests' errors are OSErrors
            raise unreachable(error) from error

    def pull_raw(self, shard: int, cursor: int, count: int, *, codec: str = "lz4", end: int | None = None) -> RawPull:
        """LogGroups from `cursor`, as they came."""
        params = {"type": "log", "cursor": cursors.to_text(cursor), "count": str(count)}
        if end is not None:
            params["end_cursor"] = cursors.to_text(end)
        if self._settings.query:
            params |= {"query": self._settings.query, "pullMode": "scan_on_stream"}
        wanted = {"Accept-Encoding": codec, "Accept": "application/x-protobuf"}
        path = f"/logstores/{self._settings.logstore}/shards/{shard}"
        body, found = self._send("GET", self._settings.project, None, path, params, wanted, "binary")
        return parse_pull(body, found, cursor)

    def get_cursor_at(self, shard: int, where: str) -> int:
        """begin, end, or Unix seconds."""
        with as_expected("GetCursor"):
            found = self._json("GET", f"/shards/{shard}", {"type": "cursor", "from": where})
            return cursors.to_number(found["cursor"])

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

    def heartbeat(self, group: str, consumer: str, held: Sequence[int]) -> list[int]:
        """The shards we have from now on."""
        params = {"type": "heartbeat", "consumer": consumer}
        with as_expected("HeartBeat"):
            found = self._json("POST", f"/consumergroups/{group}", params, list(held))
            given = found["shards"] if isinstance(found, dict) else found
            return [one + 0 for one in given]

    def checkpoints(self, group: str) -> dict[int, int | None]:
        """Shard → checkpoint, None where none is saved."""
        with as_expected("GetCheckPoint"):
            return {
                int(one["shard"]): cursors.to_number(one["checkpoint"]) if one.get("checkpoint") else None
                for one in self._json("GET", f"/consumergroups/{group}", {})
            }

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


@contextlib.contextmanager
def as_expected(what: str) -> Iterator[None]:
    """An answer without the fields it must have is an error like the others, not a crash."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer(f"the answer to {what} is not SLS's: {type(error).__name__} {error}") from error


def choose_proxies(proxy: str, host: str) -> dict[str, str]:
    """The setting, else the environment's, but never for this machine."""
    if proxy:
        return {"http": proxy, "https": proxy}
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return {}
    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("http", "https") if scheme in found}


def read_body(raw: Any, headers: Mapping[str, str], until: float) -> bytes:
    """At most MAX_BODY bytes, before `until`. A body that ends early raises."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise BadAnswer(f"an answer of {announced} bytes, at most {MAX_BODY} are taken")
    pieces, size = [], 0
    while piece := raw.read1(1 << 18, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY:
            raise BadAnswer(f"an answer of more than {MAX_BODY} bytes")
        if time.monotonic() > until:
            raise Unreachable("the answer comes too slowly")
    if announced.isdigit() and size < int(announced):
        raise Unreachable(f"the answer ended after {size} of {announced} bytes")
    body = b"".join(pieces)
    if headers.get("content-encoding", "").lower() in {"gzip", "deflate"}:
        try:
            return zlib.decompressobj(47).decompress(body, MAX_BODY)
        except zlib.error as error:
            raise BadAnswer(f"the answer is not the gzip it says: {error}") from error
    return body


def parse_json(content: bytes) -> Any:
    """None for an empty body."""
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        raise BadAnswer(f"the answer is not JSON: {content[:80]!r}") from None


def refusal(status: int, content: bytes, headers: Mapping[str, str]) -> SlsError:
    """What SLS, or something in between, said instead of 200."""
    request_id = headers.get("x-log-requestid", "")
    try:
        found = json.loads(content)
        return classify(status, str(found["errorCode"]), str(found["errorMessage"]), request_id)
    except (ValueError, KeyError, TypeError):
        text = content[:200].decode("utf-8", "replace")
        return classify(status, "", text or "without a word", request_id)


def unreachable(error: Exception) -> SlsError:
    """A failure below HTTP."""
    text = str(error)
    if "certificate" in text.lower() or "SSLError" in text or "SSLCert" in text:
        return TlsRefused(text)
    return Unreachable(f"{type(error).__name__}: {text}")


def parse_pull(body: bytes, headers: Mapping[str, str], cursor: int) -> RawPull:
    """BadAnswer when the headers are not those of a pull."""
    try:
        following = cursors.to_number(headers["x-log-cursor"])
        groups, raw_size = int(headers["x-log-count"]), int(headers["x-log-bodyrawsize"])
    except (KeyError, ValueError):
        raise BadAnswer("the answer lacks x-log-cursor, x-log-count or x-log-bodyrawsize") from None
    if groups < 0 or following < cursor or (groups and following == cursor):
        raise BadAnswer(f"from {cursor} SLS went on to {following} with {groups} LogGroups")
    return RawPull(
        body=body,
        codec=headers.get("x-log-compresstype", "").lower(),
        raw_size=raw_size,
        groups=groups,
        next=following,
        arrived=parse_time(headers.get("x-log-cursor-time", "")),
        at_end=headers.get("x-log-end-of-cursor") == "1" or (groups == 0 and following == cursor),
    )


def parse_time(text: str) -> float:
    """0 where there is none."""
    return float(text) if text.isdigit() else 0.0
