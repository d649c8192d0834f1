"""A stop and a HUP of the whole program. Witnesses: SLS's own list of who has which shard, and a Splunk that is silent."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from tests.end_to_end.books import assert_books
from tests.end_to_end.day import FRAGILE
from tests.end_to_end.house import House
from tests.waiting import poll


def owners(house: House) -> dict[str, str]:
    """shard → consumer, as SLS has them."""
    shards: dict[str, Any] = house.sls.get("checkpoints").get("g", {}).get("shards", {})
    return {number: one["owner"] for number, one in shards.items()}


def hup(house: House) -> None:
    assert house.supervisor is not None
    house.supervisor.send_signal(signal.SIGHUP)


def test_a_hup_brings_the_same_names_back_before_their_shards_move(tmp_path: Path) -> None:
    with House(tmp_path, shards=4, consumers=2, senders=1, sls_options=("--fill", "2000")) as house:
        house.config.write_text(house.settings().replace('"6s"', '"60s"'))
        house.start()
        house.wait_delivered()
        poll(lambda: house.status().get("state") == "running", f"it runs; {house.tail()}", 60)
        poll(lambda: sorted(Counter(owners(house).values()).values()) == [2, 2], "both have two shards", 60)
        before, pids = owners(house), {child["pid"] for child in house.status()["children"]}
        seen = []
        house.sls.post("feed", logs=200)
        hup(house)

        def is_replaced() -> bool:
            seen.append(owners(house))
            found = house.status()
            return found["state"] == "running" and not pids & {child["pid"] for child in found["children"]}

        poll(is_replaced, f"all are replaced; {house.tail()}", 120)
        house.sls.post("feed", logs=0)
        house.wait_delivered()
        assert all(one == before for one in [*seen, owners(house)]), "no shard moved"
        assert set(house.delivered().values()) == {1}
        assert house.stop() == 0, house.tail()
        assert_books(house)


def test_a_recycled_consumer_comes_back_under_its_name_before_its_shards_move(tmp_path: Path) -> None:
    with House(tmp_path, shards=4, consumers=2, senders=1, program=FRAGILE, sls_options=("--fill", "2000"),
               variables={"FRAGILE_HANG_TIMEOUT": "60"}) as house:  # fmt: skip
        house.config.write_text(house.settings().replace('"6s"', '"60s"').replace("2GiB", "512MiB"))
        house.start()
        house.wait_delivered()
        poll(lambda: sorted(Counter(owners(house).values()).values()) == [2, 2], "both have two shards", 60)
        before, seen = owners(house), []
        told = house.spool / "leak-consumer-0"
        told.touch()

        def is_recycled() -> bool:
            seen.append(owners(house))
            return "child recycled" in house.log()

        poll(is_recycled, f"it is recycled; {house.tail()}", 60)
        told.unlink()
        house.sls.post("append", logs=500)
        poll(lambda: house.status()["children"][0]["restarts"] == 1, f"it is back; {house.tail()}", 60)
        house.wait_delivered()
        assert all(one == before for one in [*seen, owners(house)]), "no shard moved"
        assert set(house.delivered().values()) == {1}
        assert [child["restarts"] for child in house.status()["children"]] == [1, 0, 0]
        assert "child died" not in house.log(), "recycling is not a failure"
        assert house.stop() == 0, house.tail()
        assert_books(house)


def in_flight(house: House) -> float:
    """Requests that Splunk has not answered, as the sender tells."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads((house.spool / "run/sender-0.json").read_bytes())
        found: float = told["metrics"]["hec_in_flight"][0][1]
        return found
    return 0


def test_a_stop_does_not_wait_for_a_splunk_that_does_not_answer(tmp_path: Path) -> None:
    """It would wait for `hec.timeout`, two minutes, and would be killed only after five."""
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "5000")) as house:
        house.config.write_text(house.settings().replace("[supervisor]", '[supervisor]\nstop_timeout = "300s"'))
        house.hec.post("outage", on=True, hang=600, drop=True)
        house.start()
        poll(lambda: house.status().get("spool", {}).get("batches"), f"something waits; {house.tail()}", 60)
        poll(lambda: house.hec.get("stats")["connections"] and in_flight(house), "Splunk is asked", 60)
        assert house.stop(60) == 0, house.tail()
        assert "child killed" not in house.tail()
        house.hec.post("outage", on=False)
        house.start()
        house.wait_delivered()
        assert house.stop() == 0, house.tail()
        assert_books(house)


def test_a_hup_with_a_larger_spool_ends_a_full_one(tmp_path: Path) -> None:
    with House(tmp_path, shards=2, consumers=1, senders=1, sls_options=("--fill", "120000")) as house:
        small = 'max_bytes = "64MiB"\ndead_letter_max_bytes = "60MiB"\n'
        settings = house.settings().replace("[spool]\n", f"[spool]\n{small}")
        house.config.write_text(settings)
        house.hec.post("outage", on=True)
        house.start()
        poll(lambda: house.status().get("state") == "paused", f"it is full; {house.status()}; {house.tail()}", 60)
        hold = next(one for one in house.status()["holds"] if one["name"] == "room")
        assert "the spool is full" in hold["error"]
        assert "raise spool.max_bytes, then `systemctl reload" in hold["hint"]
        read = house.sls.get("stats")["logstores"][0]["groups_read"]
        house.sls.post("append", logs=500)
        house.config.write_text(settings.replace(small, 'max_bytes = "400MiB"\n'))
        hup(house)
        poll(lambda: house.status().get("state") == "degraded", f"only Splunk is amiss; {house.status()['reason']}", 60)
        poll(lambda: house.sls.get("stats")["logstores"][0]["groups_read"] > read, "pulling goes on", 60)
        house.hec.post("outage", on=False)
        house.wait_delivered()
        assert house.stop() == 0, house.tail()
        assert_books(house)
