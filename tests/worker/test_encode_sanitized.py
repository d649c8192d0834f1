"""The compiled encoder under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.hatch_build import compile_encoder, find_compiler

ROOT = Path(__file__).parents[2]


def find_sanitizer() -> str:
    compiler = find_compiler()
    if not compiler:
        return ""
    ran = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    return ran.stdout.strip() if Path(ran.stdout.strip()).is_absolute() else ""


SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror")

pytestmark = pytest.mark.skipif(not find_sanitizer(), reason="no C compiler with AddressSanitizer")


def fuzz(source: Path, folder: Path, flags: tuple[str, ...], rounds: int) -> subprocess.CompletedProcess[str]:
    binary = folder / "_encoder.abi3.so"
    assert not compile_encoder(source, binary, SANITIZE + flags)
    environment = os.environ | {
        "LD_PRELOAD": find_sanitizer(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "tests.worker.fuzz_encoder", str(binary), str(rounds)],
        env=environment, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("-U__SSE2__",)], ids=["sse2", "portable"])
def test_no_byte_outside_of_a_body_is_touched_whatever_is_in_it(tmp_path: Path, flags: tuple[str, ...]) -> None:
    ran = fuzz(ROOT / "worker/_encoder.c", tmp_path, flags, 4000)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert int(ran.stdout) > 100


def test_the_sanitizer_would_see_one_byte_too_many(tmp_path: Path) -> None:
    """The witness is awake: the same program fails when the check of one bound is taken out."""
    source = (ROOT / "worker/_encoder.c").read_text()
    assert "if (limit - p >= 16) {" in source
    careless = tmp_path / "careless.c"
    careless.write_text(source.replace("if (limit - p >= 16) {", "if (limit - p >= 1) {"))
    ran = fuzz(careless, tmp_path, (), 10)
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
