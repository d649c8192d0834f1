"""Our state as an event in Splunk itself, once a minute and when it changes: a SOC watches Splunk, not Prometheus.

A thread for each event, because a post may block for minutes and the loop may not; one at a time, and none unless the
settings ask for it. An event that Splunk does not take is not sent again: the next one is newer, and its absence tells too.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import orjson

from supervisor.settings import Settings
from worker import logs

log = logs.get_logger()
SOURCETYPE = "sls_siem:health"
#: Seconds between two events; between two when the state changes.
EVERY, SOONEST = 60.0, 5.0


def is_due(since: float, was: str, state: str) -> bool:
    """`since`: seconds since the last event, which said `was`."""
    return since >= EVERY or (state != was and since >= SOONEST)


def event_of(document: dict[str, Any], index: str, now: float) -> dict[str, Any]:
    """The envelope, out of what `status` shows. No secrets are in there."""
    spool, memory, letters = document["spool"], document["memory"], document["dead_letters"]
    shards = [shard for source in document["sources"] for shard in source["shards"]]
    lags = [s["lag_seconds"] for s in shards if s["lag_seconds"] is not None]
    left = [s["retention_left_seconds"] for s in shards if s["retention_left_seconds"] is not None]
    told = ("kind", "name", "title", "error", "hint", "events", "age_seconds")
    made = {
        "time": f"{now:.3f}", "host": document["supervisor"]["host"], "source": "sls-siem", "sourcetype": SOURCETYPE,
        "event": {
            "state": document["state"], "reason": document["reason"], "version": document["supervisor"]["version"],
            "spool_id": document["supervisor"]["spool_id"], "shards": len(shards),
            "lag_seconds": max(lags, default=None), "retention_left_seconds": min(left, default=None),
            "spool_bytes": spool["bytes"], "spool_max_bytes": spool["max_bytes"],
            "spool_oldest_seconds": spool["oldest_seconds"], "full_in_seconds": spool["full_in_seconds"],
            "live_again_in_seconds": spool["live_again_in_seconds"],
            "delivered_events": spool["books"]["delivered"] + spool["books"]["delivered_later"],
            "dead_letters": letters["count"], "memory_used_bytes": memory["used"], "memory_level": memory["level"],
            "children_down": [c["name"] for c in document["children"] if c["state"] != "running"],
            "holds": [{key: hold.get(key) for key in told} for hold in document["holds"][:20]],
        },
    }  # fmt: skip
    return made | {"index": index} if index else made


class Health:
    """Sends it, when it is time."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._state = ""
        self._thread: threading.Thread | None = None
        self._taken = True

    def tell(self, document: dict[str, Any], settings: Settings) -> None:
        """Once a second, from the loop."""
        now = time.monotonic()
        busy = self._thread is not None and self._thread.is_alive()
        if not settings.status.health_events or busy or not is_due(now - self._last, self._state, document["state"]):
            return
        self._last, self._state = now, document["state"]
        event = orjson.dumps(event_of(document, settings.status.health_index, time.time()))
        thread = threading.Thread(target=self._send, args=(event, settings), name="health", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread is to be had: the loop, which called us, goes on without
            log.warning(
                "health event not taken",
                error=str(error),
                hint="the machine is out of threads; the next is in a minute",
            )
            return
        self._thread = thread

    def _send(self, event: bytes, settings: Settings) -> None:
        """Said once when Splunk does not take it, and once when it does again."""
        why = post(event, settings)
        if why and self._taken:
            log.warning("health event not taken", error=why, hint="see the holds; the next is sent in a minute")
        elif not why and not self._taken:
            log.info("health event taken again")
        self._taken = not why


def post(event: bytes, settings: Settings) -> str:
    """To the first URL that takes it; why not, where none does."""
    from worker.hec import HecClient
    from worker.tokens import Tokens
    from worker.verdict import Act, judge

    client, why = HecClient(settings.hec), "no URL"
    try:
        token = Tokens(settings.hec).default()
        for url in settings.hec.urls:
            # A channel, for a token that wants acknowledgement; others do not mind it.
            verdict = judge(client.post(url, token, [event], channel=str(uuid.uuid4())), events=1)
            if verdict.act is Act.ACCEPT:
                return ""
            why = f"{url}: {verdict.status}/{verdict.code}: {verdict.why}"
    finally:
        client.close()
    return why
