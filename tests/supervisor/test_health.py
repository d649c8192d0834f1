"""The health event: when it is due, what it says, and what Splunk then has."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import load
from supervisor.health import EVERY, SOONEST, Health, is_due
from tests.end_to_end.house import House
from tests.supervisor.test_config import GOOD
from tests.waiting import poll


def test_it_is_due_each_minute_and_soon_after_a_change() -> None:
    assert is_due(float("inf"), "", "starting")
    assert not is_due(EVERY - 1, "running", "running")
    assert is_due(EVERY, "running", "running")
    assert not is_due(SOONEST - 1, "running", "degraded")
    assert is_due(SOONEST, "running", "degraded")


def test_a_machine_without_threads_costs_an_event_and_not_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what CPython says where the kernel says EAGAIN

    monkeypatch.setattr(threading.Thread, "start", none_left)
    path = tmp_path / "c.toml"
    path.write_text(f"{GOOD}\n[status]\nhealth_events = true\n")
    document = {
        "state": "running", "reason": "", "supervisor": {"host": "h", "version": "1", "spool_id": "i"}, "children": [],
        "sources": [], "holds": [], "memory": {"used": 1, "level": 0}, "dead_letters": {"count": 0},
        "spool": {"bytes": 0, "max_bytes": 1, "oldest_seconds": None, "full_in_seconds": None,
                  "live_again_in_seconds": None, "books": {"delivered": 0, "delivered_later": 0}},
    }  # fmt: skip
    Health().tell(document, load(path, environment={"HOME": "/h"}))


def health_of(house: House) -> list[dict[str, Any]]:
    """What Splunk has stored of it."""
    lines = [json.loads(line) for line in house.hec.text("envelopes").splitlines() if line]
    return [one for one in lines if one.get("sourcetype") == "sls_siem:health"]


def test_splunk_is_told_that_all_is_well_and_what_is_not(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "500"),
               hec_options=("--keep-envelopes",)) as house:  # fmt: skip
        house.config.write_text(
            house.settings().replace("[status]", '[status]\nhealth_events = true\nhealth_index = "main"')
        )
        house.start()
        house.wait_delivered()
        poll(
            lambda: any(e["event"]["state"] == "running" for e in health_of(house)),
            f"it runs; {house.tail()}",
            150,
            0.2,
        )
        event = health_of(house)[-1]
        assert (event["index"], event["source"]) == ("main", "sls-siem")
        assert event["event"]["spool_id"] == house.status()["supervisor"]["spool_id"]
        house.config.write_text(
            house.config.read_text().replace('access_key_secret = "sk"', 'access_key_secret = "wrong"')
        )
        assert house.supervisor is not None

        house.supervisor.send_signal(signal.SIGHUP)
        # A minute later, where an event has told of the children that are replaced.
        poll(
            lambda: any(e["event"]["holds"] for e in health_of(house)), f"SLS refuses the key; {house.tail()}", 150, 0.2
        )
        told = next(e["event"] for e in health_of(house) if e["event"]["holds"])
        assert told["state"] == "degraded"
        assert told["holds"][0]["kind"] == "source"
        assert told["holds"][0]["hint"]
        assert house.hec.ready["token"] not in str(health_of(house))
        logs = {name: times for name, times in house.delivered().items() if not name.startswith("without-id")}
        assert logs == dict.fromkeys(house.expected(), 1), "nothing else is disturbed"
        assert house.stop() == 0, house.tail()
