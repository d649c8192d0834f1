"""A kept line to one origin. `requests` says which pool of connections it is, with what trust and through which proxy,
once; what is then said over it is urllib3's alone.

A call through a requests.Session looks all of that up each time, merges settings, prepares a request and takes an answer
apart of which we need three things: twice the CPU of the whole call, more than compressing a megabyte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import urllib3


class Asked(NamedTuple):
    """As much of a prepared request as choosing a connection takes."""

    method: str
    url: str
    path_url: str = "/"


class Line:
    """To one origin; threads may share it as far as the session's pool goes."""

    def __init__(
        self, session: Any, asked: Any, *, verify: Any, proxies: Any, connect_timeout: float, timeout: float, cert: Any = None
    ) -> None:  # fmt: skip
        """`session` is a requests.Session, `asked` a request of it, prepared. Raises what requests raises, and OSError."""
        adapter = session.get_adapter(asked.url)
        self._pool = adapter.get_connection_with_tls_context(asked, verify, proxies=proxies, cert=cert)
        adapter.cert_verify(self._pool, asked.url, verify, cert)
        self.target: str = adapter.request_url(asked, proxies)
        """What stands behind the method: a path, or the whole URL for a proxy of plain http."""
        self._retries = adapter.max_retries
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=timeout)

    def call(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        """One try; the answer is not read yet, redirects are not followed. Raises urllib3's errors and OSError."""
        found: urllib3.BaseHTTPResponse = self._pool.urlopen(
            method, target, body=body, headers=headers, redirect=False, assert_same_host=False, preload_content=False,
            decode_content=False, retries=self._retries, timeout=self._timeout,
        )  # fmt: skip
        return found
