"""A real Prometheus scrapes a real supervisor, with our scrape settings and our rules. Witness: the emulators."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.books import assert_books
from tests.end_to_end.house import ROOT, House
from tests.waiting import poll

DEPLOY = ROOT / "deploy" / "prometheus"
pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus (Debian: prometheus)")


class Prometheus:
    """One of our own, asked over its API."""

    def __init__(self, work: Path, target: str) -> None:
        work.mkdir()
        scrape = (DEPLOY / "scrape.yml").read_text().replace("127.0.0.1:9464", target)
        every = f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{DEPLOY / 'alerts.yml'}]\n"
        (work / "prometheus.yml").write_text(every + scrape)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        with (work / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={work / 'prometheus.yml'}", f"--storage.tsdb.path={work / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log, stderr=log,
            )  # fmt: skip

    def ask(self, query: str) -> dict[str, float]:
        """Labels (as text) → value; nothing while it is not up yet."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                rows: list[Any] = json.load(answer)["data"]["result"]
        except (OSError, urllib.error.URLError):
            return {}
        ours = ("__name__", "job", "instance")
        return {
            ",".join(v for k, v in sorted(row["metric"].items()) if k not in ours): float(row["value"][1])
            for row in rows
        }

    def sum(self, metric: str) -> float:
        """Over all labels; -1 where there is no such series."""
        found = self.ask(f"sum({metric})")
        return next(iter(found.values()), -1.0)


@contextlib.contextmanager
def scraping(work: Path, house: House) -> Iterator[Prometheus]:
    prometheus = Prometheus(work, house.status()["supervisor"]["listen"])
    try:
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(timeout=30)


def metrics_of(house: House) -> str:
    with urllib.request.urlopen(f"http://{house.status()['supervisor']['listen']}/metrics", timeout=20) as answer:
        found: bytes = answer.read()
    return found.decode()


@contextlib.contextmanager
def slow_clients(house: House, number: int) -> Iterator[None]:
    """As many as like to hold the listener's every thread, again and again."""
    host, _, port = house.status()["supervisor"]["listen"].rpartition(":")
    stop = threading.Event()

    def hang_on() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as client:
                client.sendall(b"GET / HTTP/1.1\r\n")
                while not stop.wait(0.2):
                    client.sendall(b"X: y\r\n")

    threads = [threading.Thread(target=hang_on, daemon=True) for _ in range(number)]
    for one in threads:
        one.start()
    yield
    stop.set()
    for one in threads:
        one.join(timeout=10)


def assert_promtool_has_nothing_to_say(shown: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=shown, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    documented = set(re.findall(r"`(sls_siem_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    assert set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE)) == documented


def test_prometheus_sees_what_splunk_has_the_alerts_and_a_supervisor_that_goes(tmp_path: Path) -> None:
    with House(tmp_path / "house", shards=2, consumers=1, senders=1, sls_options=("--fill", "2000")) as house:
        house.start()
        house.wait_delivered()
        with scraping(tmp_path / "prometheus", house) as prometheus:
            poll(lambda: prometheus.ask('up{job="sls-siem"}') == {"": 1.0}, "it scrapes us", 60, 0.2)
            delivered = "sls_siem_delivered_events_total"
            poll(lambda: prometheus.sum(delivered) == len(house.expected()), "what Splunk has", 60, 0.2)
            zeros = ("buried_events_total", "lost_to_retention_groups_total", "set_aside_groups_total", "child_restarts_total",
                     "hec_possible_duplicates_total")  # fmt: skip
            assert {prometheus.sum(f"sls_siem_{name}") for name in zeros} == {0.0}, "they stand at 0 from the start"
            poll(lambda: prometheus.ask("ALERTS") == {}, "no alert, once it has seen us", 60, 0.2)
            assert_promtool_has_nothing_to_say(metrics_of(house))

            os.kill(next(c["pid"] for c in house.status()["children"] if c["kind"] == "sender"), signal.SIGKILL)
            poll(
                lambda: prometheus.sum("increase(sls_siem_child_restarts_total[1m])") > 0,
                "the first restart counts",
                60,
            )
            requests = prometheus.sum("sls_siem_hec_requests_total")
            with slow_clients(house, 100):
                house.sls.post("append", logs=500)
                house.wait_delivered()
                assert house.run("status", "--json").returncode == 0
            poll(lambda: prometheus.sum(delivered) == len(house.expected()), "also after the crowd", 60, 0.2)
            grown = "a child's end makes no counter fall"
            poll(lambda: prometheus.sum("sls_siem_hec_requests_total") > requests, grown, 60, 0.2)
            assert prometheus.sum("resets(sls_siem_hec_requests_total[5m])") == 0

            assert house.stop() == 0, house.tail()
            assert_books(house)
            alert = 'ALERTS{alertname="SlsSiemDown"}'
            poll(lambda: "pending" in str(prometheus.ask(alert)), "the alert waits its two minutes", 60, 0.2)
