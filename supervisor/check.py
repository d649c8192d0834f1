"""What `check` goes through, step by step: OK, WARN or FAIL, with the remedy. A failed step skips those that need it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.check_step import Step
from supervisor.settings import Settings, least_memory


def run_checks(settings: Settings, *, offline: bool, probe: bool) -> Iterator[Step]:
    """All of it, one after the other."""
    yield Step("settings", "OK", f"{len(settings.sources)} sources, {len(settings.routes)} routes")
    yield from check_spool(settings)
    yield from check_machine(settings)
    if not offline:
        from supervisor.check_hec import check_hec
        from supervisor.check_sls import check_source

        for source in settings.sources:
            yield from check_source(source)
        for url in settings.hec.urls:
            yield from check_hec(settings, url, probe=probe)


def settings_steps(problems: list[str]) -> list[Step]:
    """What is wrong with the settings; nothing else can be looked at then."""
    return [Step("settings", "FAIL", problem, "docs/configuration.md describes every key", 78) for problem in problems]


# spool and machine


def check_spool(settings: Settings) -> Iterator[Step]:
    """Writable, file system, how long a flush takes, space, SQLite."""
    import sqlite3

    from buffer.checks import UNFIT, file_system
    from buffer.database import journal_mode

    directory = settings.spool.directory
    existing = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Step("spool directory", "FAIL", f"{directory} cannot be written", "check path, owner and permissions", 74)
        return
    foreign = directory.exists() and not (directory / "format").exists() and any(directory.iterdir())
    yield Step("spool directory", "WARN" if foreign else "OK", f"{directory}{' holds what is not ours' if foreign else ''}",
               "give the spool a directory of its own" if foreign else "")  # fmt: skip
    kind = file_system(existing)
    unfit = kind in UNFIT and not settings.spool.force_file_system
    yield Step("file system", "FAIL" if unfit else "OK", kind, "use a local ext4, xfs or btrfs" if unfit else "", 74)
    yield _flush(existing)
    free = os.statvfs(existing).f_bavail * os.statvfs(existing).f_frsize
    needed = settings.spool.max_bytes + settings.spool.min_free_bytes
    short = free < needed
    yield Step("space", "WARN" if short else "OK", f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB wanted",
               "lower spool.max_bytes or add disk" if short else "")  # fmt: skip
    yield Step("sqlite", "OK", f"{sqlite3.sqlite_version}, journal mode {journal_mode()}")


def _flush(directory: Path) -> Step:
    try:
        milliseconds = flush_time(directory) * 1000
    except OSError as error:
        return Step(
            "flush", "FAIL", f"{directory}: {error.strerror}", "look at the disk: dmesg, space, permissions", 74
        )
    slow = milliseconds > 50
    return Step(
        "flush", "WARN" if slow else "OK", f"{milliseconds:.1f} ms for a 4 KiB fsync", "a faster disk" if slow else ""
    )


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
