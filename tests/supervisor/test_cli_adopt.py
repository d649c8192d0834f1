"""`spool adopt` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import pytest

from buffer.settings import SpoolSettings
from buffer.spool import Spool
from tests.buffer.test_adopt import fill, settings_for, waiting

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spools(tmp_path: Path) -> tuple[Spool, Spool]:
    found = []
    for name in ("ours", "theirs"):
        spool = Spool.open(settings_for(tmp_path / name))
        spool.close()
        found.append(spool)
    fill(found[1], 0, [10, 13])
    return found[0], found[1]


def run(ours: Spool, *command: str) -> subprocess.CompletedProcess[str]:
    config = ours.directory.parent / "config.toml"
    config.write_text(f"""
[[source]]
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:1"
consumer_group = "g"
start = "begin"
access_key_id = "ak"
access_key_secret = "sk"
[hec]
urls = ["http://127.0.0.1:1"]
token = "t"
[spool]
directory = "{ours.directory}"
min_free_bytes = "1MiB"
""")
    return subprocess.run(
        [sys.executable, "-m", "supervisor", "spool", "adopt", *command, "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_it_plans_then_takes_over_then_has_nothing_to_do(spools: tuple[Spool, Spool]) -> None:
    ours, theirs = spools
    source = str(theirs.directory)
    planned = run(ours, source)
    assert planned.returncode == 0, planned.stderr
    assert "add --yes" in planned.stderr
    assert "copy" in planned.stdout
    assert not waiting(ours)
    done = run(ours, source, "--yes", "--json")
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads((ROOT / "docs" / "schema" / "spool-adopt.json").read_text()))
    assert document["done"]
    assert [one["action"] for one in document["lanes"]] == ["copy"]
    assert waiting(ours) == {f"{theirs.id}-0": [13]}
    assert "done" in run(ours, source, "--yes").stdout


def test_what_is_wrong_is_two_lines_and_the_spools_exit_code(spools: tuple[Spool, Spool], tmp_path: Path) -> None:
    ours, theirs = spools
    running = Spool.open(SpoolSettings(directory=theirs.directory, min_free_bytes=1 << 20))
    for source, code in ((theirs.directory, 75), (tmp_path / "none", 74)):
        done = run(ours, str(source), "--yes")
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith("error: ")
        assert "hint: " in done.stderr
    running.close()


@pytest.mark.root
def test_files_that_belong_to_a_number_of_the_other_hosts_are_said_with_the_chown_that_helps() -> None:
    """Root becomes who our spool belongs to, who may not read them."""
    if not all(one.stat().st_mode & 0o5 == 0o5 for one in (ROOT, *ROOT.parents, Path(sys.prefix))):
        pytest.skip("the checkout is not for everybody to read")
    with tempfile.TemporaryDirectory(prefix="sls-siem-adopt-", dir="/var/tmp") as work:
        Path(work).chmod(0o755)
        ours, theirs = (Spool.open(settings_for(Path(work) / name)) for name in ("ours", "theirs"))
        fill(theirs, 0, [10, 13])
        ours.close()
        theirs.close()
        subprocess.run(["chown", "-R", "nobody:", str(ours.directory)], check=True)
        refused = run(ours, str(theirs.directory), "--yes")
        assert refused.returncode == 74
        assert refused.stderr.splitlines()[0].endswith("Permission denied")
        remedy = f"chown -R nobody: {theirs.directory}"
        assert f"hint: it must belong to nobody: {remedy}" in refused.stderr
        subprocess.run(remedy.split(), check=True)
        done = run(ours, str(theirs.directory), "--yes")
        assert done.returncode == 0, done.stderr
        assert waiting(ours) == {f"{theirs.id}-0": [13]}
