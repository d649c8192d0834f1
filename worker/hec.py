"""The only user of `requests`: posts to Splunk, and turns whatever happens into a Reply.

Redirects are never followed (the token would go along), the environment's .netrc and CA bundle do not count, a
User-Agent is always sent (without one splunkd answers HTTP/1.0), answers are read up to a bound.
"""

from __future__ import annotations

import importlib
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from importlib.metadata import version
from pathlib import Path
from typing import Any

import urllib3

from worker.certificate import first_end
from worker.hec_connection import Call, Watch, pool_classes
from worker.lean import requests
from worker.line import Line
from worker.settings import HecSettings
from worker.trust import trusted
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
#: How a proxy says that it is well and Splunk cannot be reached.
_PROXY_CANNOT = re.compile(r"Tunnel connection failed: 50[0234]")
#: In what OpenSSL says of a certificate: theirs of ours, or the files that hold it.
_CERTIFICATE = re.compile(r"ALERT|KEY_VALUES_MISMATCH|PEM|NO_START_LINE|X509")
USER_AGENT = f"sls-siem/{version('sls-siem')}"


def gzip(pieces: Iterable[bytes | memoryview]) -> bytes:
    """One gzip member of all pieces; ISA-L's level 1 is as small as zlib's and five times as fast."""
    packer = fast_zlib.compressobj(1, fast_zlib.DEFLATED, 31) if fast_zlib else zlib.compressobj(1, zlib.DEFLATED, 31)
    out = [packer.compress(piece) for piece in pieces]
    out.append(packer.flush())
    return b"".join(out)


class _Kept:
    """A thread's session, and its lines by URL."""

    def __init__(self, session: requests.Session, settings: HecSettings, files: tuple[Any, ...]) -> None:
        self.session, self.born = session, time.monotonic()
        self.files = files
        """As the files of certificates were when it was made."""
        self._settings = settings
        self._lines: dict[str, Line] = {}

    def line(self, url: str) -> Line:
        """Found once a URL: that is what makes a post cheap."""
        found = self._lines.get(url)
        if found is None:
            session, settings = self.session, self._settings
            asked = session.prepare_request(requests.Request("POST", url))
            found = self._lines[url] = Line(
                session, asked, verify=session.verify, proxies=session.proxies, cert=session.cert,
                connect_timeout=settings.connect_timeout, timeout=settings.timeout,
            )  # fmt: skip
        return found


