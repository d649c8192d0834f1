"""A name server for tests: UDP, one answer to everything, and the moods of a real one."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from types import TracebackType
from typing import Self

#: RCODE of each mood; `silent` answers nothing.
MOODS = {"answer": 0, "servfail": 2, "nxdomain": 3, "silent": -1}


class DnsEmulator:
    """`mood` and `to` may be changed at any time; `asked` says how often each name was asked for."""

    def __init__(self, address: str, to: str, port: int = 53) -> None:
        self.mood = "answer"
        self.asked: Counter[str] = Counter()
        self.to = to
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, port))
        self._thread = threading.Thread(target=self._serve, daemon=True, name="dns")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                question, peer = self._socket.recvfrom(512)
                answer = self._answer(question)
                if answer:
                    self._socket.sendto(answer, peer)
            except OSError:
                return

    def _answer(self, question: bytes) -> bytes:
        name, end = parse_name(question, 12)
        kind = struct.unpack_from(">H", question, end)[0]
        self.asked[name] += 1
        code = MOODS[self.mood]
        if code < 0:
            return b""
        found = code == 0 and kind == 1
        head = question[:2] + struct.pack(">HHHHH", 0x8180 | max(code, 0), 1, int(found), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(self.to)
        return head + question[12 : end + 4] + (record if found else b"")


def parse_name(data: bytes, at: int) -> tuple[str, int]:
    """(name, where it ends)"""
    labels = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode())
        at += size + 1
    return ".".join(labels), at + 1
