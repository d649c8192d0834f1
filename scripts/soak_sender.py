"""`scripts/soak sender`: a sender under load, for minutes: outages of every class back to back, rolling restarts of four
indexers with and without acknowledgement, one of three routes refused under kill -9. Each ends with its proof.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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


def outages(work: Path, seconds: float, rate: float) -> str:
    """Needs root: the name service is gone too, while Splunk moves to another address."""
    if os.geteuid() != 0:
        return "skipped: needs root, for a mount namespace with a name server of its own"
    with (
        Splunk(work) as splunk,
        sending(work, [splunk.url], TOKEN, ca_file=splunk.authority.ca_file, timeout=5.0, connect_timeout=5.0) as house,
    ):
        house.hosts, house.name_server = splunk.hosts, NAME_SERVER
        house.start()
        with Load(house, rate) as load:
            load.during(2)
            said = every_outage(house, splunk, load, seconds)
        house.wait_empty(deadline=600)
        return "\n".join([*said, prove(house, [splunk.hec])])


def restarts(work: Path, seconds: float, rate: float, *, ack: bool) -> str:
    """Two rounds over four indexers."""
    with contextlib.ExitStack() as stack:
        hecs = [stack.enter_context(HecEmulator(tokens=[Token(TOKEN, ack=ack)])) for _ in range(4)]
        for hec in hecs:
            hec.knobs.ack_delay, hec.knobs.delay = 1.0, 0.05
        options = {"ack": "required" if ack else "off", "max_request_bytes": 16384, "ack_timeout": 30.0}
        house = stack.enter_context(sending(work, [hec.url for hec in hecs], TOKEN, **options))
        house.start()
        with Load(house, rate) as load:
            for _ in range(2):
                rolling_restart(house, hecs, load, seconds, lose=ack)
        house.wait_empty(deadline=600)
        return prove(house, hecs)


def refused(work: Path, seconds: float, rate: float) -> str:
    """A kill every few seconds."""
    with (
        HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec,
        sending(work, [hec.url], TOKEN, routes=REFUSED_ROUTES, trust_prefix="splunk") as house,
    ):
        house.start()
        with Load(house, rate, topics="abc") as load:
            case = Refused(house, hec, load)
            until = time.monotonic() + 12 * seconds
            while time.monotonic() < until:
                load.during(min(seconds, 5.0))
                case.others_flow()
                case.kill()
            case.allow()
        return case.prove()


def main() -> int:
    """0: nothing was lost."""
    asked = argparse.ArgumentParser(prog="scripts/soak sender", description=__doc__)
    asked.add_argument(
        "--seconds", type=float, default=10.0, help="that each trouble lasts; the refused route twelve times so long"
    )
    asked.add_argument("--rate", type=float, default=50.0, help="batches of 20 events that come in a second")
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--only", choices=["outages", "restarts", "restarts-ack", "refused"])
    given = asked.parse_args()
    scenes: dict[str, Callable[[Path], str]] = {
        "outages": lambda work: outages(work, given.seconds, given.rate),
        "restarts": lambda work: restarts(work, given.seconds, given.rate, ack=False),
        "restarts-ack": lambda work: restarts(work, given.seconds, given.rate, ack=True),
        "refused": lambda work: refused(work, given.seconds, given.rate),
    }
    for _ in range(given.rounds):
        for name, scene in scenes.items():
            if given.only in {None, name}:
                with tempfile.TemporaryDirectory(prefix="sls-siem-soak-sender-") as work:
                    print(f"{name}:\n{scene(Path(work))}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
