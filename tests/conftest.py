"""What all tests share: one hypothesis profile, a deadline for every wait, and honest skips."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def poll(condition: Callable[[], object], what: str, deadline: float = 60.0, every: float = 0.02) -> None:
    """Wait until `condition` holds; fail with `what` when it does not within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline:.0f} s: {what}")
        time.sleep(every)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: loop devices, namespaces or a low port"))
