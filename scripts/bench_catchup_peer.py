"""The SDK's ConsumerWorker for `scripts/bench catchup`:

    python -m scripts.bench_catchup_peer SLS_PROXY LOGSTORE SETTINGS_AS_JSON [FILE]

It does nothing with the logs but save its checkpoint: whatever a user's processor did would come on top. With a file it does
first what ours promises: they are on the disk before the checkpoint is saved.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from aliyun.log.consumer import ConsumerProcessorBase, ConsumerWorker, CursorPosition, LogHubConfig


class Nothing(ConsumerProcessorBase):
    """As little as can be."""

    def process(self, log_groups: Any, check_point_tracker: Any) -> None:  # noqa: ARG002 - the SDK's signature
        """Every three seconds, as the base class has it."""
        self.save_checkpoint(check_point_tracker)


class Durable(Nothing):
    """The least that keeps the promise."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def process(self, log_groups: Any, check_point_tracker: Any) -> None:
        """Append and flush."""
        os.write(self._file, log_groups.SerializeToString())
        os.fdatasync(self._file)
        super().process(log_groups, check_point_tracker)


def main() -> None:
    """Until killed."""
    proxy, logstore, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    os.environ |= {"http_proxy": proxy, "no_proxy": "127.0.0.1"}
    logging.disable(logging.CRITICAL)
    configure: Any = LogHubConfig
    option = configure(
        "http://cn-hangzhou.log.aliyuncs.com", "ak", "sk", "p", logstore, "g", f"g-{os.getpid()}",
        cursor_position=CursorPosition.BEGIN_CURSOR, **settings,
    )  # fmt: skip
    kind, given = (Durable, (sys.argv[4],)) if sys.argv[4:] else (Nothing, ())
    ConsumerWorker(kind, option, args=given).start(join=True)


if __name__ == "__main__":
    main()
