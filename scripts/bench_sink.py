"""A HEC that only counts: for runs in which the real emulator, which parses every event, would be what is measured.

python -m scripts.bench_sink
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from types import FrameType

from isal import isal_zlib

from tests.emulators.hec import TOKEN
from tests.emulators.sls_http import HttpServer, Request, Response


class Sink:
    """Takes everything; knows how many events and bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = self._bytes = self._requests = 0

    def handle(self, request: Request) -> Response:
        """A POST of events, or `/_control/stats`."""
        if request.path.startswith("/_control/"):
            with self._lock:
                stats = {"distinct": self._events, "bytes": self._bytes, "answers": {"200/0": self._requests}}
            return Response(200, {}, json.dumps(stats).encode())
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            body = isal_zlib.decompress(body, 31)
        events = body.count(b',"event":{')
        with self._lock:
            self._events += events
            self._bytes += len(body)
            self._requests += 1
        return Response(200, {"Content-Type": "application/json"}, b'{"text":"Success","code":0}')


def main() -> int:
    """Until TERM."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    server = HttpServer(Sink().handle)
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
