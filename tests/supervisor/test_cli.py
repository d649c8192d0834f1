"""Every command as a user runs it: exit codes, two-line errors, JSON by its published schema, awkward terminals and spools."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from supervisor.status import is_stale, iso
from tests.emulators.generator_ids import expected_ids
from tests.emulators.sls_client import SlsClient
from tests.supervisor.cli_bench import LETTER, Bench, filled

ROOT = Path(__file__).resolve().parents[2]
#: One worker runs them all: they share a spool and two emulators.
pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with filled(tmp_path_factory.mktemp("cli")) as made:
        yield made


def test_the_backlog_and_the_dead_letters_are_shown(bench: Bench) -> None:
    stats = bench.json("spool", "stats")
    assert (stats["batches"], stats["groups"], stats["books"]["put"], stats["books"]["buried"]) == (1, 1, 2, 1)
    assert [b["pulls"][0]["shard"] for b in bench.json("spool", "ls")["batches"]] == [0]
    assert len(bench.json("spool", "peek", "--topic", "other", "--limit", "1")["events"]) == 1
    assert bench.json("spool", "peek", "--topic", "none")["events"] == []
    event = bench.json("dead", "ls")["events"][0]
    assert (event["sls_id"], event["state"], event["status"], event["code"]) == ("e3b09f8e-0-1000-0", "dead", 400, 6)
    shown = bench.json("dead", "show", event["sls_id"])
    assert shown["log"] == {"n": "0"}
    missing = bench.run("dead", "show", "nothing")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")


@pytest.mark.parametrize("words", [("--json",), ()], ids=["json", "words"])
def test_a_long_backlog_is_listed_as_it_comes(bench: Bench, tmp_path: Path, words: tuple[str, ...]) -> None:
    """The kernel's word: what a hundred times as many rows take of memory. As one list they took 2 KB each."""
    bench.copy(bench.spool, tmp_path / "spool")
    (index,) = tmp_path.glob("spool/lanes/*/cache.db")
    config = tmp_path / "sls-siem.toml"
    config.write_text(bench.config.read_text().replace(str(bench.spool), str(tmp_path / "spool")))

    def add(rows: int) -> None:
        with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as db:
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO batch (file, bytes, groups, time, pulls) "
                "SELECT file, bytes, groups, time, pulls FROM n, (SELECT * FROM batch LIMIT 1)",
                (rows,),
            )

    def peak() -> tuple[int, bytes]:
        command = [sys.executable, "-m", "supervisor", "spool", "ls", "--config", str(config), *words]
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, env=bench.environment, stdout=out)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_maxrss << 10, (tmp_path / "out").read_bytes()

    add(300)
    little, _ = peak()
    add(29_700)
    much, out = peak()
    assert much - little < 20 << 20
    if words:
        numbers = [one["id"] for one in json.loads(out)["batches"]]
        assert len(set(numbers)) == len(numbers) == 30_001
    else:
        lines = out.decode().splitlines()
        assert len(lines) == 30_002
        assert [line.split()[0] for line in lines].count("lane") == 1


def test_a_list_that_cannot_be_read_to_its_end_is_one_document_still(bench: Bench, tmp_path: Path) -> None:
    bench.copy(bench.spool, tmp_path / "spool")
    (index,) = tmp_path.glob("spool/lanes/*/cache.db")
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as db:
        db.execute(
            "INSERT INTO batch (file, bytes, groups, time, pulls) SELECT file, bytes, groups, time, '[' FROM batch LIMIT 1"
        )
    good = bench.config.read_text()
    try:
        bench.config.write_text(good.replace(str(bench.spool), str(tmp_path / "spool")))
        done = bench.run("spool", "ls", "--json")
    finally:
        bench.config.write_text(good)
    found = json.loads(done.stdout)
    assert (done.returncode, found["schema"], len(found["batches"])) == (74, 1, 1)
    assert found["error"] in done.stderr
    assert found["hint"] in done.stderr


def test_the_backlog_is_told_in_words_too(bench: Bench) -> None:
    bench.write()
    shown = bench.run("spool", "stats").stdout
    for expected in (
        "2 put",
        "= 1 settled + 1 waiting + 0 set aside + 0 purged",
        "1 buried",
        "1 now",
        "of 67 MB; 1 batch",
    ):
        assert expected in " ".join(shown.split())
    verified = bench.run("spool", "verify")
    assert (verified.stdout, verified.stderr) == ("", "2 bodies checked, all sound\n")


