"""Which sourcetype, index, host and token a LogGroup's events get: constant per group, the first route that fits wins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from worker.settings import HecSettings, RouteSettings
from worker.topics import TABLE, UNKNOWN

#: A topic that may be part of a sourcetype.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_ROUTE = RouteSettings(name="default")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the settings say for one kind of group."""

    route: str
    """Its name, for books and holds."""
    sourcetype: str
    index: str
    """Empty: the token's own."""
    source: str
    token: str
    """Empty: the default token."""
    settings: RouteSettings

    @property
    def is_plain(self) -> bool:
        """Nothing differs from log to log: the fast encoder may do it."""
        route = self.settings
        return not (route.json_fields or route.time_field or route.host.startswith("field:"))


class Router:
    """The routes in the order of the file; answers are remembered."""

    def __init__(self, routes: tuple[RouteSettings, ...], hec: HecSettings) -> None:
        self._routes = [(route, name_of(route, place)) for place, route in enumerate(routes)]
        self._hec = hec
        self.id_field = hec.id_field
        self._known: dict[tuple[str, str, str, str], Resolved] = {}

    def resolve(self, source_name: str, project: str, logstore: str, topic: str) -> Resolved:
        """First match wins; what no route sets comes from `[hec]`, then from the built-in table."""
        key = (source_name, project, logstore, topic)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > 10_000:  # topics are the sender's of the logs: hostile
                self._known.clear()
            found = self._known[key] = self._resolve(source_name, project, logstore, topic)
        return found

    def _resolve(self, source_name: str, project: str, logstore: str, topic: str) -> Resolved:
        route, name = self._match(source_name, logstore, topic)
        return Resolved(
            route=name,
            sourcetype=route.sourcetype or self._hec.sourcetype or builtin_sourcetype(topic, logstore),
            index=route.index or self._hec.index,
            source=route.source or self._hec.source or f"sls:{project}/{logstore}",
            token=route.token,
            settings=route,
        )

    def _match(self, source_name: str, logstore: str, topic: str) -> tuple[RouteSettings, str]:
        for route, name in self._routes:
            if (
                fnmatchcase(topic, route.topic)
                and fnmatchcase(source_name, route.source_name)
                and fnmatchcase(logstore, route.logstore)
            ):
                return route, name
        return _NO_ROUTE, "default"


def name_of(route: RouteSettings, place: int) -> str:
    """In metrics and holds: its name, its topic glob, or its place in the file."""
    return route.name or (route.topic if route.topic != "*" else f"route-{place + 1}")


def builtin_sourcetype(topic: str, logstore: str) -> str:
    """By what Alibaba Cloud's products are known to write."""
    for topic_glob, logstore_glob, sourcetype in TABLE:
        if fnmatchcase(topic, topic_glob) and fnmatchcase(logstore, logstore_glob):
            if "{topic}" not in sourcetype:
                return sourcetype
            if _NAME.fullmatch(topic):  # whoever writes logs chooses it
                return sourcetype.replace("{topic}", topic)
    return UNKNOWN
