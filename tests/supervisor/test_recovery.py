"""Looking through the spool at the start: systemd hears at each file that we live, and a stop ends it, to be begun again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buffer.spool import Spool, lane_directory
from buffer.writer import LaneWriter
from supervisor.recovery import Recovery
from supervisor.systemd import Notifier
from tests.buffer.power import workload

BATCHES = 40


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """With one lane of 40 batches, whose index is lost."""
    settings = workload.settings(tmp_path / "spool")
    opened = Spool.open(settings)
    lane = lane_directory(opened.directory, opened.id, 0)
    writer = LaneWriter.open(lane, settings)
    for number in range(BATCHES):
        writer.put([workload.pull(0, 1000 + number * workload.GROUPS, 1)])
    writer.close()
    for file in lane.glob("cache.db*"):
        file.unlink()
    (lane / "cache.db").write_bytes(b"not a database, " * 1000)
    yield opened
    opened.close()


class Listener:
    """systemd's end."""

    def __init__(self, path: Path) -> None:
        self.heard: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while data := self._socket.recv(4096):
            self.heard.append(data.decode().splitlines())

    def close(self) -> None:
        """All that was sent has been heard then."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(30)
        self._socket.close()


@pytest.fixture
def notifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[list[str]]]]:
    """What was heard, asked when all is over; the address is in the environment."""
    listener = Listener(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("supervisor.recovery.ASK_EVERY", 0.0)
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)

        def heard() -> list[list[str]]:
            stack.close()
            return listener.heard

        yield heard


def test_systemd_is_asked_for_patience_at_each_body_that_is_read(
    spool: Spool, notifier: Callable[[], list[list[str]]]
) -> None:
    shown: list[int] = []
    assert Recovery(spool, Notifier(), lambda: False, lambda: shown.append(1)).run()
    assert sum(lane.batches for lane in spool.lanes()) == BATCHES
    heard = notifier()
    assert len(heard) > BATCHES
    assert all({"EXTEND_TIMEOUT_USEC=60000000", "WATCHDOG=1"} <= set(words) for words in heard)
    assert len(shown) == len(heard), "and the page shows it"


def test_a_stop_ends_it_and_the_next_start_begins_it_again(
    spool: Spool, notifier: Callable[[], list[list[str]]]
) -> None:
    turns: list[int] = []

    def asked() -> bool:
        turns.append(1)
        return len(turns) > BATCHES // 2

    assert not Recovery(spool, Notifier(), asked, lambda: None).run()
    assert len(turns) == BATCHES // 2 + 1, "at once"
    assert Recovery(spool, Notifier(), lambda: False, lambda: None).run()
    assert sum(lane.batches for lane in spool.lanes()) == BATCHES
    assert notifier()
