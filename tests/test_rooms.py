"""The house keeps its rooms: import direction, one door per heavy library, nothing forbidden anywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("buffer", "worker", "supervisor")
MAY_IMPORT = {"buffer": {"buffer"}, "worker": {"buffer", "worker"}, "supervisor": set(PACKAGES)}
#: library -> the files that may import it
DOORS = {
    "diskcache": re.compile(r"buffer/\w+\.py"),
    "aliyun": re.compile(r"worker/sls\.py"),
    "requests": re.compile(r"worker/lean\.py"),
    "urllib3": re.compile(r"worker/(hec|hec_connection|line|sls)\.py"),
    "pydantic": re.compile(r"supervisor/config\w*\.py"),
    "psutil": re.compile(r"supervisor/memory\.py"),
    "typer": re.compile(r"supervisor/cli\w*\.py"),
    "structlog": re.compile(r"buffer/lean\.py"),
    "asyncio": re.compile(r"nowhere"),
    "prometheus_client": re.compile(r"supervisor/metrics\.py"),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_room_and_those_to_the_left(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imports(ast.parse(path.read_text())):
        top = name.split(".")[0]
        if top in PACKAGES:
            assert top in MAY_IMPORT[package], f"{path.name} imports {name}"
        if top in DOORS:
            assert DOORS[top].fullmatch(str(path.relative_to(ROOT))), f"{name} has another door than {path.name}"
        assert top not in {"pickle", "shelve", "marshal", "tests"}, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_run_time_code_has_no_assert_no_bare_except_and_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert path.name.endswith("_pb2.py") or ast.get_docstring(tree), f"{path.name} does not say what it promises"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"assert at {path.name}:{node.lineno}: -O strips it"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"bare except at {path.name}:{node.lineno}"
        )


def test_no_file_imports_one_that_imports_it() -> None:
    """Not for annotations either: files that know each other are one file."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources()}
    known = set(names.values())
    graph = {name: imported_files(path) & known for path, name in names.items()}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(graph[start])
        while todo:
            if (name := todo.pop()) not in found:
                found.add(name)
                todo += graph[name]
        return found

    assert not [name for name in graph if name in reached(name)]


def imported_files(path: Path) -> set[str]:
    """`from worker import slots` names a file as `import worker.slots` does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_entry_point_imports_nothing_at_its_top_level() -> None:
    tree = ast.parse((ROOT / "supervisor" / "__main__.py").read_text())
    names = [name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for name in imports(node)]
    assert names in ([], ["__future__"]), "spawn imports this module again in every child"


def test_children_never_import_what_only_the_supervisor_needs() -> None:
    import subprocess
    import sys

    code = (
        "import sys, worker.consumer, worker.sender;"
        "bad = {'pydantic', 'typer', 'psutil', 'prometheus_client', 'rich', 'pygments', 'asyncio', 'idna', 'chardet',"
        " 'charset_normalizer'} & set(sys.modules);"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sender_never_imports_the_sdk() -> None:
    import subprocess
    import sys

    code = "import sys, worker.sender; sys.exit('aliyun' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_environment_that_holds_pypis_supervisor_is_refused(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    (tmp_path / "supervisor-4.3.0.dist-info").mkdir()
    (tmp_path / "supervisor-4.3.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: supervisor\nVersion: 4.3.0\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "version"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
