"""A real systemd: scripts/install on a machine that knows nothing of us, and the unit as it is shipped, with all its walls.

Witnesses: systemd's own words, the kernel, and the emulators. The parts run in their order: it is one service's life.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.house import House
from tests.systemd_machine import CannotBoot, Machine
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("systemd"),
    pytest.mark.skipif(
        not os.environ.get("CI") and not os.environ.get("SLS_SIEM_TEST_INSTALL"),
        reason="makes a wheelhouse, a minute: SLS_SIEM_TEST_INSTALL=1",
    ),
]
UNIT = "sls-siem.service"
SETTINGS = """
[supervisor]
workers = 2
senders = 2
[memory]
budget = "512MiB"
[[source]]
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:{sls}"
consumer_group = "g"
start = "begin"
access_key_id = "ak"
access_key_secret = "${{credential:sls_key}}"
heartbeat_interval = "1s"
consumer_timeout = "6s"
[hec]
urls = ["http://127.0.0.1:{hec}"]
token = "${{credential:hec_token}}"
[spool]
directory = "/var/lib/sls-siem"
min_free_bytes = "64MiB"
force_file_system = true
[status]
listen = "127.0.0.1:0"
[log]
file = "/var/log/sls-siem/sls-siem.log"
"""
#: What an operator writes with `systemctl edit`. A shorter watchdog, so that a test can wait for it.
OVERRIDE = """
[Service]
WatchdogSec=12
RestartSec=1
LoadCredential=hec_token:/etc/sls-siem/credentials/hec_token
LoadCredential=sls_key:/etc/sls-siem/credentials/sls_key
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """For its emulators."""
    with House(tmp_path_factory.mktemp("systemd"), shards=2, sls_options=("--fill", "5000")) as made:
        yield made


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    try:
        with Machine() as made:
            yield made
    except CannotBoot as why:
        pytest.skip(f"no systemd can be booted here: {why}")


def install(machine: Machine, *options: str) -> str:
    return machine.do(str(ROOT / "scripts/install"), *options, timeout=600)


