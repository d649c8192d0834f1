"""What can be wrong with a route, and with where it sends its events, that Splunk would tell late or never. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from supervisor.settings import Settings
from worker.credentials import is_sendable
from worker.settings import RouteSettings, SourceSettings

#: As Splunk names them. One that cannot exist is accepted all the same by a token without a list, and its events are gone.
_INDEX = re.compile(r"_?[a-z0-9][a-z0-9_-]*")


def check_routes(settings: Settings) -> list[str]:
    """A line for each thing that is wrong."""
    names = Counter(route.name for route in settings.routes if route.name)
    found = [f"hec.{problem}" for problem in _hec(settings)]
    for place, route in enumerate(settings.routes):
        problems = [*_matching(route, settings.routes[:place], settings.sources), *_shape(route, settings.hec.id_field)]
        if names[route.name] > 1:
            problems.append(f".name: two routes are called {route.name!r}: their books and holds would be one")
        found += [f"route.{place}{problem}" for problem in problems]
    return found


def _hec(settings: Settings) -> Iterator[str]:
    hec = settings.hec
    for name, index in (("index", hec.index), ("fallback_index", hec.fallback_index)):
        yield from _index(name, index)
    if not is_sendable(hec.token):
        yield "token: must be printable ASCII without spaces"


def _matching(
    route: RouteSettings, earlier: Sequence[RouteSettings], sources: Sequence[SourceSettings]
) -> Iterator[str]:
    """A route that never gets anything."""
    if any(_covers(one, route) for one in earlier):
        everything = any((one.topic, one.source_name, one.logstore) == ("*", "*", "*") for one in earlier)
        yield f": can never match: an earlier route takes {'every topic' if everything else 'all that it would take'}"
    elif sources and not any(
        fnmatchcase(one.name, route.source_name) and fnmatchcase(one.logstore, route.logstore) for one in sources
    ):
        yield ": can never match: no source has that source_name and logstore"


def _covers(one: RouteSettings, other: RouteSettings) -> bool:
    globs = ((one.topic, other.topic), (one.source_name, other.source_name), (one.logstore, other.logstore))
    return all(wide in {"*", narrow} for wide, narrow in globs)


def _shape(route: RouteSettings, id_field: str) -> Iterator[str]:
    """What it makes of an event."""
    kind, _, name = route.host.partition(":")
    known = route.host in {"", "source", "hostname", "project"} or (kind == "field" and name)
    if not known and not (route.host.startswith("=") and len(route.host) > 1):
        yield ".host: source, hostname, project, field:<name>, or =text"
    if any(not step for path in route.json_fields for step in path.split(".")):
        yield ".json_fields: names of fields, or dotted paths into them; none may be empty"
    if "" in route.fields or (id_field == "fields" and "sls_id" in route.fields):
        yield '.fields: no empty name, and no sls_id with id_field = "fields"'
    if not is_sendable(route.token):
        yield ".token: must be printable ASCII without spaces"
    for problem in _index("index", route.index):
        yield f".{problem}"


def _index(name: str, index: str) -> Iterator[str]:
    if index and not _INDEX.fullmatch(index):
        yield f"{name}: {index!r} is no name of an index: lower-case letters, digits, - and _"
