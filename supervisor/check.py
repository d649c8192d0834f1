"""What `check` goes through, step by step: OK, WARN or FAIL, with the remedy. A failed step skips those that need it."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from supervisor.settings import Settings, least_memory
from worker.settings import HecSettings, SourceSettings

GROUPS_ALLOWED = 30


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report."""

    name: str
    result: str
    text: str
    remedy: str = ""
    code: int = 0
    """The exit code of a FAIL."""


def run_checks(settings: Settings, *, offline: bool, probe: bool) -> list[Step]:
    """All of it."""
    steps = [Step("settings", "OK", f"{len(settings.sources)} sources, {len(settings.routes)} routes")]
    steps += check_spool(settings)
    steps += check_machine(settings)
    if not offline:
        for source in settings.sources:
            steps += check_source(source)
        for url in settings.hec.urls:
            steps += check_hec(settings, url, probe=probe)
    return steps


# spool and machine


def check_spool(settings: Settings) -> Iterator[Step]:
    """Writable, file system, how long a flush takes, space, SQLite."""
    import sqlite3

    from buffer.checks import file_system
    from buffer.database import journal_mode

    directory = settings.spool.directory
    existing = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Step("spool directory", "FAIL", f"{directory} cannot be written", "check path, owner and permissions", 74)
        return
    yield Step("spool directory", "OK", str(directory))
    kind = file_system(existing)
    unfit = kind in {"nfs", "nfs4", "cifs", "tmpfs"} and not settings.spool.force_file_system
    yield Step("file system", "FAIL" if unfit else "OK", kind, "use a local ext4, xfs or btrfs" if unfit else "", 74)
    milliseconds = flush_time(existing) * 1000
    slow = milliseconds > 50
    yield Step(
        "flush", "WARN" if slow else "OK", f"{milliseconds:.1f} ms for a 4 KiB fsync", "a faster disk" if slow else ""
    )
    free = os.statvfs(existing).f_bavail * os.statvfs(existing).f_frsize
    needed = settings.spool.max_bytes + settings.spool.min_free_bytes
    short = free < needed
    yield Step("space", "WARN" if short else "OK", f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB wanted",
               "lower spool.max_bytes or add disk" if short else "")  # fmt: skip
    yield Step("sqlite", "OK", f"{sqlite3.sqlite_version}, journal mode {journal_mode()}")


def flush_time(directory: Path) -> float:
    """Seconds of one durable write."""
    path = directory / f".sls-siem-check-{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        began = time.monotonic()
        os.write(file, bytes(4096))
        os.fsync(file)
        return time.monotonic() - began
    finally:
        os.close(file)
        path.unlink()


def check_machine(settings: Settings) -> Iterator[Step]:
    """Memory and encoder."""
    from supervisor.memory import budget
    from worker.encode import ENCODER

    children = settings.supervisor.workers + settings.supervisor.senders
    found = budget(settings.memory.budget)
    small = found < least_memory(children)
    yield Step("memory", "FAIL" if small else "OK", f"budget {found / 1e9:.1f} GB for {children} children",
               "fewer children or a larger memory.budget" if small else "", 78)  # fmt: skip
    slow = ENCODER != "compiled"
    yield Step(
        "encoder",
        "WARN" if slow else "OK",
        ENCODER,
        "install a C compiler and install again: much faster" if slow else "",
    )


# SLS


def check_source(source: SourceSettings) -> Iterator[Step]:
    """DNS, TCP, TLS, then what SLS says to each kind of call."""
    from supervisor.cli_sls import exit_code
    from worker.credentials import Credentials
    from worker.sls import SlsClient
    from worker.sls_errors import SlsError

    name = f"sls {source.name}"
    if not source.proxy and (failed := _reach(name, source.endpoint, str(source.ca_file) if source.ca_file else None)):
        yield from failed
        if failed[-1].result == "FAIL":
            return
    client = None
    try:
        client = SlsClient(source, Credentials(source))
        shards = client.shards()
        yield Step(f"{name} logstore", "OK", f"{source.project}/{source.logstore}, {len(shards)} shards")
        yield Step(f"{name} retention", "OK", f"{client.retention_seconds() / 86400:.0f} days")
        yield _groups(name, source, client.groups())
        first = next(iter(shards))
        client.get_cursor_at(first, "begin")
        yield Step(f"{name} read", "OK", "may read cursors and logs")
    except SlsError as error:
        yield Step(
            f"{name} access",
            "FAIL",
            error.error,
            f"{error.hint}; docs/ram-policy.json is the least policy",
            exit_code(error),
        )
    finally:
        if client is not None:
            client.close()


