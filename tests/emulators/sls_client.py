"""The SDK's own client, pointed at an emulator: for tests that want the service's answers as they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aliyun.log import LogClient

from tests.emulators.sls import SlsEmulator


class SlsClient:
    """`sdk` is a LogClient; `call` is one request without the SDK's retries: (status, headers in lower case, body)."""

    def __init__(
        self, sls: SlsEmulator, ak: str = "ak", sk: str = "sk", token: str | None = None, **options: Any
    ) -> None:
        self.project = sls.project
        self.logstore = sls.logstore
        made: Any = LogClient
        self.sdk = made(sls.endpoint, ak, sk, token, source="test", **options)
        self.sdk._isRowIp = True  # an address with a port; the SDK knows only addresses without
        self.sdk.timeout = (5, 20)
        if sls.tls:
            self.sdk._session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
            self.sdk._session.verify = str(sls.ca_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sdk._session.close()

    def call(
        self,
        method: str,
        resource: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        signed = {"x-log-apiversion": "0.6.0", "Host": f"{self.project}.{self.sdk._logHost}", **(headers or {})}
        query = dict(params or {})
        self.sdk._auth.sign_request(method, resource, query, signed, body)
        url = f"{self.sdk.http_type}{self.sdk._endpoint}{resource}"
        status, content, found = self.sdk._getHttpResponse(method, url, query, body, signed)
        return status, {name.lower(): value for name, value in found.items()}, content

    def pull(
        self, shard: int, cursor: str, count: int = 1000, codec: str = "lz4", **params: str
    ) -> tuple[int, dict[str, str], bytes]:
        query = {"type": "log", "cursor": cursor, "count": str(count), **params}
        headers = {"Accept-Encoding": codec, "Accept": "application/x-protobuf"}
        return self.call("GET", f"/logstores/{self.logstore}/shards/{shard}", query, headers=headers)

    def cursor(self, shard: int, where: str = "begin") -> str:
        return str(self.sdk.get_cursor(self.project, self.logstore, shard, where).get_cursor())
