"""The only door to `requests`: posts to Splunk, and turns whatever happens into a Reply.

Redirects are never followed (the token would go along), the environment's .netrc and CA bundle do not count, a
User-Agent is always sent (without one splunkd answers HTTP/1.0), answers are read up to a bound.
"""

from __future__ import annotations

import importlib
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.cookies
import urllib3

from worker.line import Line
from worker.settings import HecSettings
from worker.verdict import Failure, Reply

try:
    fast_zlib: Any = importlib.import_module("isal.isal_zlib")
except ImportError:  # not for this processor
    fast_zlib = None

EVENT_PATH = "/services/collector/event"
ACK_PATH = "/services/collector/ack"
HEALTH_PATH = "/services/collector/health"
#: Bytes of an answer that are read.
LONGEST_ANSWER = 1 << 16
#: Seconds after which a connection is not used again: behind a balancer that name by name resolves, load spreads.
OLDEST_CONNECTION = 300.0
USER_AGENT = f"sls-siem/{version('sls-siem')}"


def gzip(pieces: Iterable[bytes | memoryview]) -> bytes:
    """One gzip member of all pieces; ISA-L's level 1 is as small as zlib's and five times as fast."""
    packer = fast_zlib.compressobj(1, fast_zlib.DEFLATED, 31) if fast_zlib else zlib.compressobj(1, zlib.DEFLATED, 31)
    out = [packer.compress(piece) for piece in pieces]
    out.append(packer.flush())
    return b"".join(out)


class _Kept:
    """A thread's session, and its lines by URL."""

    def __init__(self, session: requests.Session, settings: HecSettings) -> None:
        self.session, self.born = session, time.monotonic()
        self._settings = settings
        self._lines: dict[str, tuple[Line, requests.PreparedRequest]] = {}

    def line(self, url: str) -> tuple[Line, requests.PreparedRequest]:
        """Found once a URL: that is what makes a post cheap."""
        found = self._lines.get(url)
        if found is None:
            session, settings = self.session, self._settings
            asked = session.prepare_request(requests.Request("POST", url))
            line = Line(
                session, asked, verify=session.verify, proxies=session.proxies, cert=session.cert,
                connect_timeout=settings.connect_timeout, timeout=settings.timeout,
            )  # fmt: skip
            found = self._lines[url] = line, asked
        return found


class HecClient:
    """Sessions, one per thread; shared settings."""

    def __init__(self, settings: HecSettings) -> None:
        self._settings = settings
        self._local = threading.local()

    def _kept(self, fresh: bool) -> _Kept:
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None and not fresh and time.monotonic() - kept.born < OLDEST_CONNECTION:
            return kept
        if kept is not None:
            kept.session.close()
        made = self._local.kept = _Kept(self._make_session(), self._settings)
        return made

    def _make_session(self) -> requests.Session:
        settings, session = self._settings, requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.verify = (str(settings.ca_file) if settings.ca_file else True) if settings.verify_tls else False
        if settings.client_cert:
            session.cert = (
                (str(settings.client_cert), str(settings.client_key))
                if settings.client_key
                else str(settings.client_cert)
            )
        proxies = (
            {"http": settings.proxy, "https": settings.proxy} if settings.proxy else environment_proxies(settings.urls)
        )
        session.proxies.update(proxies)
        return session

    def post(
        self, url: str, token: str, pieces: Sequence[bytes | memoryview], *, compress: bool = True, channel: str = "",
        path: str = EVENT_PATH, fresh: bool = False,
    ) -> Reply:  # fmt: skip
        """One POST; never raises for what the network does. A stale idle connection is replaced once, silently."""
        body = gzip(pieces) if compress else b"".join(pieces)
        return self.send(url, token, body, compressed=compress, channel=channel, path=path, fresh=fresh)

    def send(
        self, url: str, token: str, body: bytes, *, compressed: bool, channel: str = "", path: str = EVENT_PATH,
        fresh: bool = False,
    ) -> Reply:  # fmt: skip
        """As `post`, with the body as it goes out."""
        headers = {"User-Agent": USER_AGENT, "Authorization": f"Splunk {token}", "Content-Type": "application/json"}
        if channel:
            headers["X-Splunk-Request-Channel"] = channel
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return self._call("POST", url.rstrip("/") + path, headers, body, fresh)

    def get(self, url: str, path: str = HEALTH_PATH) -> Reply:
        """One GET."""
        return self._call("GET", url.rstrip("/") + path, {"User-Agent": USER_AGENT}, None, fresh=False)

    def _call(self, method: str, url: str, headers: dict[str, str], body: bytes | None, fresh: bool) -> Reply:
        try:
            kept = self._kept(fresh)
            line, asked = kept.line(url)
            jar = kept.session.cookies
            if len(jar) and (cookies := requests.cookies.get_cookie_header(jar, asked)):  # type: ignore[no-untyped-call]
                headers["Cookie"] = cookies
            answer = line.call(method, line.target, headers, body)
            try:
                if "Set-Cookie" in answer.headers:  # a balancer's, for sticky sessions
                    requests.cookies.extract_cookies_to_jar(jar, asked, answer)  # type: ignore[no-untyped-call]
                read = answer.read(LONGEST_ANSWER, decode_content=True)
                answer.read(LONGEST_ANSWER)
                return Reply(answer.status, dict(answer.headers), read)
            finally:
                answer.close()  # what was read to its end has given its connection back before
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return Reply(failure=classify(error), text=plain(error))

    def close(self) -> None:
        """This thread's connections."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None:
            kept.session.close()


def environment_proxies(urls: Sequence[str]) -> dict[str, str]:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY, for our first URL."""
    found: dict[str, str] = requests.utils.get_environ_proxies(urls[0]) if urls else {}
    return found


def classify(error: BaseException) -> Failure:
    """What kind of failure it is, out of the chain of causes."""
    chain = list(causes(error))
    text = " ".join(str(one) for one in chain)
    if any(isinstance(one, socket.gaierror) for one in chain) or "NameResolutionError" in text:
        return Failure.DNS
    if any(isinstance(one, urllib3.exceptions.ProxyError) for one in chain):
        return Failure.PROXY
    tls = [one for one in chain if isinstance(one, ssl.SSLError | urllib3.exceptions.SSLError)]
    if tls:
        return _classify_tls(chain, text)
    if any(
        isinstance(
            one, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.NewConnectionError | ConnectionRefusedError
        )
        for one in chain
    ):
        return Failure.CONNECT
    if any(isinstance(one, urllib3.exceptions.ReadTimeoutError | TimeoutError) for one in chain):
        return Failure.TIMEOUT
    if any(isinstance(one, BrokenPipeError) for one in chain):
        return Failure.SEND
    return Failure.READ


def _classify_tls(chain: Sequence[BaseException], text: str) -> Failure:
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text or "RECORD_LAYER_FAILURE" in text:
        return Failure.WRONG_PROTOCOL
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain) or "ALERT" in text.upper():
        return Failure.TLS
    return Failure.TLS_HANDSHAKE


def causes(error: BaseException) -> Iterable[BaseException]:
    """The error and all that it wraps."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def plain(error: BaseException) -> str:
    """The innermost reason, in one short line."""
    chain: list[BaseException] = [one for one in causes(error) if isinstance(one, OSError) and one.strerror]
    last = (chain or [error])[-1]
    text = getattr(last, "strerror", None) or str(last) or type(last).__name__
    return " ".join(str(text).split())[:200]


def host_and_port(url: str) -> tuple[str, int]:
    """For the steps of `check`."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
