"""Every command there is, on every awkward terminal and every spool that is not well: a new command has to take its place here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from scripts import docs
from tests.emulators.sls_client import SlsClient
from tests.supervisor.cli_bench import LETTER, ROOT, Bench, filled

pytestmark = pytest.mark.xdist_group("cli matrix")
ALL = ("--from", "2020-01-01T00:00:00+00:00", "--to", "2099-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Command:
    """How it is called, and what it does to a spool."""

    arguments: str
    json: bool = False
    spool: str = ""
    """`reads`, `writes` (only with --yes, unless it says otherwise), or nothing."""
    same: bool = True
    """Two calls print the same."""

    @property
    def words(self) -> list[str]:
        return self.arguments.split()

    @property
    def name(self) -> str:
        """As documented."""
        return " ".join(self.words[: 2 if self.words[0] in {"spool", "dead", "config", "group"} else 1])


COMMANDS = {
    command.name: command
    for command in (
        Command("check --no-probe", json=True, same=False),
        Command("config init"),
        Command("config schema"),
        Command("config show", json=True),
        Command("dead export {new}", spool="reads"),
        Command("dead ls", json=True, spool="reads"),
        Command("dead purge", spool="writes"),
        Command("dead replay", spool="writes"),
        Command(f"dead show {LETTER}", json=True, spool="reads"),
        Command("group delete other --source l"),
        Command("group ls", json=True),
        Command("group reset --source l --to 2026-01-01T00:00:00+00:00"),
        Command("lag", json=True, same=False),
        Command(f"replay --source l {' '.join(ALL)}", spool="writes at once"),
        Command("size", json=True),
        Command("spool adopt {other}", json=True, spool="reads"),
        Command("spool export {new}", spool="reads"),
        Command("spool ls", json=True, spool="reads"),
        Command("spool peek", json=True, spool="reads"),
        Command("spool purge", spool="writes"),
        Command("spool stats", json=True, spool="reads", same=False),
        Command("spool verify", json=True, spool="reads"),
        Command("status", json=True),
        Command("supervise --once", spool="itself"),
        Command("tap", json=True),
        Command("version", json=True),
    )
}
TALKING = [name for name, command in COMMANDS.items() if command.spool not in {"writes at once", "itself"}]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with filled(tmp_path_factory.mktemp("matrix")) as made:
        made.copy(made.spool, made.work / "good")
        made.copy(made.spool, made.work / "other")
        (made.work / "other" / "id").write_text("0123abcd")
        lane = next((made.work / "other" / "lanes").iterdir())
        lane.rename(lane.with_name("0123abcd-0"))
        with SlsClient(made.sls) as client:
            client.sdk.create_consumer_group("p", "l", "g", 30, False)
        yield made


@pytest.fixture
def well(bench: Bench) -> Iterator[Bench]:
    """And as it was, afterwards."""
    yield bench
    subprocess.run(["umount", str(bench.spool)], capture_output=True, check=False)
    if bench.spool.is_dir():
        shutil.rmtree(bench.spool)
    else:
        bench.spool.unlink(missing_ok=True)
    bench.copy(bench.work / "good", bench.spool)


def words(bench: Bench, name: str) -> list[str]:
    """With names of files filled in; what is to be new is not there."""
    new = bench.work / "new"
    new.unlink(missing_ok=True)
    return [word.format(new=new, other=bench.work / "other") for word in COMMANDS[name].words]


def test_every_command_is_here_and_no_other() -> None:
    assert set(COMMANDS) == {path.removeprefix("sls-siem ") for path, _, _ in docs.commands()}


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.json])
def test_with_json_stdout_is_one_document_by_its_schema(bench: Bench, name: str) -> None:
    done = bench.run(*words(bench, name), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads((ROOT / "docs/schema" / f"{name.replace(' ', '-')}.json").read_text()))


def on_terminal(bench: Bench, *command: str, columns: int, **environment: str) -> tuple[int, str]:
    """stdout and stderr on a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(bench.command(*command), cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
                               env=bench.environment | {"TERM": "xterm-256color"} | environment)  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # EIO: nobody has the other end any more
            break
        if not data:
            break
        seen += data
    os.close(master)
    return process.wait(60), seen.decode()


