"""Our own log lines: one JSON object a line on stderr, under 4 KiB, never an event's body and never a secret.

Lines under 4 KiB from many processes on one pipe are not torn. On a terminal they are rendered for people. The loggers
of the SDK and of urllib3 go through the same lines. Repeated errors are let through once in a while, with a count.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

#: Seconds in which the same event of level warning or worse is printed once.
REPEAT_AFTER = 30.0
_LONGEST = 3500
_LONGEST_VALUE = 800
#: Fields by which two lines with the same event name are different news.
_TELLS_APART = ("event", "name", "error", "source", "shard", "child", "failures", "lane")
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Event = MutableMapping[str, Any]


class Repeats:
    """Lets the same trouble through once in a while, with how often it was kept back."""

    def __init__(self, after: float = REPEAT_AFTER) -> None:
        self._after = after
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        if method in {"debug", "info"}:
            return event
        key = tuple(event.get(name) for name in _TELLS_APART)
        now = time.monotonic()
        last, kept = self._seen.get(key, (-self._after, 0))
        if now - last < self._after:
            self._seen[key] = last, kept + 1
            raise structlog.DropEvent
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] = now, 0
        if kept:
            event["repeated"] = kept
        return event


def shorten(_logger: object, _method: str, event: Event) -> Event:
    """Keep the line under 4 KiB: a longer value is cut and says so."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST_VALUE:
            event[name] = f"{value[:_LONGEST_VALUE]}… ({len(value)} characters)"
    return event


def render(_logger: object, _method: str, event: Event) -> str:
    """One JSON object; cut to its first fields when it is still too long."""
    import orjson

    data = orjson.dumps(dict(event), default=str)
    if len(data) > _LONGEST:
        kept = {
            name: event[name] for name in ("time", "level", "event", "role", "pid", "error", "hint") if name in event
        }
        data = orjson.dumps(kept | {"shortened": True}, default=str)
    return data.decode()


class Forward(logging.Handler):
    """The standard library's records, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Warnings and worse; bodies of answers are never passed on."""
        method = "warning" if record.levelno < logging.ERROR else "error"
        getattr(structlog.get_logger(), method)("library", library=record.name, text=record.getMessage()[:200])


def configure(role: str, level: str = "info", *, stream: Any = None) -> None:
    """Once per process, before the first line."""
    stream = stream or sys.stderr
    people = bool(getattr(stream, "isatty", lambda: False)())
    import os

    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            Repeats(),
            structlog.processors.format_exc_info,
            shorten,
            structlog.dev.ConsoleRenderer(timestamp_key="time") if people else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role, pid=os.getpid())
    root = logging.getLogger()
    root.handlers[:] = [Forward(logging.WARNING)]
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def get_logger() -> Any:
    """A logger; `log.info("batch sent", events=200)`: fixed names, facts as fields."""
    return structlog.get_logger()