def test_what_changes_something_says_so_first_and_wants_yes(bench: Bench) -> None:
    for command in (["spool", "purge"], ["dead", "replay"], ["dead", "purge"]):
        done = bench.run(*command)
        assert done.returncode == 0
        assert "add --yes" in done.stderr
    assert bench.json("spool", "stats")["batches"] == 1
    assert len(bench.json("dead", "ls")["events"]) == 1


def test_export_writes_json_lines_and_removes_nothing(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("spool", "export", str(tmp_path / "a")).returncode == 0
    assert bench.run("dead", "export", str(tmp_path / "b")).returncode == 0
    assert [len((tmp_path / n).read_text().splitlines()) for n in "ab"] == [2, 1]
    assert bench.json("spool", "stats")["batches"] == 1


def test_check_is_fine_and_names_each_step(bench: Bench) -> None:
    bench.write(index="main")
    found = bench.json("check")
    assert found["ok"]
    names = " ".join(step["name"] for step in found["steps"])
    for expected in (
        "settings",
        "spool directory",
        "flush",
        "memory",
        "dns",
        "tcp",
        "logstore",
        "retention",
        "group",
        "token",
        "index main",
    ):
        assert expected in names


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        ({"secret": "wrong"}, 77, "access_key"),
        ({"logstore": "missing"}, 69, "LogStoreNotExist"),
        ({"token": "wrong"}, 77, "Invalid token"),
        ({"index": "secret"}, 69, "Incorrect index"),
        ({"hec": "http://127.0.0.1:1"}, 69, "is the port open"),
        ({"sls": "http://127.0.0.1:1"}, 69, "is the port open"),
        ({"hec": "https://no-such-host.invalid:8088"}, 69, "check the name"),
    ],
)
def test_check_names_the_cause_and_the_remedy(bench: Bench, change: dict[str, str], code: int, expected: str) -> None:
    bench.write(**change)
    done = bench.run("check", env={"RES_OPTIONS": "timeout:1 attempts:1"})  # a name server may be silent
    assert done.returncode == code, done.stdout
    assert expected in done.stdout
    assert "FAIL" in done.stdout


def test_check_offline_asks_nobody(bench: Bench) -> None:
    bench.write(hec="http://127.0.0.1:1", sls="http://127.0.0.1:1")
    assert bench.run("check", "--offline").returncode == 0


def test_lag_and_tap_need_only_sls(bench: Bench) -> None:
    bench.write(hec="http://127.0.0.1:1")
    shards = bench.json("lag")["sources"][0]["shards"]
    assert sum(s["lag_groups"] for s in shards) == sum(len(s.framed) for s in bench.sls.store().shards.values())
    assert bench.json("tap")["events"][0]["event"]["sls_id"]
    assert "log" in bench.json("tap", "--stage", "raw")["events"][0]


def test_replay_spools_a_time_range_again_and_touches_no_group(bench: Bench) -> None:
    bench.write()
    before = bench.json("spool", "stats")["groups"]
    span = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")
    done = bench.run("replay", "--source", "l", *span)
    assert done.returncode == 0, done.stderr
    stored = sum(len(s.framed) for s in bench.sls.store().shards.values())
    assert bench.json("spool", "stats")["groups"] == before + stored
    assert not bench.sls.store().groups
    lanes = {one["lane"] for one in bench.json("spool", "ls")["batches"]}
    assert any(lane.endswith("-replay") for lane in lanes)
    ids = {event["event"]["sls_id"] for event in bench.json("spool", "peek", "--limit", "100000")["events"]}
    assert ids >= set(expected_ids(bench.sls.store())), "the same ids as at the first time"
    assert bench.run("replay", "--source", "l", "--from", "2020-01-01", "--to", "2020-01-02").returncode == 2