def shown(machine: Machine, *names: str) -> dict[str, str]:
    """Properties of the unit, as systemd has them."""
    lines = machine.do("systemctl", "show", UNIT, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def wait_for(machine: Machine, name: str, value: str) -> None:
    poll(lambda: re.fullmatch(value, shown(machine, name)[name]), f"{name} is {value}; {journal(machine)}", 90, 0.2)


def restarts(machine: Machine) -> int:
    return int(shown(machine, "NRestarts")["NRestarts"])


def journal(machine: Machine) -> str:
    return machine.run("journalctl", "--unit", UNIT, "--no-pager", "--output", "cat", "--lines", "20").stdout


def main_pid(machine: Machine) -> str:
    pid = shown(machine, "MainPID")["MainPID"]
    assert int(pid), f"it runs; {journal(machine)}"  # as a target of `kill`, 0 is the group of who asks
    return pid


def kernel(machine: Machine, pid: str) -> dict[str, str]:
    """/proc/<pid>/status"""
    lines = machine.do("cat", f"/proc/{pid}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def configure(machine: Machine, house: House) -> None:
    """The settings and secrets of an operator's."""
    for name, secret in (("hec_token", house.hec.ready["token"]), ("sls_key", "sk")):
        file = machine.path(f"/etc/sls-siem/credentials/{name}")
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_text(secret)
        file.chmod(0o600)
    machine.path("/etc/sls-siem/config.toml").write_text(SETTINGS.format(sls=house.sls.port, hec=house.hec.port))
    override = machine.path(f"/etc/systemd/system/{UNIT}.d/override.conf")
    override.parent.mkdir()
    override.write_text(OVERRIDE)
    machine.do("systemctl", "daemon-reload")


def test_install_makes_all_that_a_service_needs_on_a_fresh_machine(machine: Machine) -> None:
    assert machine.run("id", "sls-siem").returncode
    wheels = machine.path("/srv/wheelhouse")
    made = subprocess.run(
        [str(ROOT / "scripts/wheelhouse"), str(wheels)], capture_output=True, text=True, check=False, timeout=600
    )
    assert made.returncode == 0, made.stderr
    said = install(machine, "--wheelhouse", "/srv/wheelhouse")
    assert "Installed sls-siem" in said
    assert "sls-siem check" in said
    assert "sls-siem" in machine.do("id", "sls-siem")
    assert machine.do("stat", "-c", "%U:%G %a", "/etc/sls-siem/config.toml", "/var/lib/sls-siem").splitlines() == [
        "root:sls-siem 640", "sls-siem:sls-siem 700",
    ]  # fmt: skip
    assert machine.do("sls-siem", "version").strip()
    assert "supervise [--config FILE]" in machine.do("man", "-P", "cat", "sls-siem")
    assert machine.path("/usr/local/share/zsh/site-functions/_sls-siem").read_text().startswith("#compdef sls-siem\n")
    script = ". /usr/local/share/bash-completion/completions/sls-siem; COMP_WORDS=(sls-siem spool ve); COMP_CWORD=2;"
    assert (
        machine.do("bash", "-c", f"{script} _sls_siem_completion sls-siem; echo ${{COMPREPLY[@]}}").strip() == "verify"
    )
    assert shown(machine, "LoadState")["LoadState"] == "loaded"


def test_it_starts_when_every_slot_has_run_and_says_what_it_does(machine: Machine, house: House) -> None:
    configure(machine, house)
    machine.do("systemctl", "enable", "--now", "sls-siem")
    assert shown(machine, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    house.wait_delivered()
    wait_for(machine, "StatusText", "running: 0 batches wait, 0 MB")
    assert '"event":"running"' in machine.do("cat", "/var/log/sls-siem/sls-siem.log")
    assert machine.do("stat", "-c", "%U %a", "/var/log/sls-siem").strip() == "sls-siem 700"


def test_root_looks_and_acts_from_a_shell_without_the_services_credentials_and_leaves_nothing_of_roots(
    machine: Machine, house: House
) -> None:
    assert "RUNNING" in machine.do("sls-siem", "status")
    assert machine.do("sls-siem", "config", "show").count("****") >= 2
    assert "sk" not in machine.do("sls-siem", "config", "show").split()
    assert "token" in machine.do("sls-siem", "check"), "while it runs, root has its credentials"
    day = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")
    machine.do("sls-siem", "replay", "--source", "l", *day)
    machine.do("sls-siem", "dead", "replay", "--yes")
    expected = house.expected()
    poll(lambda: all(house.delivered()[one] == 2 for one in expected), f"sent again; {journal(machine)}", 60)
    assert not machine.do("find", "/var/lib/sls-siem", "!", "-user", "sls-siem").strip()


def test_its_walls_stand(machine: Machine) -> None:
    pid = main_pid(machine)
    pids = [pid, *machine.do("ps", "--no-headers", "-o", "pid", "--ppid", pid).split()]
    assert len(pids) == 6, "two consumers, two senders, and multiprocessing's tracker"
    for one in pids:
        status = kernel(machine, one)
        assert status["Uid"].split()[0] == machine.do("id", "-u", "sls-siem").strip()
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    inside = ["nsenter", f"--target={pid}", "--mount", "--user", "--", "sh", "-c"]
    for place in ("/etc/x", "/usr/x", "/opt/sls-siem/x", "/home/x", "/sys/fs/cgroup/x"):
        assert machine.run(*inside, f"touch {place}").returncode, place
    assert machine.do("stat", "-c", "%a %U", "/run/sls-siem").strip() == "700 sls-siem"
    assert machine.do("readlink", "/var/lib/sls-siem/run").strip() == "/run/sls-siem"
    assert "/run/sls-siem/status.json" in machine.do("find", "/run/sls-siem", "-name", "status.json")


def test_the_exposure_is_what_the_operators_guide_says(machine: Machine) -> None:
    found = re.search(
        r"Overall exposure level for \S+: ([\d.]+)", machine.run("systemd-analyze", "security", UNIT).stdout
    )
    documented = re.search(r"exposure level for sls-siem.service: ([\d.]+)", (ROOT / "docs/operations.md").read_text())
    assert found
    assert documented
    assert float(found[1]) <= float(documented[1])


def test_reload_is_a_hup(machine: Machine, house: House) -> None:
    pid = main_pid(machine)
    before = set(machine.do("ps", "--no-headers", "-o", "pid", "--ppid", pid).split())
    machine.do("systemctl", "reload", "sls-siem")
    poll(lambda: "settings reloaded" in journal(machine), f"it is said; {journal(machine)}", 60, 0.2)

    def replaced() -> bool:
        after = set(machine.do("ps", "--no-headers", "-o", "pid", "--ppid", pid).split())
        return len(after & before) == 1 and len(after) == 5

    poll(replaced, f"all but the tracker are others; {journal(machine)}", 90, 0.2)
    assert main_pid(machine) == pid
    house.sls.post("append", logs=500)
    house.wait_delivered()


def test_a_killed_supervisor_is_started_again(machine: Machine, house: House) -> None:
    before = restarts(machine)
    machine.do("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "sls-siem")
    poll(lambda: restarts(machine) > before, f"it is started again; {journal(machine)}", 90, 0.2)
    wait_for(machine, "SubState", "running")
    house.sls.post("append", logs=500)
    house.wait_delivered()


def test_one_that_stands_still_is_found_by_the_watchdog(machine: Machine, house: House) -> None:
    before = restarts(machine)
    machine.do("kill", "-STOP", main_pid(machine))
    poll(lambda: restarts(machine) > before, f"it is started again; {journal(machine)}", 120, 0.2)
    wait_for(machine, "SubState", "running")
    house.sls.post("append", logs=500)
    house.wait_delivered()
    assert "Watchdog timeout" in machine.do("journalctl", "--no-pager", "--unit", UNIT)


def test_bad_settings_end_it_for_good_and_a_stop_is_clean(machine: Machine, house: House) -> None:
    machine.do("systemctl", "stop", "sls-siem")
    assert shown(machine, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    good = machine.path("/etc/sls-siem/config.toml").read_text()
    machine.path("/etc/sls-siem/config.toml").write_text(good.replace("[hec]", "[hce]"))
    assert machine.run("systemctl", "start", "sls-siem").returncode
    assert shown(machine, "ActiveState", "ExecMainStatus") == {"ActiveState": "failed", "ExecMainStatus": "78"}
    machine.path("/etc/sls-siem/config.toml").write_text(good)
    machine.do("systemctl", "start", "sls-siem")
    house.sls.post("append", logs=500)
    house.wait_delivered()


def follow_the_guide(here: Machine, there: Machine, say: Callable[[str], None]) -> None:
    """Every command of docs/operations.md on moving, where it says; what would go over ssh is carried in a file."""
    text = (ROOT / "docs/operations.md").read_text().partition("\nMoving to another host:")[2]
    place = here
    for line in text.partition("```sh\n")[2].partition("```")[0].splitlines():
        say(line)
        if line in {"# here", "# there"}:
            place = here if line == "# here" else there
        elif " | ssh NEW " in line:
            sends, takes = line.split(" | ssh NEW ")
            place.do("sh", "-c", f"{sends} > /srv/moving")
            shutil.copyfile(here.path("/srv/moving"), there.path("/srv/moving"))
            there.do("sh", "-c", f"{takes.partition('#')[0]} < /srv/moving; rm /srv/moving")
        else:
            place.do("sh", "-c", line)


def test_moving_to_another_host_and_back_by_the_guides_own_commands_sends_everything_once(
    machine: Machine, house: House
) -> None:
    with Machine() as other:
        shutil.copytree(machine.path("/srv/wheelhouse"), other.path("/srv/wheelhouse"))
        other.do("useradd", "--system", "somebody")  # so that our user has another number
        install(other, "--wheelhouse", "/srv/wheelhouse")
        configure(other, house)
        assert machine.do("id", "-u", "sls-siem") != other.do("id", "-u", "sls-siem")
        for here, there in ((machine, other), (other, machine)):
            before = house.expected()
            house.hec.post("outage", on=True)
            house.sls.post("append", logs=3000)

            def say(line: str, there: Machine = there) -> None:
                if line.startswith("sls-siem spool adopt") and "--yes" not in line:
                    house.sls.post("append", logs=1000)  # it waits in the new spool
                    poll(lambda: all_read(house), f"it reads on there; {journal(there)}", 60, 0.2)
                elif line.startswith("sls-siem status"):
                    house.hec.post("outage", on=False)

            poll(lambda: all_read(house), f"all waits; {journal(here)}", 60, 0.2)
            follow_the_guide(here, there, say)
            house.wait_delivered()
            wait_for(there, "StatusText", "running: 0 batches wait, 0 MB")
            came = house.delivered()
            assert {came[one] for one in house.expected() - before} == {1}
            assert shown(here, "ActiveState", "UnitFileState") == {
                "ActiveState": "inactive",
                "UnitFileState": "disabled",
            }
            assert not there.do("find", "/var/lib/sls-siem", "!", "-user", "sls-siem").strip()


def all_read(house: House) -> bool:
    """Every checkpoint is at its shard's end."""
    (store,) = house.sls.get("stats")["logstores"]
    return not store["checkpointed"]["g"]["left"]


def test_an_upgrade_keeps_all_and_uninstalling_takes_only_what_it_is_told(machine: Machine, house: House) -> None:
    house.hec.post("outage", on=True)
    house.sls.post("append", logs=500)
    poll(
        lambda: "degraded" in shown(machine, "StatusText")["StatusText"],
        f"something waits; {journal(machine)}",
        60,
        0.2,
    )
    assert "Upgraded to sls-siem" in install(machine, "--wheelhouse", "/srv/wheelhouse")
    assert "p" in machine.path("/etc/sls-siem/config.toml").read_text()
    machine.do("systemctl", "restart", "sls-siem")
    house.hec.post("outage", on=False)
    house.wait_delivered()

    install(machine, "--uninstall")
    assert shown(machine, "LoadState")["LoadState"] == "not-found"
    assert not machine.path("/opt/sls-siem").exists()
    assert not machine.path("/usr/local/bin/sls-siem").is_symlink()
    assert not list(machine.path("/usr/local/share").rglob("*sls-siem*"))
    assert machine.path("/etc/sls-siem/config.toml").exists()
    assert machine.path("/var/lib/sls-siem/lanes").exists()
    assert machine.run("id", "sls-siem").returncode == 0
    install(machine, "--uninstall", "--purge")
    for gone in ("/etc/sls-siem", "/var/lib/sls-siem", f"/etc/systemd/system/{UNIT}.d"):
        assert not machine.path(gone).exists(), gone
    assert machine.run("id", "sls-siem").returncode
