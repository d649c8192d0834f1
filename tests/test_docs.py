"""What is generated is up to date; every command, option, setting, metric, exit code and link is documented."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from scripts import docs
from supervisor.config import SECTIONS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == docs.PAGES[name](), "run `python -m scripts.docs`"


def test_every_command_and_option_has_help() -> None:
    for path, text, options in docs.commands():
        assert text, path
        for option, what in options:
            if not option.startswith(("--install", "--show")):
                assert what, f"{path} {option}"


def test_the_man_page_is_sound_and_names_every_command() -> None:
    if not shutil.which("man") or not shutil.which("groff"):
        pytest.skip("needs man and groff (Debian: man-db, groff)")
    page = str(ROOT / "docs" / "sls-siem.1")
    done = subprocess.run(
        ["man", "--warnings", "--local-file", page], capture_output=True, text=True, check=False, timeout=60,
        env={"MANWIDTH": "400", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for path, text, options in docs.commands():
        assert docs.synopsis(path, options).removeprefix("sls-siem ") in shown
        assert text in shown
    for heading in (
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "SIGNALS OF SUPERVISE",
        "FILES",
        "ENVIRONMENT",
        "EXIT STATUS",
    ):
        assert f"\n{heading}\n" in done.stdout


def test_every_setting_is_described_with_all_that_it_may_be() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, section in SECTIONS.items():
        described, types = docs.attribute_docs(section), get_type_hints(section)
        for one in fields(section):
            assert described[one.name], f"{name}.{one.name}"
            for value in get_args(types[one.name]) if get_origin(types[one.name]) is Literal else ():
                assert f"`{value}`" in described[one.name], f"{name}.{one.name} = {value}"
            row = next(line for line in page.splitlines() if line.startswith(f"| `{one.name}` |"))
            assert len(re.findall(r"(?<!\\)\|", row)) == 4, f"three columns: {row}"


def test_every_exit_code_is_in_the_operators_table() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for code, _ in docs.EXITS:
        assert f"| {code} |" in text


def test_every_metric_is_documented_and_no_other() -> None:
    from supervisor import metrics

    source = Path(metrics.__file__).read_text()
    names = set(metrics.FROM_CHILDREN) | set(metrics.HISTOGRAMS) | {row[0] for row in metrics.FROM_BOOKS.values()}
    names |= set(re.findall(r'_(?:gauge|labelled)\(\s*"(\w+)"', source)) | set(re.findall(r'PREFIX \+ "(\w+)"', source))
    documented = set(re.findall(r"^\| `sls_siem_(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert documented == names


def test_every_link_between_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_operators_table_of_sizes_is_what_the_command_says() -> None:
    from supervisor.size import parse_size, reckon

    rows = re.findall(
        r"^\| ([\d.]+ [GT]B) \| ([\d.]+) ([MG])bit/s \| (\d+) \| ([\d.]+) ([GT])B \|",
        (ROOT / "docs/operations.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 4
    for per_day, rate, unit, shards, disk, of in rows:
        found = reckon(parse_size(per_day), 86400)
        assert float(rate) * {"M": 1, "G": 1000}[unit] == pytest.approx(found["mbit_per_second"], rel=0.02)
        assert int(shards) == found["shards"]
        assert float(disk) * {"G": 1e9, "T": 1e12}[of] == pytest.approx(found["disk_bytes"], rel=0.01)


def test_every_hold_and_signal_has_its_line_for_the_operator() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for kind in ("endpoint", "token", "index", "route", "payload", "dead", "source", "disk", "memory"):
        assert f"| `{kind}` |" in text
        assert f"\n### {kind}: " in text, "its runbook"
    for signal in ("TERM", "HUP", "second TERM"):
        assert signal in text
