"""What installing makes of the encoder: compiled where there is a compiler, in Python where there is none, never a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.hatch_build import BINARY, SOURCE, CustomBuildHook, compile_encoder, find_compiler

ROOT = Path(__file__).parents[2]


def build(tmp_path: Path, target: str = "wheel") -> tuple[dict[str, Any], list[str]]:
    (tmp_path / "worker").mkdir(exist_ok=True)
    for path in (ROOT / "worker").glob("*.[ch]"):
        shutil.copy(path, tmp_path / "worker")
    said: list[str] = []
    app: Any = SimpleNamespace(display_warning=said.append)
    data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    CustomBuildHook(str(tmp_path), {}, None, None, "", target, app).initialize("standard", data)  # type: ignore[arg-type]
    return data, said


@pytest.mark.skipif(not find_compiler(), reason="no C compiler")
def test_a_compiler_gives_a_platform_wheel_for_every_python_from_3_11(tmp_path: Path) -> None:
    data, said = build(tmp_path)
    assert not said
    assert data["artifacts"] == [BINARY]
    assert data["tag"].startswith("cp311-abi3-linux_")
    assert (tmp_path / BINARY).exists()


@pytest.mark.parametrize("change", [{"CC": "false"}, {"SLS_SIEM_PURE": "1"}, {"CFLAGS": "-no-such-flag"}])
def test_without_a_working_compiler_the_wheel_is_pure_and_nothing_stale_is_left(
    tmp_path: Path, change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / BINARY).write_bytes(b"of another source")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    data, said = build(tmp_path)
    assert data == {"artifacts": [], "pure_python": True}
    assert "the one in Python runs" in said[0]
    assert sorted(path.name for path in (tmp_path / "worker").iterdir()) == ["_encoder.c", "_text.h", "_unfold.h"]


def test_a_source_distribution_compiles_nothing(tmp_path: Path) -> None:
    assert build(tmp_path, "sdist") == ({"artifacts": [], "pure_python": True}, [])
    assert not (tmp_path / BINARY).exists()


@pytest.mark.skipif(not find_compiler(), reason="no C compiler")
def test_the_source_compiles_without_a_single_warning(tmp_path: Path) -> None:
    flags = ("-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Wshadow", "-Werror")
    assert compile_encoder(ROOT / SOURCE, tmp_path / "_encoder.so", flags) == ""


def test_without_the_compiled_encoder_the_one_in_python_runs_and_says_so() -> None:
    script = "import sys; sys.modules['worker._encoder'] = None; from worker.encode import ENCODER; print(ENCODER)"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ)
    )
    assert ran.stdout.strip() == "python"
