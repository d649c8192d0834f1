"""What is deployed beside the program: alert rules with their runbooks, the dashboard, the unit, and the installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
UNIT = DEPLOY / "systemd" / "sls-siem.service"
SCRIPTS = ("install", "wheelhouse", "setup")


def promtool(*command: str) -> None:
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def metrics() -> set[str]:
    """All that docs/metrics.md has."""
    return set(re.findall(r"`(sls_siem_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))


def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_prometheus_takes_the_scrape_settings() -> None:
    promtool("check", "config", "scrape.yml")


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", ALERTS.read_text())
    runbooks = re.findall(r"^### (SlsSiem\w+)", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert alerts == runbooks


def test_every_alert_has_a_summary_and_leads_to_its_own_runbook() -> None:
    for rule in ALERTS.read_text().split("- alert: ")[1:]:
        name = rule.split()[0]
        assert f"runbook: docs/operations.md#{name.lower()}\n" in rule, name
        assert re.search(r"summary: '.+'", rule), name


def test_every_alert_has_a_unit_test() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (DEPLOY / "prometheus" / "alerts_test.yml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))


def test_alerts_use_only_metrics_that_there_are() -> None:
    assert set(re.findall(r"sls_siem_\w+", ALERTS.read_text())) <= metrics()


def test_the_dashboard_uses_only_metrics_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "sls-siem.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name.removesuffix("_bucket") for expr in shown for name in re.findall(r"sls_siem_\w+", expr)}
    assert used
    assert used <= metrics()


def test_no_two_panels_of_the_dashboard_lie_upon_each_other() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "sls-siem.json").read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]  # fmt: skip
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_unit_says_what_the_supervisor_needs() -> None:
    unit, service = UNIT.read_text().split("[Service]")
    assert "StartLimitIntervalSec=0" in unit.splitlines()
    lines = service.splitlines()
    for line in (
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=30",
        "Restart=always",
        "RestartPreventExitStatus=78",
        "KillMode=mixed",
        "TimeoutStopSec=60",
        "ExecStart=/opt/sls-siem/bin/sls-siem supervise --config /etc/sls-siem/config.toml",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "User=sls-siem",
        "UMask=0077",
        "StateDirectory=sls-siem",
        "StateDirectoryMode=0700",
        "RuntimeDirectory=sls-siem",
        "RuntimeDirectoryMode=0700",
        "LogsDirectory=sls-siem",
        "LogsDirectoryMode=0700",
        "ConfigurationDirectory=sls-siem",
        "ConfigurationDirectoryMode=0750",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "SystemCallFilter=@system-service",
    ):
        assert line in lines, line


def test_systemd_finds_no_fault_in_the_unit() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, timeout=60, check=False
    )
    faults = [
        line for line in done.stderr.splitlines() if "sls-siem.service" in line and "/opt/sls-siem/bin" not in line
    ]
    assert not faults


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_takes_the_scripts(name: str) -> None:
    assert os.access(ROOT / "scripts" / name, os.X_OK)
    done = subprocess.run(["sh", "-n", str(ROOT / "scripts" / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / name), *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize("state", ["cut short", "its Python is gone"])
def test_setup_makes_an_environment_anew_that_cannot_be_used(tmp_path: Path, state: str) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    place, python = tmp_path / ".venv", tmp_path / ".venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    if state == "its Python is gone":
        python.unlink()
        python.symlink_to("/nonexistent/python3")
    done = subprocess.run([tmp_path / "scripts/setup", "--tools-only"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = subprocess.run(
        [python, "-c", "import pip; print(pip.__file__)"], capture_output=True, text=True, check=False
    )
    assert asked.stdout.startswith(str(place)), asked.stderr


@pytest.mark.parametrize("arguments", [("--purge",), ("--root",), ("--root", ""), ("--nonsense",)])
def test_a_wrong_use_of_the_installer_does_nothing(arguments: tuple[str, ...]) -> None:
    done = script("install", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_the_installer_leaves_alone_what_it_did_not_make(tmp_path: Path) -> None:
    foreign = tmp_path / "opt" / "sls-siem" / "of-someone-else"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    for arguments in ((), ("--uninstall",), ("--uninstall", "--purge")):
        done = script("install", "--root", tmp_path, *arguments)
        assert done.returncode == 78, done.stderr
        assert foreign.exists()


def test_a_damaged_wheelhouse_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    assert script("install", "--root", tmp_path / "root", "--wheelhouse", house).returncode == 78
    (house / "a.whl").write_text("damaged")
    (house / "SHA256SUMS").write_text("0" * 64 + "  a.whl\n")
    assert script("install", "--root", tmp_path / "root", "--wheelhouse", house).returncode == 78
    assert not (tmp_path / "root").exists()


def test_uninstalling_keeps_settings_and_data_unless_they_are_purged(tmp_path: Path) -> None:
    program, unit = tmp_path / "opt/sls-siem/pyvenv.cfg", tmp_path / "etc/systemd/system/sls-siem.service"
    settings, data = tmp_path / "etc/sls-siem/config.toml", tmp_path / "var/lib/sls-siem/format"
    for path in (program, unit, settings, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert script("install", "--root", tmp_path, "--uninstall").returncode == 0
    assert [path.exists() for path in (program, unit, settings, data)] == [False, False, True, True]
    assert script("install", "--root", tmp_path, "--uninstall", "--purge").returncode == 0
    assert not settings.parent.exists()
    assert not data.parent.exists()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.skipif(not os.environ.get("SLS_SIEM_TEST_INSTALL"), reason="takes minutes: SLS_SIEM_TEST_INSTALL=1")
def test_install_upgrade_and_uninstall_with_and_without_a_network(tmp_path: Path) -> None:
    house = tmp_path / "house"
    made = script("wheelhouse", house)
    assert made.returncode == 0, made.stderr
    assert list(house.glob("sls_siem-*.whl"))
    for root, source in ((tmp_path / "net", ()), (tmp_path / "offline", ("--wheelhouse", house))):
        done = script("install", "--root", root, *source)
        assert done.returncode == 0, done.stderr
        assert "Installed" in done.stdout
        program, settings = root / "opt/sls-siem/bin/sls-siem", root / "etc/sls-siem/config.toml"
        assert subprocess.run([program, "version"], cwd=tmp_path, check=False).returncode == 0
        assert mode(settings) == 0o640
        assert "[hec]" in settings.read_text()
        assert mode(root / "var/lib/sls-siem") == 0o700
        assert (root / "etc/systemd/system/sls-siem.service").read_text() == UNIT.read_text()

        settings.write_text("# mine\n")
        again = script("install", "--root", root, *source)
        assert again.returncode == 0, again.stderr
        assert "Upgraded" in again.stdout
        assert settings.read_text() == "# mine\n"

        assert script("install", "--root", root, "--uninstall").returncode == 0
        assert settings.exists()
        assert not (root / "opt/sls-siem").exists()
        assert not (root / "usr/local/bin/sls-siem").is_symlink()
