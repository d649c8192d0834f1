"""A sender under load through every class of outage, back to back; through rolling restarts of four indexers; and with one
of three routes refused while it is killed again and again. `scripts/soak sender` does the same for minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.worker.outages import (
    NAME_SERVER,
    REFUSED_ROUTES,
    Load,
    Refused,
    Splunk,
    every_outage,
    prove,
    rolling_restart,
)
from tests.worker.sending import sending


@pytest.mark.root
def test_outages_of_every_class_back_to_back_lose_nothing(tmp_path: Path) -> None:
    """Root: the name service is gone too, while Splunk moves to another address; in a mount namespace of the sender's own."""
    with (
        Splunk(tmp_path) as splunk,
        sending(
            tmp_path, [splunk.url], TOKEN, ca_file=splunk.authority.ca_file, timeout=30.0, connect_timeout=2.0
        ) as house,
    ):
        house.hosts, house.name_server = splunk.hosts, NAME_SERVER
        house.start()
        with Load(house) as load:
            every_outage(house, splunk, load, seconds=1.0)
        house.wait_empty()
        prove(house, [splunk.hec])


@pytest.mark.parametrize("ack", [False, True], ids=["without ack", "with ack"])
def test_6a_50_a_rolling_restart_of_four_indexers_loses_nothing(tmp_path: Path, ack: bool) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, ack=ack)]) as one,
        HecEmulator(tokens=[Token(TOKEN, ack=ack)]) as two,
        HecEmulator(tokens=[Token(TOKEN, ack=ack)]) as three,
        HecEmulator(tokens=[Token(TOKEN, ack=ack)]) as four,
    ):
        hecs = [one, two, three, four]
        for hec in hecs:
            hec.knobs.ack_delay, hec.knobs.delay = 0.3, 0.05
        options = {"ack": "required" if ack else "off", "max_request_bytes": 8192, "ack_timeout": 20.0}
        with sending(tmp_path, [hec.url for hec in hecs], TOKEN, **options) as house:
            house.start()
            with Load(house, per_second=50) as load:
                rolling_restart(house, hecs, load, down=0.5, lose=ack)
            house.wait_empty()
            prove(house, hecs)


def test_one_of_three_routes_is_refused_while_the_sender_is_killed_again_and_again(tmp_path: Path) -> None:
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        sending(
            tmp_path, [hec.url], TOKEN, routes=REFUSED_ROUTES, max_request_bytes=16384, trust_prefix="splunk"
        ) as house,
    ):
        house.start()
        with Load(house, per_second=60, topics="abc") as load:
            refused = Refused(house, hec, load)
            for _ in range(4):
                load.during(0.7)
                refused.others_flow()
                refused.kill()
            refused.others_flow()
            assert not set(load.by_topic["c"]) & hec.stored.keys()
            refused.allow()
            load.during(0.5)
            refused.kill()
        refused.prove()