def test_a_group_is_deleted_only_with_yes(bench: Bench) -> None:
    bench.write()
    with SlsClient(bench.sls) as client:
        client.sdk.create_consumer_group("p", "l", "old", 30, False)
    assert [g["name"] for g in bench.json("group", "ls")["groups"]] == ["old"]
    assert "add --yes" in bench.run("group", "delete", "old", "--source", "l").stderr
    assert bench.sls.store().groups
    done = bench.run("group", "delete", "old", "--source", "l", "--yes")
    assert done.returncode == 0, done.stderr
    assert not bench.sls.store().groups


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["status", "--nonsense"], 2),
        (["nonsense"], 2),
        (["size", "--per-day", "much"], 2),
        (["tap", "--stage", "x"], 2),
        (["spool", "ls", "--limit", "0"], 2),
        (["spool", "peek", "--limit", "-1"], 2),
        (["dead", "ls", "--limit", "0"], 2),
        (["tap", "--limit", "0"], 2),
        (["replay", "--source", "l", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], 2),
        (["replay", "--source", "no", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"], 2),
    ],
)
def test_wrong_usage_is_two_lines_and_2(bench: Bench, command: list[str], code: int) -> None:
    bench.write()
    done = bench.run(*command)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr


def test_without_a_command_there_is_help_and_no_error() -> None:
    for command in ([], ["spool"]):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", *command],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: ")


def test_settings_that_cannot_be_read_are_said_alone_with_what_to_do(bench: Bench) -> None:
    for path, text, hint in (
        ("/nowhere/at-all.toml", "No such file or directory", "--config"),
        (str(ROOT / "README.md"), "not TOML", "config init"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "status", "--config", path],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=bench.environment,
        )  # fmt: skip
        assert done.returncode == 78
        error, what_to_do = done.stderr.splitlines()
        assert text in error
        assert hint in what_to_do


def test_ids_that_no_dead_letter_has_are_an_error_and_the_others_are_done(bench: Bench) -> None:
    bench.write()
    for command in (["dead", "replay", "nothing"], ["dead", "purge", "nothing"]):
        done = bench.run(*command, "--yes")
        assert done.returncode == 1
        assert "error: nothing: no such dead letter" in done.stderr
    assert len(bench.json("dead", "ls")["events"]) == 1
    both = bench.run("dead", "replay", "nothing", LETTER, "--yes")
    assert both.returncode == 1
    assert "1 dead letter due\nerror: 1 of the 2 ids: no such" in both.stderr
    assert bench.json("dead", "ls")["events"][0]["state"] == "due"


def test_a_source_that_is_refused_does_not_hide_the_others(bench: Bench) -> None:
    bench.write()
    more = bench.config.read_text().partition("[[source]]")[2].partition("[hec]")[0].replace('"l"', '"missing"')
    bench.config.write_text(f"[[source]]{more}\n{bench.config.read_text()}")
    with SlsClient(bench.sls) as client:
        client.sdk.create_consumer_group("p", "l", "mine", 30, False)
    for command, key in (("lag", "sources"), ("group ls", "groups")):
        done = bench.run(*command.split(), "--json")
        assert done.returncode == 69
        assert "error: missing: " in done.stderr
        document = json.loads(done.stdout)
        assert len(document[key]) == 1
        assert [one["source"] for one in document["errors"]] == ["missing"]
        schema = json.loads((ROOT / "docs/schema" / f"{command.replace(' ', '-')}.json").read_text())
        jsonschema.validate(document, schema)
        shown = bench.run(*command.split())
        assert shown.returncode == 69
        assert "\nl " in shown.stdout
    tapped = bench.run("tap", "--json")
    assert (tapped.returncode, len(json.loads(tapped.stdout)["events"])) == (69, 5)
    assert "l 1 of 30" in bench.run("group", "ls").stderr
    with SlsClient(bench.sls) as client:
        client.sdk.delete_consumer_group("p", "l", "mine")
    bench.config.write_text(bench.config.read_text().replace('logstore = "l"', 'logstore = "gone"'))
    neither = bench.run("lag", "--json")
    assert neither.returncode == 69
    assert json.loads(neither.stdout).keys() == {"schema", "error", "hint"}
    bench.write()


def test_bad_settings_are_78_and_a_document_with_json(bench: Bench) -> None:
    bench.config.write_text("[[source]]\nnonsense = 1\n")
    done = bench.run("status", "--json")
    assert done.returncode == 78
    document = json.loads(done.stdout)
    assert document.keys() == {"schema", "error", "hint"}
    assert "error: hec.urls: missing; it is required\n" in done.stderr, "a line a problem, each whole"
    bench.write()


