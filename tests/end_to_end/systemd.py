"""The other end of systemd's notify protocol: a real datagram socket."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path


class Systemd:
    """What systemd would hear."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)

    def hear(self, word: str, times: int = 1) -> list[str]:
        """Until it has been said so often; the words that came with it. Half a minute of silence is an error."""
        words: list[str] = []
        while times > 0:
            words = self._socket.recv(4096).decode().splitlines()
            times -= word in words
        return words

    def close(self) -> None:
        """For contextlib.closing."""
        self._socket.close()

    def forget(self) -> None:
        """What was said until now."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)
        self._socket.settimeout(30)