def _groups(name: str, source: SourceSettings, groups: dict[str, float]) -> Step:
    shown = f"{len(groups)} of {GROUPS_ALLOWED}"
    if source.consumer_group in groups:
        return Step(f"{name} group", "OK", f"{source.consumer_group} exists; {shown}")
    if len(groups) >= GROUPS_ALLOWED:
        return Step(f"{name} group", "FAIL", f"{shown}: {', '.join(sorted(groups))}", "delete one that is not used", 69)
    return Step(f"{name} group", "OK", f"{source.consumer_group} will be made; {shown}")


def _reach(name: str, url: str, ca_file: str | None, verify: bool = True) -> list[Step]:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = sorted({str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        return [Step(f"{name} dns", "FAIL", f"{host}: {error.strerror}", "check the name and the DNS server", 69)]
    steps = [Step(f"{name} dns", "OK", ", ".join(addresses[:4]))]
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, port), timeout=10)
    except OSError as error:
        return [
            *steps,
            Step(f"{name} tcp", "FAIL", f"{host}:{port}: {error.strerror or error}", "is the port open from here?", 69),
        ]
    steps.append(Step(f"{name} tcp", "OK", f"{(time.monotonic() - began) * 1000:.0f} ms"))
    with connection:
        if parts.scheme == "https":
            steps.append(_tls(name, connection, host, ca_file, verify))
    return steps


def _tls(name: str, connection: socket.socket, host: str, ca_file: str | None, verify: bool) -> Step:
    if not verify:
        return Step(f"{name} tls", "WARN", "not verified", "set verify_tls = true and ca_file")
    try:
        with ssl.create_default_context(cafile=ca_file).wrap_socket(connection, server_hostname=host) as wrapped:
            certificate: Any = wrapped.getpeercert() or {}
            days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
            soon = days < 14
            return Step(f"{name} tls", "WARN" if soon else "OK", f"{wrapped.version()}, expires in {days:.0f} days",
                        "renew the certificate" if soon else "")  # fmt: skip
    except (OSError, KeyError) as error:
        text = getattr(error, "verify_message", "") or str(error)
        return Step(f"{name} tls", "FAIL", text, "check the certificate; ca_file names the CA", 69)


# Splunk


def check_hec(settings: Settings, url: str, *, probe: bool) -> Iterator[Step]:
    """DNS, TCP, TLS, health, token (an empty body must get 400/5), then one probe event an index."""
    from worker.hec import HecClient
    from worker.tokens import Tokens

    hec, name = settings.hec, f"hec {url}"
    if not hec.proxy:
        steps = _reach(name, url, str(hec.ca_file) if hec.ca_file else None, hec.verify_tls)
        yield from steps
        if steps[-1].result == "FAIL":
            return
    client = HecClient(hec)
    try:
        yield from _ask_splunk(client, hec, url, Tokens(hec).default(), settings, probe=probe)
    finally:
        client.close()


def _ask_splunk(
    client: Any, hec: HecSettings, url: str, token: str, settings: Settings, *, probe: bool
) -> Iterator[Step]:
    from worker.verdict import Act, judge

    name = f"hec {url}"
    health = client.get(url)
    verdict = judge(health, events=0)
    well = (health.status == 200 and verdict.code in {0, 17}) or verdict.code == 17
    yield Step(
        f"{name} health", "OK" if well else "WARN", verdict.why or f"HTTP {health.status}", "" if well else verdict.hint
    )
    reply = client.post(url, token, [b""], compress=False)
    verdict = judge(reply, events=1)
    if reply.status == 400 and verdict.code == 5:
        yield Step(f"{name} token", "OK", "accepted, acknowledgement off")
    elif verdict.act is Act.CHANNEL:
        off = hec.ack == "off"
        yield Step(
            f"{name} token",
            "WARN" if off else "OK",
            "accepted, wants acknowledgement",
            "set hec.ack to auto" if off else "",
        )
    else:
        yield Step(f"{name} token", "FAIL", f"{verdict.status}/{verdict.code}: {verdict.why}", verdict.hint,
                   77 if verdict.hold == "token" else 69)  # fmt: skip
        return
    if probe and verdict.act is not Act.CHANNEL:
        for index in sorted({hec.index, *(route.index for route in settings.routes)}):
            yield _probe(client, name, url, token, index)


def _probe(client: Any, name: str, url: str, token: str, index: str) -> Step:
    import orjson

    from worker.verdict import Act, judge

    event: dict[str, Any] = {
        "time": str(int(time.time())),
        "sourcetype": "sls_siem:probe",
        "event": {"message": "sls-siem check"},
    }
    if index:
        event["index"] = index
    verdict = judge(client.post(url, token, [orjson.dumps(event)], compress=False), events=1)
    shown = index or "(the token's own)"
    if verdict.act is Act.ACCEPT:
        return Step(f"{name} index {shown}", "OK", "a probe event was accepted")
    return Step(f"{name} index {shown}", "FAIL", f"{verdict.status}/{verdict.code}: {verdict.why}",
                "add it to the token's allowed indexes" if verdict.code == 7 else verdict.hint, 69)  # fmt: skip
