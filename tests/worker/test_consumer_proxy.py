"""A consumer behind a real proxy: squid passes it to SLS for a user whom it knows. Witness: squid's own log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.sls import SlsEmulator
from tests.waiting import poll
from tests.worker.consuming import House, source_of, stored
from tests.worker.middlemen import Squid


@pytest.mark.parametrize("encrypted", [True, False], ids=["https", "http"])
def test_sls_is_read_through_squid_once_it_knows_the_user(tmp_path: Path, encrypted: bool) -> None:
    with SlsEmulator(shards=2, tls=encrypted) as sls, Squid({"fred": "another"}) as squid:
        sls.fill(500)
        source = source_of(sls, proxy=f"http://fred:s3cret%20p%40ss@127.0.0.1:{squid.port}")
        with House(tmp_path / "spool", source) as house:
            house.start()
            poll(house.hold, "held: squid wants another password")
            hold = house.hold()
            assert hold is not None
            assert "the proxy wants a user" in hold["error"]
            assert "this source's proxy" in hold["hint"]
            assert "s3cret" not in str(house.report())
            assert not sls.service.requests
            squid.set_users({"fred": "s3cret p@ss"})
            house.wait_drained(sls)
            poll(lambda: house.hold() is None, "the hold has ended")
            assert house.groups() == stored(sls)
        word = "CONNECT" if encrypted else "GET"
        poll(lambda: any(word in line and "/200 " in line and "fred" in line for line in squid.lines()), "squid saw it")
