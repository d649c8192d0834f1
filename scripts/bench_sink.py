"""A HEC that only counts: for runs in which the real emulator, which parses every event, would be what is measured.

python -m scripts.bench_sink [--times]      --times: when the first event of each LogGroup was accepted, too
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from isal import isal_zlib

from tests.emulators.hec import TOKEN
from tests.emulators.sls_http import HttpServer, Request, Response

#: The id of a LogGroup's first event.
_FIRST = re.compile(rb'"sls_id":"([0-9a-f]{8}-\d+-\d+-0)"')


class Sink:
    """Takes everything; knows how many events and bytes."""

    def __init__(self, *, with_times: bool = False) -> None:
        self._lock = threading.Lock()
        self._events = self._bytes = self._requests = 0
        self._with_times = with_times
        self._times: dict[str, float] = {}
        self._is_down = False

    def handle(self, request: Request) -> Response:
        """A POST of events, or `/_control/`: GET stats | times, POST outage {on}."""
        if request.path.startswith("/_control/"):
            return Response(200, {}, json.dumps(self._control(request)).encode())
        if self._is_down:
            return Response(503, {"Content-Type": "application/json"}, b'{"text":"Server is busy","code":9}')
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            body = isal_zlib.decompress(body, 31)
        events = body.count(b',"event":{')
        first = _FIRST.findall(body) if self._with_times else []
        with self._lock:
            self._events += events
            self._bytes += len(body)
            self._requests += 1
            now = time.time()
            for name in first:
                self._times.setdefault(name.decode(), now)
        return Response(200, {"Content-Type": "application/json"}, b'{"text":"Success","code":0}')

    def _control(self, request: Request) -> Any:
        with self._lock:
            if request.path.endswith("/outage"):
                self._is_down = bool(json.loads(request.body)["on"])
            elif request.path.endswith("/times"):
                return self._times
            return {"distinct": self._events, "bytes": self._bytes, "answers": {"200/0": self._requests}}


def main() -> int:
    """Until TERM."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    server = HttpServer(Sink(with_times="--times" in sys.argv[1:]).handle)
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    sys.stdout.write(json.dumps({"url": url, "port": server.port, "token": TOKEN, "ca_file": ""}) + "\n")
    sys.stdout.flush()
    while not stopped.wait(1.0):
        pass
    server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
