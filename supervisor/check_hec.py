"""What `check` asks Splunk: health, each token, whether it wants acknowledgement, and each index with a probe event."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from supervisor.check_net import reach, reach_proxy, split
from supervisor.check_step import Step
from supervisor.settings import Settings
from worker.settings import HecSettings
from worker.verdict import Act, judge

SOURCETYPE = "sls_siem:probe"


def check_hec(settings: Settings, url: str, *, probe: bool) -> Iterator[Step]:
    """DNS, TCP, TLS, health; then the tokens, those of routes too, each with its indexes."""
    from worker.hec import HecClient, environment_proxies
    from worker.tokens import Tokens

    hec, name = settings.hec, f"hec {url}"
    ca_file = str(hec.ca_file) if hec.ca_file else None
    ways = environment_proxies(hec.urls)
    proxy = hec.proxy or ways.get(split(url)[0].scheme) or ways.get("all")
    way = reach_proxy(name, proxy) if proxy else reach(name, url, ca_file, verify=hec.verify_tls)
    if not (yield from way):
        return
    client = HecClient(hec)
    try:
        yield _health(name, client.get(url))
        for label, token, indexes in tokens_of(settings, Tokens(hec).default()):
            yield from _token(client, hec, name, url, label, token, indexes if probe else [])
    finally:
        client.close()


def tokens_of(settings: Settings, default: str) -> list[tuple[str, str, list[str]]]:
    """(what to call it, token, indexes that events of it go to); a token is never shown."""
    hec = settings.hec
    found: dict[str, tuple[str, set[str]]] = {default: ("token", {hec.index})}
    for place, route in enumerate(settings.routes):
        if not route.drop:
            label = f"token of route {route.name or place}"
            found.setdefault(route.token or default, (label, set()))[1].add(route.index or hec.index)
    if hec.on_incorrect_index == "fallback":  # events go there with the token that they have
        for _, indexes in found.values():
            indexes.add(hec.fallback_index)
    return [(label, token, sorted(indexes)) for token, (label, indexes) in found.items()]


def _health(name: str, reply: Any) -> Step:
    verdict = judge(reply, events=0)
    well = (reply.status == 200 and verdict.code in {0, 17}) or verdict.code == 17
    return Step(
        f"{name} health", "OK" if well else "WARN", verdict.why or f"HTTP {reply.status}", "" if well else verdict.hint
    )


def _token(
    client: Any, hec: HecSettings, name: str, url: str, label: str, token: str, indexes: list[str]
) -> Iterator[Step]:
    """An empty body must get 400/5, or the wish for a channel."""
    reply = client.post(url, token, [b""], compress=False)
    verdict = judge(reply, events=1)
    wants_channel = verdict.act is Act.CHANNEL
    if reply.status == 400 and verdict.code == 5:
        needs = hec.ack == "required"
        remedy = 'turn "indexer acknowledgement" on for the token in Splunk, or set hec.ack to auto' if needs else ""
        yield Step(f"{name} {label}", "FAIL" if needs else "OK", "accepted, acknowledgement off", remedy, 69)
        if needs:
            return
    elif wants_channel:
        off = hec.ack == "off"
        yield Step(f"{name} {label}", "WARN" if off else "OK", "accepted, wants acknowledgement",
                   "set hec.ack to auto" if off else "")  # fmt: skip
    else:
        yield Step(f"{name} {label}", "FAIL", f"{verdict.status}/{verdict.code}: {verdict.why}", verdict.hint,
                   77 if verdict.hold == "token" else 69)  # fmt: skip
        return
    for index in indexes:
        yield _probe(client, name, url, token, index, channel=str(uuid.uuid4()) if wants_channel else "")


def _probe(client: Any, name: str, url: str, token: str, index: str, *, channel: str) -> Step:
    event: dict[str, Any] = {
        "time": str(int(time.time())), "source": "sls-siem", "sourcetype": SOURCETYPE, "event": {"message": "sls-siem check"},
    }  # fmt: skip
    if index:
        event["index"] = index
    verdict = judge(client.post(url, token, [orjson.dumps(event)], compress=False, channel=channel), events=1)
    shown = index or "(the token's own)"
    if verdict.act is Act.ACCEPT:
        # A token without a list of indexes is told "accepted" for one that does not exist, too.
        search = f"index={index or '*'} sourcetype={SOURCETYPE}"
        return Step(f"{name} index {shown}", "OK", f"a probe event was accepted; see it in Splunk: {search}")
    return Step(f"{name} index {shown}", "FAIL", f"{verdict.status}/{verdict.code}: {verdict.why}",
                "add it to the token's allowed indexes" if verdict.code == 7 else verdict.hint, 69)  # fmt: skip