def letters(shown: str) -> Counter[str]:
    """What is to be read, without the layout."""
    return Counter(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\s", "", shown))


@pytest.mark.parametrize("name", TALKING)
def test_on_a_narrow_terminal_without_colours_nothing_is_cut_and_nothing_is_coloured(bench: Bench, name: str) -> None:
    code, shown = on_terminal(bench, *words(bench, name), columns=24, NO_COLOR="1")
    assert code == 0, shown
    assert "Traceback" not in shown
    assert not re.search(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7])", shown), "a colour"
    if COMMANDS[name].same:
        plain = bench.run(*words(bench, name))
        assert "\x1b" not in plain.stdout + plain.stderr, "nothing but text where there is no terminal"
        assert not letters(plain.stdout + plain.stderr) - letters(shown), "what is cut"


@pytest.mark.parametrize(
    ("name", "what"),
    [("spool verify", "checking"), ("spool export", "writing"), ("dead export", "writing"), ("replay", "fetching l")],
)
def test_what_takes_long_shows_how_far_it_is_on_a_terminal_alone(well: Bench, name: str, what: str) -> None:
    code, shown = on_terminal(well, *words(well, name), columns=80)
    assert code == 0, shown
    assert what in shown
    assert "100%" in shown
    assert what not in well.run(*words(well, name)).stderr


