"""What of the demo needs no demo to be shown."""

from __future__ import annotations

import pytest

from scripts.demo_run import PATIENCE, is_over


@pytest.mark.parametrize("seconds", [1.0, 40.0, 120.0, 3600.0])
def test_the_demo_gives_what_waits_the_same_time_however_long_logs_flowed(seconds: float) -> None:
    assert not is_over(seconds, seconds, all_there=True)
    assert is_over(seconds + 0.1, seconds, all_there=True)
    assert not is_over(seconds + PATIENCE - 0.1, seconds, all_there=False)
    assert is_over(seconds + PATIENCE + 0.1, seconds, all_there=False)
