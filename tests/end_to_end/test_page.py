"""The page in a real browser, over a real supervisor. Witness of what it shows: the emulators, and the console."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.end_to_end.books import assert_books
from tests.end_to_end.browser import Browser, is_there
from tests.end_to_end.house import House
from tests.waiting import poll

#: Where to keep the screenshots, for somebody who wants to look at them.
SHOTS = os.environ.get("SLS_SIEM_SCREENSHOTS")
#: What an attacker may get Splunk, or somebody in front of it, to say.
HOSTILE = 'Server is busy <img src=x onerror="document.title=1">'
INJECT = "(() => {const s = document.createElement('script'); s.textContent = 'ran = 1'; document.body.append(s)})()"


def look(browser: Browser, work: Path, name: str) -> None:
    """Both themes; they must differ, and the page must not scroll sideways on a phone."""
    folder = Path(SHOTS) if SHOTS else work
    pictures = []
    for theme in ("light", "dark"):
        browser.theme(theme)
        pictures.append(browser.screenshot(folder / f"{name}-{theme}.png"))
    assert pictures[0] != pictures[1]
    browser.resize(390, 844)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "it fits a phone"
    browser.resize(1280, 1000)


@pytest.mark.skipif(not is_there(), reason="needs chromium (Debian: chromium)")
def test_the_page_shows_an_outage_that_begins_and_ends_and_a_supervisor_that_goes(tmp_path: Path) -> None:
    with (
        House(tmp_path / "house", shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house,
        Browser(tmp_path) as browser,
    ):
        house.start()
        house.wait_delivered()
        poll(lambda: house.status().get("state") == "running", f"it runs; {house.tail()}", 60)
        browser.resize(1280, 1000)
        browser.open(f"http://{house.status()['supervisor']['listen']}/")
        poll(lambda: browser.text("#state") == "running", "the page says running")
        shown = len(house.expected())
        poll(lambda: browser.text("#accepted").replace("\u202f", "") == f"{shown} events", "what Splunk has")
        assert browser.text("#children").count("running") == 2
        poll(lambda: "the newest log came" in browser.text("#newest"), "whether SLS gets anything")
        assert browser.value("document.querySelectorAll('#charts svg').length") == 4
        assert not browser.text("#holds")
        look(browser, tmp_path, "running")

        house.hec.post("outage", on=True, status=503, body=json.dumps({"text": HOSTILE, "code": 9}))
        house.sls.post("append", logs=500)
        poll(lambda: browser.text("#state") == "degraded", "the outage is shown")
        poll(lambda: f"503/9: {HOSTILE}" in browser.text("#holds"), "with its cause, as text")
        assert browser.value("document.images.length") == 0
        assert "comes back by itself" in browser.text("#holds"), "and what to do"
        poll(lambda: "not draining" in browser.text("#forecast"), "the backlog is there")
        poll(lambda: browser.value("document.querySelectorAll('.trouble').length") > 0, "the charts show since when")
        look(browser, tmp_path, "outage")

        house.hec.post("outage", on=False)
        poll(lambda: browser.text("#state") == "running", "its end is shown")
        assert not browser.text("#holds")
        house.wait_delivered()
        poll(lambda: browser.text("#waits") == "nothing waits", "the backlog is gone")
        assert browser.problems == []
        browser.value(INJECT)
        assert browser.value("window.ran === undefined"), "our policy lets no foreign script run"

        assert house.stop() == 0, house.tail()
        assert_books(house)
        poll(lambda: browser.text("#state") == "stale", "the supervisor is gone")
        look(browser, tmp_path, "stale")
