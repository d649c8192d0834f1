"""A consumer process against the emulator: everything is in the lane, once, and the checkpoints say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.sls import SlsEmulator
from tests.worker.consuming import House, body_of, source_of, stored


def test_everything_sls_holds_is_in_the_lane_once_and_checkpointed(tmp_path: Path) -> None:
    with SlsEmulator(shards=4) as sls:
        sls.fill(40_000)
        with House(tmp_path / "spool", source_of(sls)) as house:
            house.start()
            house.wait_drained(sls)
            assert house.stop() == 0
            assert house.groups() == stored(sls)
            raw = b"".join(b"".join(shard.framed) for _, shard in sorted(sls.store().shards.items()))
            spooled = sorted(house.pulls(), key=lambda pull: (pull.key.shard, pull.begin))
            assert b"".join(map(body_of, spooled)) == raw


@pytest.mark.parametrize("region", ["", "cn-hangzhou"])
def test_it_speaks_https_with_a_private_ca_and_both_signatures(tmp_path: Path, region: str) -> None:
    with SlsEmulator(shards=1, tls=True) as sls:
        sls.fill(2_000)
        with House(tmp_path / "spool", source_of(sls, region=region), once=True) as house:
            house.start()
            assert house.wait() == 0
            assert house.groups() == stored(sls)
            assert sls.drained("siem")
