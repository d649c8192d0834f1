"""What all tests share: one hypothesis profile, a deadline for every wait (`poll`), and honest skips."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys

import hypothesis
import pytest

from tests.waiting import poll

__all__ = ["poll"]

#: Seconds for the interpreter's own end, which joins threads; and in which other workers may still be at their last test.
EXIT_SECONDS = 600

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_sessionstart() -> None:
    """Umounts reach the mount namespaces that tests make (`ip netns exec`, `unshare`), as they do where systemd is. Else those
    hold on to loop devices of other tests, and a file system is mounted twice.
    """
    if os.geteuid() == 0:
        subprocess.run(["mount", "--make-rshared", "/"], check=False, capture_output=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What shares a machine or a house runs in its order in one process. With some versions of pytest, xdist forgets that."""
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                pytest.exit(
                    "this pytest-xdist does not keep groups together with this pytest; see pyproject.toml", returncode=3
                )


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that a test has left behind keeps no worker, and so no run, from ending."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=sys.__stderr__.fileno())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: loop devices, namespaces or a low port"))
