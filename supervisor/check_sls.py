"""What `check` asks SLS: everything that a consumer will ask, except what would join the group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from supervisor.check_net import reach, reach_proxy, split
from supervisor.check_step import Step
from supervisor.cli_sls import exit_code
from worker.settings import SourceSettings
from worker.sls_address import choose_proxies

#: Consumer groups that SLS allows a logstore.
GROUPS_ALLOWED = 30
POLICY = "docs/ram-policy.json is the least policy"


def check_source(source: SourceSettings) -> Iterator[Step]:
    """DNS, TCP, TLS and clock, then each kind of call: what one is refused, the others may still tell."""
    from worker.credentials import Credentials
    from worker.sls import SlsClient
    from worker.sls_errors import SlsError

    name = f"sls {source.name}"
    ca_file = str(source.ca_file) if source.ca_file else None
    parts, host, _ = split(source.endpoint)
    proxy = choose_proxies(source.proxy, host).get(parts.scheme)
    way = reach_proxy(name, proxy) if proxy else reach(name, source.endpoint, ca_file, clock=True)
    if not (yield from way):
        return
    try:
        client = SlsClient(source, Credentials(source))
    except SlsError as error:
        yield refused(f"{name} settings", error)
        return
    try:
        yield from _calls(name, source, client)
    finally:
        client.close()


def _calls(name: str, source: SourceSettings, client: Any) -> Iterator[Step]:
    from worker.sls_errors import Forbidden

    shards: dict[int, Any] = {}

    def logstore() -> Step:
        shards.update(client.shards())
        return Step(f"{name} logstore", "OK", f"{source.project}/{source.logstore}, {len(shards)} shards")

    def retention() -> Step:
        return Step(f"{name} retention", "OK", f"{client.retention_seconds() / 86400:.0f} days")

    def group() -> Step:
        return judge_groups(name, source.consumer_group, sorted(client.groups()))

    def read() -> Step:
        first = next(iter(shards))
        client.pull_raw(first, client.get_cursor_at(first, "begin"), 1)
        return Step(f"{name} read", "OK", "cursors and logs may be read")

    step, error = attempt(f"{name} logstore", logstore)
    yield step
    if error is not None and not isinstance(error, Forbidden):
        return
    yield attempt(f"{name} retention", retention)[0]
    yield attempt(f"{name} group", group)[0]
    if shards:
        yield attempt(f"{name} read", read)[0]


def attempt(name: str, work: Callable[[], Step]) -> tuple[Step, Exception | None]:
    """A step; or what SLS said instead, and the error."""
    from worker.sls_errors import SlsError

    try:
        return work(), None
    except SlsError as error:
        return refused(name, error), error


def refused(name: str, error: Any) -> Step:
    """With the action that is to be allowed, where SLS names it."""
    action = re.search(r"\blog:\w+", error.message)
    remedy = f"allow {action[0]} to the RAM user: {POLICY}" if action else f"{error.hint}; {POLICY}"
    return Step(name, "FAIL", error.error, remedy, exit_code(error))


def judge_groups(name: str, wanted: str, groups: list[str]) -> Step:
    """Whether ours is there, or may be made."""
    shown = f"{len(groups)} of {GROUPS_ALLOWED} groups"
    if wanted in groups:
        return Step(f"{name} group", "OK", f"{wanted} exists; {shown}")
    if len(groups) >= GROUPS_ALLOWED:
        return Step(f"{name} group", "FAIL", f"{shown}: {', '.join(groups)}",
                    "delete one that is not used: sls-siem group delete NAME --source … --yes", 69)  # fmt: skip
    return Step(f"{name} group", "OK", f"{wanted} will be made; {shown}; to make it and to join it was not tried")
