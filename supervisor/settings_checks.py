"""What no single setting can tell: whether they fit together. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from buffer.settings import MIB
from supervisor.route_checks import check_routes
from supervisor.settings import Settings, least_memory
from supervisor.units import DURATION_KEYS, SIZE_KEYS
from worker.credentials import is_sendable
from worker.settings import SourceSettings
from worker.sls_address import is_address

#: Seconds that a time-out may have.
LONGEST = 366 * 86400.0
_RELATIVE = re.compile(r"-\d+(\.\d+)?[smhd]")


def cross_check(settings: Settings) -> list[str]:
    """A line for each thing that is wrong."""
    checks = (_numbers, _measures, _sources, _hec, _listener, check_routes)
    return [problem for check in checks for problem in check(settings)]


def _numbers(settings: Settings) -> list[str]:
    found = []
    supervisor = settings.supervisor
    for name, value in (("workers", supervisor.workers), ("senders", supervisor.senders)):
        if not 1 <= value <= 256:
            found.append(f"supervisor.{name}: must be 1 to 256")
    children = supervisor.workers + supervisor.senders
    budget = settings.memory.budget
    if budget is not None and budget < least_memory(children):
        found.append(f"memory.budget: {children} children need at least {least_memory(children) // MIB} MiB")
    if settings.spool.max_bytes < 64 * MIB:
        found.append("spool.max_bytes: must be at least 64 MiB")
    if settings.spool.dead_letter_quota >= settings.spool.max_bytes:
        found.append("spool.dead_letter_max_bytes: must be less than spool.max_bytes")
    return found


def _measures(settings: Settings) -> list[str]:
    """A time-out of nothing lets nothing through, one without an end never strikes."""
    sections: list[tuple[str, Any]] = [(f"source.{source.name}", source) for source in settings.sources]
    sections += [(name, getattr(settings, name)) for name in ("supervisor", "hec", "spool")]
    found = []
    for where, section in sections:
        for one in fields(section):
            value = getattr(section, one.name)
            if one.name in DURATION_KEYS and not 0 < value <= LONGEST:
                found.append(f"{where}.{one.name}: must be more than 0, and a year at most")
            elif one.name in SIZE_KEYS and value is not None and value < 0:
                found.append(f"{where}.{one.name}: must not be less than 0")
    if settings.hec.max_unacked_bytes == 0:
        found.append("hec.max_unacked_bytes: must be more than 0, or nothing is ever sent")
    return found


def _sources(settings: Settings) -> list[str]:
    found = []
    names: set[str] = set()
    groups: dict[tuple[str, str, str, str], str] = {}
    for source in settings.sources:
        where = f"source.{source.name}"
        if source.name in names:
            found.append(f"{where}: two sources have this name; give one a `name`")
        names.add(source.name)
        group = (_place(source.endpoint.strip()), source.project, source.logstore, source.consumer_group)
        if (first := groups.setdefault(group, source.name)) != source.name:
            found.append(
                f"{where}.consumer_group: {source.consumer_group!r} reads this logstore for source {first} already, under whatever"
                " query; both would share its shards and checkpoints, and each lose logs: give one a group of its own"
            )
        found += [f"{where}.{problem}" for problem in _source(source)]
    return found


def _place(endpoint: str) -> str:
    """Without what may be written in several ways; the text itself where it is no address, which is said elsewhere.

    An address, or this machine, may lead elsewhere at each port: tunnels to two regions, which may have projects of one name.
    """
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        host, port = parts.hostname or endpoint, parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return endpoint
    return f"{host}:{port}" if is_address(host) else host


def _source(source: SourceSettings) -> list[str]:
    found = [
        f"{name}: must not be empty"
        for name in ("project", "logstore", "endpoint", "consumer_group")
        if not getattr(source, name)
    ]
    if source.credentials_file is None and not (source.access_key_id and source.access_key_secret):
        found.append("access_key_id: access_key_id and access_key_secret, or a credentials_file, are required")
    found += [
        f"{name}: must be printable ASCII without spaces"
        for name in ("access_key_id", "access_key_secret", "security_token")
        if not is_sendable(getattr(source, name))
    ]
    if not is_start(source.start):
        found.append("start: begin, end, an ISO time with its offset, or relative such as -2h")
    if not 1 <= source.max_groups <= 1000:
        found.append("max_groups: must be 1 to 1000")
    if source.consumer_timeout < 2 * source.heartbeat_interval:
        found.append("consumer_timeout: must be at least twice heartbeat_interval")
    if problem := unusable(source.proxy):
        found.append(f"proxy: {problem}")
    endpoint = source.endpoint.strip()  # as the client takes it
    if problem := unusable(endpoint) or more_than_a_place(endpoint):
        found.append(f"endpoint: {problem}")
    elif is_plaintext(endpoint) and not source.allow_plaintext:
        found.append("endpoint: plain http would send keys and logs unencrypted; use https, or allow_plaintext = true")
    return found


def is_start(text: str) -> bool:
    """begin | end | ISO time with offset | -2h."""
    if text in {"begin", "end"} or _RELATIVE.fullmatch(text):
        return True
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def unusable(url: str) -> str:
    """Why no connection can be made to such an address; empty where one can. It may hold a password: nothing of it is shown,
    neither by a library's words.
    """
    if any(one.isspace() for one in url.rpartition("@")[2]):
        return "no address: it has a blank in it"
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host = parts.hostname or ""
    except ValueError:
        return "no address: brackets or characters that none may have"
    try:
        host.encode("idna")
    except ValueError:
        return "no address: a part of the name is empty or too long"
    try:
        _ = parts.port
    except ValueError:
        return "no address: the port is no number up to 65535; in a password, / ? # are written %2F %3F %23"
    return ""


def more_than_a_place(url: str) -> str:
    """What of an address would be shown in status, metrics and logs though it may be a secret, or would not be heeded."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if "@" in parts.netloc:
        return "no user or password in it: it is shown in status, metrics and logs"
    return "nothing behind a ? or #" if parts.query or parts.fragment else ""


def is_plaintext(url: str) -> bool:
    """Plain http to anything but loopback."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"


def _hec(settings: Settings) -> list[str]:
    hec, found = settings.hec, []
    if not hec.urls:
        found.append("hec.urls: name at least one URL, such as https://splunk:8088")
    for place, url in enumerate(hec.urls):
        if problem := unusable(url.lstrip()) or more_than_a_place(url):
            found.append(f"hec.urls.{place}: {problem}")
            continue
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            found.append("hec.urls: each must be http(s)://host:port")
        elif is_plaintext(url) and not hec.allow_plaintext:
            found.append("hec.urls: plain http would send the token unencrypted; use https, or allow_plaintext = true")
        if parts.path.strip("/"):
            found.append("hec.urls: only http(s)://host:port; the path /services/collector/event is added")
    if problem := unusable(hec.proxy):
        found.append(f"hec.proxy: {problem}")
    if not hec.token and hec.token_file is None:
        found.append("hec.token: token or token_file is required")
    if hec.on_incorrect_index == "fallback" and not hec.fallback_index:
        found.append('hec.fallback_index: required with on_incorrect_index = "fallback"')
    if hec.client_key and not hec.client_cert:
        found.append("hec.client_cert: required with client_key")
    if hec.max_request_bytes < 4096:
        found.append("hec.max_request_bytes: must be at least 4096")
    if not 1 <= hec.in_flight <= 64:
        found.append("hec.in_flight: must be 1 to 64")
    return found


def _listener(settings: Settings) -> list[str]:
    listen = settings.status.listen
    if not listen:
        return []
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        return ["status.listen: host:port, or empty to turn it off"]
    return []