@pytest.mark.parametrize("harm", ["missing", "foreign", "garbage"])
def test_a_spool_that_is_none_is_said(bench: Bench, harm: str) -> None:
    bench.write()
    spool, kept = bench.work / "spool", bench.work / "kept"
    spool.rename(kept)
    try:
        if harm == "foreign":
            spool.mkdir()
            (spool / "holiday.jpg").write_text("x")
        elif harm == "garbage":
            spool.write_text("x")
        done = bench.run("spool", "stats")
        assert done.returncode == 74
        assert done.stderr.startswith("error: ")
    finally:
        if harm == "foreign":
            shutil.rmtree(spool)
        elif harm == "garbage":
            spool.unlink()
        kept.rename(spool)


def test_a_damaged_body_is_named_and_verify_ends_with_1(bench: Bench, tmp_path: Path) -> None:
    del tmp_path
    path = next((bench.work / "spool").rglob("v/*.val"))
    batch = Path(next(line for line in [str(p) for p in (bench.work / "spool").rglob("v/*.val")]))
    sound = {p: p.read_bytes() for p in (bench.work / "spool").rglob("v/*.val")}
    for one, data in sound.items():
        one.write_bytes(data[:-1])
    done = bench.run("spool", "verify", "--json")
    for one, data in sound.items():
        one.write_bytes(data)
    assert done.returncode == 1
    assert not json.loads(done.stdout)["ok"]
    assert path.exists()
    assert batch.exists()
    assert bench.run("spool", "verify").returncode == 0
    index = path.parent.parent / "cache.db"
    for amount in (1, -1):
        with sqlite3.connect(index) as database:
            database.execute("UPDATE counter SET value = value + ? WHERE name = 'put'", (amount,))
        database.close()
        done = bench.run("spool", "verify")
        assert done.returncode == (amount == 1)
        assert (str(index) in done.stdout) == ("do not add up" in done.stdout) == (amount == 1), done.stdout


def test_status_without_a_supervisor_says_so_and_check_is_critical(bench: Bench) -> None:
    assert bench.json("status")["state"] == "down"
    done = bench.run("status", "--check")
    assert done.returncode == 2
    assert done.stdout.startswith("SLS-SIEM CRITICAL")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_work_though_a_descriptor_is_closed(bench: Bench, closed: str) -> None:
    for words in (("spool", "stats"), ("dead", "ls"), ("check", "--offline"), ("dead", "show", "none")):
        command = shlex.join(bench.command(*words))
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"], cwd=ROOT, env=bench.environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == (words[1] == "show"), done.stderr
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) == (">&-" not in closed.replace("2>&-", "") and words[1] != "show")


def test_children_have_all_three_descriptors_though_ours_were_closed() -> None:
    child = "import sys; sys.exit(None in (sys.stdin, sys.stdout, sys.stderr))"
    code = (
        "import subprocess, sys; from supervisor.__main__ import _keep_descriptors; _keep_descriptors();"
        f"sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    )
    command = shlex.join([sys.executable, "-c", code])
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT, timeout=60, check=False).returncode == 0


def test_a_plugin_that_cannot_read_the_settings_is_critical_on_one_line(bench: Bench) -> None:
    good = bench.config.read_text()
    try:
        bench.config.write_text(good.replace("[hec]", "[hce]"))
        done = bench.run("status", "--check")
        assert done.returncode == 2, done.stderr
        assert done.stdout.startswith("SLS-SIEM CRITICAL - [hce]: no such table; did you mean hec?")
        assert done.stdout.count("\n") == 1
        assert bench.run("status").returncode == 78
        bench.config.unlink()
        done = bench.run("status", "--check")
        assert (done.returncode, "No such file" in done.stdout) == (2, True)
    finally:
        bench.config.write_text(good)


def test_a_picture_of_a_time_to_come_is_stale_too() -> None:
    """The clock was set back since: after a power cut, say, until the network has told the time."""
    now = 1_800_000_000.0
    for seconds, stale in ((0, False), (-9, False), (-11, True), (299, False), (301, True), (86400, True)):
        assert is_stale({"time": iso(now + seconds)}, now) == stale


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, supervisor.cli;"
        "bad = {'pydantic', 'requests', 'orjson', 'diskcache', 'aliyun', 'psutil', 'prometheus_client', 'structlog'};"
        "bad &= set(sys.modules); print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