@pytest.mark.parametrize("name", ["status", "spool ls", "check"])
def test_a_terminal_that_knows_nothing_gets_text_alone(bench: Bench, name: str) -> None:
    code, shown = on_terminal(bench, *words(bench, name), columns=80, TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", TALKING)
def test_a_reader_that_has_gone_is_no_error(bench: Bench, name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(bench.command(*words(bench, name)), cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True,
                          env=bench.environment, timeout=60, check=False)  # fmt: skip
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_goes_in_the_middle_is_no_error(bench: Bench) -> None:
    process = subprocess.Popen(bench.command("config", "schema"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=bench.environment)  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_ends_a_command_quietly(bench: Bench) -> None:
    """Held at its settings, which are a FIFO."""
    settings = bench.work / "fifo"
    os.mkfifo(settings, 0o600)
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "spool", "ls", "--config", str(settings)], cwd=ROOT, env=bench.environment,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with settings.open("w"):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b""


# spools that are not well


def missing(bench: Bench) -> None:
    shutil.rmtree(bench.spool)


def foreign(bench: Bench) -> None:
    missing(bench)
    bench.spool.mkdir()
    (bench.spool / "holiday.jpg").write_text("x")


def newer(bench: Bench) -> None:
    (bench.spool / "format").write_text("99\n")


def damaged(bench: Bench) -> None:
    for path in bench.spool.rglob("cache.db"):
        path.write_bytes(b"not a database, " * 999)
    run = bench.spool / "run"
    run.mkdir(exist_ok=True)
    (run / "status.json").write_text('{"half')


def read_only(bench: Bench) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    for options in (["--bind", str(bench.spool)], ["-o", "remount,ro,bind"]):
        if subprocess.run(["mount", *options, str(bench.spool)], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")


HARMS: list[tuple[Callable[[Bench], None], dict[str, int], str]] = [
    (missing, {"reads": 74, "writes": 74, "itself": 0}, "holds no spool"),
    (foreign, {"reads": 74, "writes": 74, "itself": 0}, "holds no spool"),
    (newer, {"reads": 74, "writes": 74, "itself": 74}, "has format 99, this program knows 1"),
    (damaged, {"reads": 74, "writes": 74, "itself": 0}, "is damaged"),
    (read_only, {"reads": 0, "writes": 74, "itself": 74}, "ead-only file system"),
]


def content(folder: Path) -> str:
    """Of all files, and which there are."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and "run" not in path.parts:
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("harm", "codes", "said"), HARMS, ids=[harm.__name__ for harm, _, _ in HARMS])
def test_a_spool_that_is_not_well_is_said_in_two_lines_and_left_as_it_is(
    well: Bench, harm: Callable[[Bench], None], codes: dict[str, int], said: str
) -> None:
    harm(well)
    before, faults = content(well.spool), []
    for name, command in COMMANDS.items():
        if command.spool in {"", "itself"} or (
            harm is foreign and name not in {"spool stats", "dead replay", "replay"}
        ):
            continue
        yes = ["--yes"] if command.spool == "writes" else []
        done = well.run(*words(well, name), *yes)
        expected = codes[command.spool.split()[0]]
        if harm is damaged and name in {"replay", "spool adopt"}:
            expected = 0  # one has a lane of its own, which is well; the other looks at somebody else's
            for lane in (well.spool / "lanes").glob("*-replay"):
                shutil.rmtree(lane)
        problem = done.returncode != expected or "Traceback" in done.stderr
        if expected:
            lines = done.stderr.splitlines()
            problem |= len(lines) != 2 or not lines[0].startswith("error: ") or not lines[1].startswith("hint: ")
            problem |= said not in done.stderr
        if problem:
            faults.append((name, done.returncode, done.stderr[-600:]))
    assert not faults
    assert content(well.spool) == before


@pytest.mark.parametrize(("harm", "codes", "said"), HARMS, ids=[harm.__name__ for harm, _, _ in HARMS])
def test_supervise_starts_on_a_spool_that_can_be_mended_and_says_why_on_others(
    well: Bench, harm: Callable[[Bench], None], codes: dict[str, int], said: str
) -> None:
    harm(well)
    done = well.run("supervise", "--once")
    assert done.returncode == codes["itself"], done.stderr
    if done.returncode:
        assert said in done.stderr
        assert "\nhint: " in done.stderr


@pytest.mark.parametrize("harm", [missing, foreign, damaged, read_only])
def test_status_tells_that_nothing_runs_whatever_the_spool_is(well: Bench, harm: Callable[[Bench], None]) -> None:
    harm(well)
    done = well.run("status")
    assert (done.returncode, "DOWN" in done.stdout) == (0, True), done.stderr
    assert well.run("status", "--check").returncode == 2


def test_what_cannot_be_read_is_never_passed_over_in_silence(well: Bench) -> None:
    bodies = list(well.spool.rglob("v/*.val"))
    assert len(bodies) == 2, "one batch, and one file of dead letters"
    for path in bodies:
        path.write_bytes(path.read_bytes()[:-1])
    done = well.run("spool", "verify", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["faults"]) == 2
    for name, code in (("spool peek", 0), ("spool export", 1), ("dead ls", 0), ("dead export", 1), ("dead show", 1)):
        done = well.run(*words(well, name))
        assert done.returncode == code, name
        assert "1 file of the spool cannot be read" in done.stderr, name
        assert "spool verify" in done.stderr, name


@pytest.mark.parametrize("name", ["spool export", "dead export"])
def test_an_export_never_writes_over_a_file_and_leaves_no_half_of_one(bench: Bench, name: str) -> None:
    command = words(bench, name)
    target = bench.work / "new"
    target.write_text("mine")
    done = bench.run(*command)
    assert done.returncode == 74
    assert "is there already" in done.stderr
    assert target.read_text() == "mine"
    nowhere = bench.run(*command[:-1], "/nowhere/new")
    assert nowhere.returncode == 74
    assert nowhere.stderr.startswith("error: /nowhere/new: No such file or directory\nhint: ")
    target.unlink()
    full = bench.work / "full"
    full.mkdir(exist_ok=True)
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2,size=4k", "x", str(full)], check=False).returncode
    ):
        return
    try:
        (full / "room").write_bytes(bytes(4096))
        done = bench.run(*command[:-1], str(full / "room.2"))
        assert done.returncode == 74
        assert "No space left on device" in done.stderr
        assert [path.name for path in full.iterdir()] == ["room"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_user_who_may_not_read_the_spool_is_told_whom_to_be(well: Bench) -> None:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    os.chown(well.spool, 65534, 65534)
    well.spool.chmod(0o700)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    done = subprocess.run(
        [*without, *well.command("spool", "stats")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=well.environment,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert done.stderr.splitlines()[0].endswith("Permission denied")
    assert "hint: run it as the service does: sudo -u sls-siem" in done.stderr
    for command, code in ((["status"], 74), (["status", "--check"], 2)):
        done = subprocess.run(
            [*without, *well.command(*command)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
            env=well.environment,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Permission denied" in done.stdout + done.stderr
        assert "DOWN" not in done.stdout, "nobody knows"
