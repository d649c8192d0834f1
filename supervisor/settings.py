"""The tables of the settings that concern the supervisor itself, and the whole of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from buffer.settings import MIB, Section, SpoolSettings
from worker.settings import HecSettings, LogSettings, RouteSettings, SourceSettings, WorkerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings(Section):
    """How many children, and how they stop."""

    workers: int
    """Consumer processes. Default: the CPU count, at most 8."""
    senders: int
    """Sender processes. Default: as workers."""
    stop_timeout: float = 25.0
    """Seconds from the first TERM until what still lives is killed."""
    checkpoint: Literal["spooled", "delivered"] = "spooled"
    """Saved when its logs are `spooled`, durably; or `delivered`: a lost disk loses nothing then, a Splunk outage is lag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings(Section):
    """The memory that the whole process tree may use."""

    budget: int | None = None
    """Bytes. Default: 80 % of the machine or cgroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings(Section):
    """The listener for metrics, health and the page."""

    listen: str = "127.0.0.1:9464"
    """`host:port`; empty turns it off."""
    health_events: bool = False
    """Send our state to Splunk itself, as an event of sourcetype `sls_siem:health`: each minute, and when it changes."""
    health_index: str = ""
    """Their index; default: the token's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Section):
    """Everything that the file, the environment and the command line say."""

    supervisor: SupervisorSettings
    memory: MemorySettings
    sources: tuple[SourceSettings, ...]
    routes: tuple[RouteSettings, ...]
    hec: HecSettings
    spool: SpoolSettings
    status: StatusSettings
    log: LogSettings

    def for_children(self) -> WorkerSettings:
        """What a child needs of it."""
        return WorkerSettings(
            sources=self.sources,
            routes=self.routes,
            hec=self.hec,
            spool=self.spool,
            log=self.log,
            checkpoint=self.supervisor.checkpoint,
        )


def least_memory(children: int) -> int:
    """Bytes of budget with which so many children can work: 64 MiB for each of them and for the supervisor."""
    return 64 * MIB * (children + 1)


def needs_restart(now: Settings, fresh: Settings) -> str:
    """What cannot change while running; empty when nothing of it does."""
    for name, old, new in (
        ("spool.directory", now.spool.directory, fresh.spool.directory),
        ("supervisor.workers", now.supervisor.workers, fresh.supervisor.workers),
        ("supervisor.senders", now.supervisor.senders, fresh.supervisor.senders),
        ("status.listen", now.status.listen, fresh.status.listen),
        ("log.file", now.log.file, fresh.log.file),
    ):
        if old != new:
            return f"{name} has changed"
    return ""
