"""What `check` can tell of an address before it speaks to the service: its name, its port, its certificate, its clock."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from supervisor.check_step import Step
from worker.trust import trusted

#: Seconds; days before a certificate's end; seconds between two clocks: SLS bears 15 minutes.
PATIENCE, SOON, SKEW, WORST_SKEW = 10.0, 14, 60.0, 900.0


def split(url: str) -> tuple[SplitResult, str, int]:
    """The parts, the host, and the port."""
    url = url.strip()  # as the clients take it
    parts = urlsplit(url if "://" in url else f"https://{url}")
    return parts, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def reach_proxy(name: str, proxy: str) -> Generator[Step, None, bool]:
    """The same for a proxy, of the settings or of the environment; what lies behind it is not to be reached from here."""
    return reach(f"{name} proxy", proxy if "://" in proxy else f"http://{proxy}", None)


def reach(
    name: str, url: str, ca_file: str | None, *, verify: bool = True, clock: bool = False
) -> Generator[Step, None, bool]:
    """DNS, TCP, TLS, and on request the clock; returns whether the service can be spoken to."""
    parts, host, port = split(url)
    try:
        addresses = sorted({str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:  # the latter: a label that is empty or too long
        text = getattr(error, "strerror", None) or str(error)
        yield Step(f"{name} dns", "FAIL", f"{host}: {text}", "check the name and the DNS server", 69)
        return False
    yield Step(f"{name} dns", "OK", ", ".join(addresses[:4]))
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, port), timeout=PATIENCE)
    except OSError as error:
        yield Step(
            f"{name} tcp", "FAIL", f"{host}:{port}: {error.strerror or error}", "is the port open from here?", 69
        )
        return False
    yield Step(f"{name} tcp", "OK", f"port {port}, {(time.monotonic() - began) * 1000:.0f} ms")
    with connection:
        if parts.scheme == "https":
            step = _tls(name, connection, host, ca_file, verify=verify)
            yield step
            if step.result == "FAIL":
                return False
    if clock:
        yield from _clock(name, parts, host, port, ca_file)
    return True


def _context(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    found = trusted(ca_file)
    place = found if isinstance(found, str) else None
    if place is not None and Path(place).is_dir():
        context = ssl.create_default_context(capath=place)
    else:
        context = ssl.create_default_context(cafile=place)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _tls(name: str, connection: socket.socket, host: str, ca_file: str | None, *, verify: bool) -> Step:
    try:
        with _context(ca_file, verify=verify).wrap_socket(connection, server_hostname=host) as wrapped:
            if not verify:
                return Step(
                    f"{name} tls", "WARN", f"{wrapped.version()}, not verified", "set verify_tls = true and ca_file"
                )
            certificate: Any = wrapped.getpeercert() or {}
            days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
            told = f"{wrapped.version()}, {_subject(certificate)}, expires in {days:.0f} days"
            return Step(
                f"{name} tls", "WARN" if days < SOON else "OK", told, "renew the certificate" if days < SOON else ""
            )
    except (OSError, KeyError) as error:
        text = getattr(error, "verify_message", "") or str(error)
        return Step(f"{name} tls", "FAIL", text, "check the certificate; ca_file names the CA that signed it", 69)


def _subject(certificate: dict[str, Any]) -> str:
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}]
    return f"for {', '.join(names[:3])}" if names else "without names"


def _clock(name: str, parts: SplitResult, host: str, port: int, ca_file: str | None) -> Iterator[Step]:
    """By the Date of any answer; silent where there is none."""
    if parts.scheme == "https":
        asked: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=PATIENCE, context=_context(ca_file, verify=True)
        )
    else:
        asked = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        asked.request("GET", "/", headers={"Connection": "close"})
        date = asked.getresponse().headers.get("Date", "")
        ahead = time.time() - parsedate_to_datetime(date).timestamp()
    except (OSError, http.client.HTTPException, ValueError):
        return
    finally:
        asked.close()
    told = "as theirs" if abs(ahead) < 2 else f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} theirs"
    remedy = (
        "" if abs(ahead) < SKEW else "set this host's clock (timedatectl, chrony); SLS refuses what is 15 minutes off"
    )
    result = "OK" if not remedy else "WARN" if abs(ahead) < WORST_SKEW else "FAIL"
    yield Step(f"{name} clock", result, told, remedy, 69)
