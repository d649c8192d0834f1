"""What `scripts/build` hands out: wheels that fit where they say, with the encoder that they say, and a source to make them of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.hatch_build import find_compiler

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not find_compiler(), reason="no C compiler")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dist")
    done = subprocess.run([ROOT / "scripts" / "build", made], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def one(dist: Path, glob: str) -> Path:
    (found,) = dist.glob(glob)
    return found


def encoder_of(wheel: Path, work: Path) -> str:
    """Which one runs when the wheel's files are all there is of ours."""
    zipfile.ZipFile(wheel).extractall(work)
    code = f"import worker.encode as e; assert e.__file__.startswith({str(work)!r}); print(e.ENCODER)"
    environment = {k: v for k, v in os.environ.items() if k != "SLS_SIEM_ENCODER"} | {"PYTHONPATH": str(work)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return ran.stdout.strip()


def test_a_wheel_with_the_compiled_encoder_a_pure_one_and_the_source(dist: Path, tmp_path: Path) -> None:
    assert len(list(dist.iterdir())) == 3
    assert one(dist, "*.tar.gz")
    assert encoder_of(one(dist, "*-cp311-abi3-*manylinux*.whl"), tmp_path / "compiled") == "compiled"
    assert encoder_of(one(dist, "*-py3-none-any.whl"), tmp_path / "pure") == "python"


def test_the_compiled_encoder_asks_for_no_newer_glibc_than_its_name_says(dist: Path) -> None:
    """By the binary itself, not by the tool that named it."""
    wheel = one(dist, "*manylinux*.whl")
    promised = max(int(minor) for minor in re.findall(r"manylinux_2_(\d+)", wheel.name))
    binary = zipfile.ZipFile(wheel).read("worker/_encoder.abi3.so")
    wanted = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", binary)]
    assert wanted
    assert max(wanted) <= promised


def test_pip_takes_the_compiled_one_where_it_fits_and_the_pure_one_elsewhere(dist: Path, tmp_path: Path) -> None:
    def chosen(*platform: str) -> str:
        target: Path = tmp_path / "-".join(platform or ["here"])
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-index",
            "--find-links",
            str(dist),
            "-d",
            str(target),
        ]
        only: list[str] = ["--only-binary", ":all:"] if platform else []
        subprocess.run([*command, *only, *platform, "sls-siem"], capture_output=True, timeout=120, check=True)
        return one(target, "*.whl").name

    assert "manylinux" in chosen()
    assert "none-any" in chosen("--platform", "musllinux_1_2_riscv64")