class HecClient:
    """Sessions, one per thread; shared settings."""

    def __init__(self, settings: HecSettings) -> None:
        self._settings = settings
        self._local = threading.local()
        self._watch = Watch()
        self.expires: dict[str, float] = {}
        """When certificates end, Unix seconds: each https URL's, and `client` for ours."""
        self._files = tuple(p for p in (settings.ca_file, settings.client_cert, settings.client_key) if p is not None)
        self._files_seen: tuple[Any, ...] = ()
        self._files_at = 0.0

    def _kept(self, fresh: bool) -> _Kept:
        kept: _Kept | None = getattr(self._local, "kept", None)
        files = self._look_at_files()
        if kept is not None and not fresh and time.monotonic() - kept.born < OLDEST_CONNECTION and files == kept.files:
            return kept
        if kept is not None:
            kept.session.close()
        made = self._local.kept = _Kept(self._make_session(), self._settings, files)
        return made

    def _look_at_files(self) -> tuple[Any, ...]:
        """CA, certificate and key, once a second: what changed is used from the next request on."""
        now = time.monotonic()
        if now >= self._files_at:
            self._files_at = now + 1.0
            seen = tuple(_seen(path) for path in self._files)
            if seen != self._files_seen:
                self._files_seen = seen
                self._read_expiry()
        return self._files_seen

    def _read_expiry(self) -> None:
        if self._settings.client_cert is not None:
            try:
                end = first_end(self._settings.client_cert.read_text("latin-1"))
            except OSError:
                return
            if end is not None:
                self.expires["client"] = end

    def _make_session(self) -> requests.Session:
        settings, session = self._settings, requests.Session()
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(self._watch))
        session.headers.clear()
        session.verify = trusted(settings.ca_file) if settings.verify_tls else False
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
        cookies: Mapping[str, str] | None = None, path: str = EVENT_PATH, fresh: bool = False,
    ) -> Reply:  # fmt: skip
        """One POST; never raises for what the network does. Cookies go only where they are given: with a channel."""
        body = gzip(pieces) if compress else b"".join(pieces)
        return self.send(
            url, token, body, compressed=compress, channel=channel, cookies=cookies, path=path, fresh=fresh
        )

    def send(
        self, url: str, token: str, body: bytes, *, compressed: bool, channel: str = "",
        cookies: Mapping[str, str] | None = None, path: str = EVENT_PATH, fresh: bool = False,
    ) -> Reply:  # fmt: skip
        """As `post`, with the body as it goes out."""
        headers = {"User-Agent": USER_AGENT, "Authorization": f"Splunk {token}", "Content-Type": "application/json"}
        if channel:
            headers["X-Splunk-Request-Channel"] = channel
        if compressed:
            headers["Content-Encoding"] = "gzip"
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return self._call("POST", url, path, headers, body, fresh)

    def get(self, url: str, path: str = HEALTH_PATH) -> Reply:
        """One GET."""
        return self._call("GET", url, path, {"User-Agent": USER_AGENT}, None, fresh=False)

    def _call(
        self, method: str, url: str, path: str, headers: dict[str, str], body: bytes | None, fresh: bool
    ) -> Reply:  # fmt: skip
        settings = self._settings
        with self._watch.call(settings.connect_timeout + settings.timeout) as call:
            try:
                line = self._kept(fresh).line(url.rstrip("/") + path)
                answer = line.call(method, line.target, headers, body)
                try:
                    read = answer.read(LONGEST_ANSWER, decode_content=True)
                    answer.read(LONGEST_ANSWER)
                    if call.was_cut:
                        return Reply(failure=Failure.TIMEOUT, text="the answer was not whole when the time was over")
                    if call.expires is not None:
                        self.expires[url] = call.expires
                    return Reply(answer.status, dict(answer.headers), read, cookies=cookies_of(answer.headers))
                finally:
                    answer.close()  # what was read to its end has given its connection back before
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                return Reply(failure=failure_of(error, call), text=plain(error))

    def tend(self) -> None:
        """End the requests that take longer than their time-outs allow in all; see changed files. Called again and again."""
        self._watch.cut_overdue(time.monotonic())
        self._look_at_files()

    def close(self) -> None:
        """This thread's connections."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None:
            kept.session.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Makes connections that tell more than urllib3's."""

    def __init__(self, watch: Watch) -> None:
        self._classes = pool_classes(watch)
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = self._classes

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = self._classes
        return manager


def _seen(path: Path) -> tuple[float, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime, found.st_size, found.st_ino


def cookies_of(headers: Any) -> dict[str, str]:
    """What each Set-Cookie says, as it is written, without its attributes."""
    found: dict[str, str] = {}
    for line in headers.getlist("Set-Cookie"):
        try:
            found |= {name: one.coded_value for name, one in SimpleCookie(line).items()}
        except CookieError:
            continue
    return found


def environment_proxies(urls: Sequence[str]) -> dict[str, str]:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY, for our first URL."""
    found: dict[str, str] = requests.utils.get_environ_proxies(urls[0]) if urls else {}
    return found


def failure_of(error: BaseException, call: Call) -> Failure:
    """What kind it is, with what the connection knows."""
    found = classify(error)
    if call.was_cut:
        return Failure.TIMEOUT
    if call.connection is None and found in {Failure.SEND, Failure.READ, Failure.TIMEOUT}:
        return Failure.TLS_HANDSHAKE  # nothing was sent yet
    return Failure.STALE if found in {Failure.SEND, Failure.READ} and call.is_stale else found


def classify(error: BaseException) -> Failure:
    """What kind of failure it is, out of the chain of causes."""
    chain = list(causes(error))
    text = " ".join(str(one) for one in chain)
    if type(error) is OSError and not error.errno:
        return Failure.TLS  # how requests says that a file of certificates is not there
    if any(isinstance(one, urllib3.exceptions.ProxyError) for one in chain):
        return Failure.CONNECT if _PROXY_CANNOT.search(text) else Failure.PROXY
    if any(isinstance(one, socket.gaierror) for one in chain) or "NameResolutionError" in text:
        return Failure.DNS
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
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain) or _CERTIFICATE.search(text.upper()):
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
