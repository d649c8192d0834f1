"""What is waited for is not a hang: services that do not answer when we start, names that nobody knows, an index made anew."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.end_to_end.books import assert_books
from tests.end_to_end.day import FRAGILE
from tests.end_to_end.house import House
from tests.end_to_end.systemd import Systemd
from tests.waiting import poll

#: Seconds, in place of 180; a slow machine does not stand still for so long.
HANG = 10
SHORT = {"FRAGILE_HANG_TIMEOUT": str(HANG)}


def no_answer(house: House) -> Callable[[], None]:
    """Connections are taken, and nothing comes back."""
    house.sls.send("faults", [{"kind": "hang"}])

    def mend() -> None:
        house.sls.send("faults", None, "DELETE")
        house.sls.post("drop_connections")

    return mend


def no_name(house: House) -> Callable[[], None]:
    """DNS knows neither SLS nor Splunk."""
    good = house.config.read_text()
    unknown = good.replace("http://127.0.0.1:", "http://no-such-host.invalid:")
    house.config.write_text(unknown.replace("[hec]", "allow_plaintext = true\n[hec]\nallow_plaintext = true"))

    def mend() -> None:
        house.config.write_text(good)
        assert house.supervisor is not None
        house.supervisor.send_signal(signal.SIGHUP)

    return mend


@pytest.mark.parametrize("trouble", [no_answer, no_name])
def test_a_start_without_services_is_no_hang_however_long_it_lasts(
    tmp_path: Path, trouble: Callable[[House], Callable[[], None]]
) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, program=FRAGILE, variables=SHORT,
               sls_options=("--fill", "500")) as house:  # fmt: skip
        mend = trouble(house)
        house.start()

        def has_lasted() -> bool:
            found = house.status()
            if not found or found["state"] == "starting":
                return False
            begun, now = (datetime.fromisoformat(when) for when in (found["supervisor"]["since"], found["time"]))
            return (now - begun).total_seconds() > 2 * HANG + 4

        poll(has_lasted, f"it goes on; {house.tail()}", 120)
        found = house.status()
        assert [child["restarts"] for child in found["children"]] == [0, 0]
        assert all(child["beat_age"] < HANG for child in found["children"])
        assert "child hangs" not in house.log()
        mend()
        house.wait_delivered()
        assert house.stop() == 0, house.tail()
        assert_books(house)


def test_a_reader_past_its_own_deadline_is_a_hang_though_the_main_loop_goes_round(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, program=FRAGILE, sls_options=("--fill", "500"),
               variables={**SHORT, "FRAGILE_CALL_SECONDS": "2"}) as house:  # fmt: skip
        house.start()
        house.wait_delivered()
        house.sls.send("faults", [{"kind": "hang", "operation": "pull"}])
        poll(lambda: "child hangs" in house.log(), f"it is noticed; {house.tail()}", 60)
        poll(lambda: "in _pull" in house.log(), f"its stacks name the call; {house.tail()}", 30)
        house.sls.send("faults", None, "DELETE")
        house.sls.post("drop_connections")
        house.sls.post("append", logs=500)
        house.wait_delivered()

        def restarts() -> dict[str, int]:
            return {child["name"]: child["restarts"] for child in house.status()["children"]}

        poll(lambda: restarts()["consumer-0"] >= 1, f"status tells it; {house.tail()}", 30)
        assert restarts()["sender-0"] == 0
        assert house.stop() == 0, house.tail()


def test_an_index_that_is_lost_while_it_runs_is_made_anew_and_systemd_is_told_to_wait(tmp_path: Path) -> None:
    with (
        contextlib.closing(Systemd(tmp_path / "notify")) as systemd,
        House(tmp_path / "house", shards=2, consumers=1, senders=1, variables={"NOTIFY_SOCKET": str(systemd.path)},
              sls_options=("--fill", "2000")) as house,
    ):  # fmt: skip
        house.hec.post("outage", on=True)
        house.start()
        systemd.hear("READY=1")
        poll(lambda: house.status().get("spool", {}).get("batches"), f"something waits; {house.tail()}", 60)
        systemd.forget()
        (lane,) = (house.spool / "lanes").iterdir()
        (lane / "cache.db").write_bytes(b"not a database, " * 1000)
        house.sls.post("append", logs=500)
        heard = systemd.hear("STATUS=looking through the spool")
        assert "EXTEND_TIMEOUT_USEC=60000000" in heard
        assert "WATCHDOG=1" in heard
        house.hec.post("outage", on=False)
        house.wait_delivered()
        poll(lambda: house.status().get("state") == "running", f"all is well; {house.status()}", 60)
        assert "index rebuilt" in house.log()
        assert house.stop() == 0, house.tail()
        assert_books(house)
