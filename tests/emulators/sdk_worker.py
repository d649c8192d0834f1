"""The SDK's own ConsumerWorker as a process, to be killed: python -m tests.emulators.sdk_worker MOOD PROXY SETTINGS_AS_JSON

reads      takes everything and saves
raises     cannot take its second batch, once
refuses    takes nothing, and is asked to shut down when it has been given two batches
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Any

from aliyun.log.consumer import ConsumerProcessorBase, ConsumerWorker, CursorPosition, LogHubConfig

enough = threading.Event()


class Reads(ConsumerProcessorBase):
    given = 0

    def process(self, log_groups: Any, check_point_tracker: Any) -> None:
        Reads.given += 1
        self.take(len(log_groups.LogGroups))
        check_point_tracker.save_check_point(True)

    def take(self, groups: int) -> None:
        print("took", groups, flush=True)


class Raises(Reads):
    def take(self, groups: int) -> None:
        if Reads.given == 2:
            raise OSError("the disk is full")
        super().take(groups)


class Refuses(Reads):
    def process(self, log_groups: Any, check_point_tracker: Any) -> None:
        Reads.given += 1
        if Reads.given > 1:
            enough.set()
        raise OSError("the disk is full")


MOODS = {"reads": Reads, "raises": Raises, "refuses": Refuses}


def main() -> None:
    mood, proxy, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    os.environ |= {"http_proxy": proxy, "no_proxy": "127.0.0.1"}
    logging.disable(logging.CRITICAL)
    configure: Any = LogHubConfig
    given = {"heartbeat_interval": 1, "data_fetch_interval": 0.1, "worker_pool_size": 8, **settings}
    option = configure(
        "http://cn-hangzhou.log.aliyuncs.com", "ak", "sk", "p", "l", "group", "sdk",
        cursor_position=CursorPosition.BEGIN_CURSOR, **given,
    )  # fmt: skip
    worker: Any = ConsumerWorker(MOODS[mood], option)
    worker.start()
    enough.wait()
    worker.shutdown()
    worker.join()


if __name__ == "__main__":
    main()
