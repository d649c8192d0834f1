"""Our own log lines: one JSON object a line on stderr, under 4 KiB, never an event's body and never a secret.

Lines under 4 KiB from many processes on one pipe are not torn. On a terminal they are rendered for people. The loggers
of the SDK and of urllib3 go through the same lines. Repeated errors are let through once in a while, with a count.
A line that cannot be written (a full disk, a reader that stands still behind a pipe) is dropped and counted, never an error.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, TextIO

from buffer.lean import structlog

#: Seconds in which the same event of level warning or worse is printed once.
REPEAT_AFTER = 30.0
#: Seconds that a line waits for a reader that is slow; none while lines are being dropped.
PATIENCE = 0.2
_LONGEST = 3500
_LONGEST_VALUE = 800
_LONGEST_STACK = 2400
#: Fields by which two lines with the same event name are different news.
_TELLS_APART = ("event", "name", "error", "source", "shard", "child", "failures", "lane", "step", "library")
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Event = MutableMapping[str, Any]


class Repeats:
    """Lets the same trouble through once in a while, with how often it was kept back."""

    def __init__(self, after: float = REPEAT_AFTER) -> None:
        self._after = after
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}
        self._kept: dict[tuple[object, ...], tuple[str, dict[str, Any]]] = {}
        """The last that was kept back, for when no more come."""

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        if method in {"debug", "info", "critical"}:
            return event
        key = tuple(event.get(name) for name in _TELLS_APART)
        now = time.monotonic()
        last, kept = self._seen.get(key, (-self._after, 0))
        if now - last < self._after:
            self._seen[key] = last, kept + 1
            self._kept[key] = method, dict(event)
            raise structlog.DropEvent
        if len(self._seen) > 1000:
            self._seen.clear()
            self._kept.clear()
        self._seen[key] = now, 0
        self._kept.pop(key, None)
        if kept:
            event["repeated"] = kept
        return event

    def due(self) -> list[tuple[str, dict[str, Any]]]:
        """What was kept back, and may be said by now: its count must not be lost because the trouble has ended."""
        now = time.monotonic()
        never = now, 0  # another thread has forgotten all of it just now
        return [one for key, one in list(self._kept.items()) if now - self._seen.get(key, never)[0] >= self._after]


def tell_repeats() -> None:
    """Once a second, in each process."""
    for method, event in _repeats.due():
        getattr(structlog.get_logger(), method)(**{k: v for k, v in event.items() if k not in {"time", "level"}})


_repeats = Repeats()


def shorten(_logger: object, _method: str, event: Event) -> Event:
    """A longer value is cut and says so; of a stack the end is what counts."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _cut(name, value, _LONGEST_STACK if name == "exception" else _LONGEST_VALUE)
    return event


def _cut(name: str, text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    told = f"({len(text)} characters)"
    return f"{told} …{text[-longest:]}" if name == "exception" else f"{text[:longest]}… {told}"


def render(_logger: object, _method: str, event: Event) -> str:
    """One JSON object under 4 KiB, whatever is in it."""
    data = _dump(event)
    for _ in range(12):
        if len(data) <= _LONGEST:
            return data.decode()
        texts = {name: value if isinstance(value, str) else str(value) for name, value in event.items()}
        longest = max(texts, key=lambda name: len(texts[name]))
        event[longest] = _cut(longest, texts[longest], len(texts[longest]) // 2)
        data = _dump(event)
    kept = {name: str(event[name])[:100] for name in ("time", "level", "event", "role", "pid") if name in event}
    return _dump(kept | {"shortened": True}).decode()


def _dump(event: Event) -> bytes:
    """JSON; what JSON cannot hold (half a surrogate of a file's name, a number too large) becomes text."""
    import orjson

    try:
        return orjson.dumps(dict(event), default=str)
    except TypeError:
        return orjson.dumps({name: str(value).encode(errors="replace").decode() for name, value in event.items()})


def takes(file: int, patience: float) -> bool:
    """Whether a line can be written without waiting for longer than `patience` seconds. True also where writing it is an error."""
    waiting = select.poll()
    waiting.register(file, select.POLLOUT)
    return bool(waiting.poll(patience * 1000))


class Lines:
    """Writes whole lines, each with one call, to one descriptor. Thread-safe without a lock: the kernel's append is one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = 0

    def __call__(self, *_names: object) -> Lines:
        return self

    def tell_dropped(self, _logger: object, _method: str, event: Event) -> Event:
        """How many lines before this one could not be written."""
        if self._dropped:
            event["lines_dropped"] = self._dropped
        return event

    def msg(self, text: str) -> None:
        """Write it, or count it."""
        dropped = self._dropped
        try:
            file = self._stream.fileno()
            if not takes(file, 0.0 if dropped else PATIENCE):
                self._dropped += 1
                return
            os.write(file, text.encode(errors="replace") + b"\n")
        except (OSError, ValueError):  # a stream that was closed has no descriptor
            self._dropped += 1
        else:
            self._dropped -= dropped

    debug = info = warning = error = critical = msg


class Forward(logging.Handler):
    """The standard library's records, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Warnings and worse; bodies of answers are never passed on."""
        method = "warning" if record.levelno < logging.ERROR else "error"
        getattr(structlog.get_logger(), method)("library", library=record.name, text=record.getMessage()[:200])


def configure(role: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Once per process, before the first line; again when the level has changed."""
    stream = stream or sys.stderr
    lines = Lines(stream)
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            _whose(role),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _repeats,
            structlog.processors.format_exc_info,
            shorten,
            lines.tell_dropped,
            structlog.dev.ConsoleRenderer(timestamp_key="time") if stream.isatty() else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [Forward(logging.WARNING)]
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _whose(role: str) -> Callable[[object, str, Event], Event]:
    pid = os.getpid()

    def add(_logger: object, _method: str, event: Event) -> Event:
        event["role"], event["pid"] = role, pid
        return event

    return add


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A defect's stack is a line like any other."""
    get_logger().critical("defect", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def get_logger() -> Any:
    """A logger; `log.info("batch sent", events=200)`: fixed names, facts as fields."""
    return structlog.get_logger()
