"""What `size` reckons, against figures done by hand."""

from __future__ import annotations

import pytest

from supervisor.size import parse_duration, parse_size, reckon, spool_gib


def test_a_terabyte_a_day() -> None:
    """11.6 MB/s on average; at twice that and 5:1 it is 37 Mbit/s. A day of it on disk, 5:1, is 200 GB."""
    found = reckon(1e12, 86400)
    assert found["mbit_per_second"] == 37.0
    assert found["shards"] == 5
    assert found["disk_bytes"] == 200_000_000_000
    assert found["disk_bytes_per_second"] == pytest.approx(4.63e6, rel=0.001)
    assert found["cores"] == pytest.approx(23.15 / 50, rel=0.01)


def test_the_spool_holds_what_was_reckoned_before_pulling_stops() -> None:
    found = spool_gib(200e9)
    assert 0.95 * (found - 1) * 2**30 >= 200e9
    assert 0.95 * (found - 3) * 2**30 < 200e9


@pytest.mark.parametrize(("text", "value"), [("1TB", 1e12), ("500 GiB", 500 * 2**30), ("1.5kb", 1500)])
def test_sizes(text: str, value: float) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [("24h", 86400), ("90m", 5400), ("1.5d", 129600), ("30s", 30)])
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "1", "TB", "-1TB", "1XB", "1 TB a day"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse_size(text)
