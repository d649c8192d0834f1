"""What is deployed beside the program: alert rules that Prometheus takes and that each have their runbook, and the unit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def promtool(*command: str) -> None:
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    runbooks = re.findall(r"^### (SlsSiem\w+)", (DEPLOY.parent / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert alerts == runbooks


def test_alerts_use_only_metrics_that_there_are() -> None:
    used = set(re.findall(r"sls_siem_\w+", (DEPLOY / "prometheus" / "alerts.yml").read_text()))
    documented = set(re.findall(r"`(sls_siem_\w+)`", (DEPLOY.parent / "docs" / "metrics.md").read_text()))
    assert used <= documented


def test_the_unit_says_what_the_supervisor_needs() -> None:
    unit = (DEPLOY / "systemd" / "sls-siem.service").read_text().splitlines()
    for line in ("Type=notify", "RestartPreventExitStatus=78", "KillMode=mixed", "NoNewPrivileges=yes", "UMask=0077"):
        assert line in unit


def test_systemd_finds_no_fault_in_the_unit() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(DEPLOY / "systemd" / "sls-siem.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    faults = [
        line for line in done.stderr.splitlines() if "sls-siem.service" in line and "/opt/sls-siem/bin" not in line
    ]
    assert not faults
