"""What `scripts/bench whole` compares with, as a program of its own: python -m scripts.bench_peer KIND SLS_PROXY HEC_URL TOKEN

founding    the founding document's program. Mended is what keeps it from running (names that are defined nowhere, a tab, the
            format of a log line) and its filter, which matches no topic there is; one POST a log, as it has it.
batched     the SDK's ConsumerWorker at its best settings, with what a careful user would write: the same walk, HEC's envelope,
            requests of 1 MiB, zlib's gzip at level 1, the checkpoint after the answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import zlib
from typing import Any

import requests
from aliyun.log.consumer import ConsumerProcessorBase, ConsumerWorker, CursorPosition, LogHubConfig
from aliyun.log.pulllog_response import PullLogResponse

LIMIT = 1 << 20


class Founding(ConsumerProcessorBase):
    """`SyncData` of the founding document."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self.r = requests.session()
        self.r.max_redirects = 1
        self.r.headers["Authorization"] = f"Splunk {token}"
        self.url = f"{url}/services/collector/event"

    def process(self, log_groups: Any, check_point_tracker: Any) -> None:
        """One POST a log."""
        logs = PullLogResponse.loggroups_to_flattern_list(log_groups, time_as_str=True, decode_bytes=True)
        for log in logs:
            event: dict[str, Any] = {"time": log["__time__"], "fields": {}}
            del log["__time__"]
            event["fields"].update(log)
            data = json.dumps(event, sort_keys=True)
            self.r.post(self.url, data=data, timeout=120).raise_for_status()
        self.save_checkpoint(check_point_tracker)


class Batched(Founding):
    """Many logs a POST, compressed."""

    def process(self, log_groups: Any, check_point_tracker: Any) -> None:
        """Requests of about LIMIT bytes."""
        logs = PullLogResponse.loggroups_to_flattern_list(log_groups, time_as_str=True, decode_bytes=True)
        batch: list[str] = []
        size = 0
        for log in logs:
            data = json.dumps({"time": log.pop("__time__"), "event": log})
            batch.append(data)
            size += len(data)
            if size > LIMIT:
                self._post(batch)
                batch, size = [], 0
        if batch:
            self._post(batch)
        self.save_checkpoint(check_point_tracker)

    def _post(self, batch: list[str]) -> None:
        body = zlib.compress("".join(batch).encode(), 1, 31)
        self.r.post(self.url, data=body, headers={"Content-Encoding": "gzip"}, timeout=120).raise_for_status()


def main() -> None:
    """Until killed."""
    kind, proxy, url, token = sys.argv[1:]
    os.environ |= {"http_proxy": proxy, "no_proxy": "127.0.0.1"}
    logging.disable(logging.CRITICAL)
    best = {} if kind == "founding" else {"worker_pool_size": 8}
    configure: Any = LogHubConfig
    option = configure(
        "http://cn-hangzhou.log.aliyuncs.com", "ak", "sk", "p", "l", "g", f"g-{os.getpid()}",
        cursor_position=CursorPosition.BEGIN_CURSOR, heartbeat_interval=20, data_fetch_interval=1 if kind == "founding" else 0.1,
        **best,
    )  # fmt: skip
    worker = ConsumerWorker(Founding if kind == "founding" else Batched, option, args=(url, token))
    worker.start(join=True)


if __name__ == "__main__":
    main()
