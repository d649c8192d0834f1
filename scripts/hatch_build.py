"""Compiles worker/_encoder.c while the package is built: a platform wheel where there is a C compiler, else a pure one.

Never fails for want of a compiler: the encoder in Python is complete, only slower. One binary serves CPython 3.11 and
newer (limited API). `SLS_SIEM_PURE=1` leaves it out; `CC` and `CFLAGS` are heeded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, BINARY = "worker/_encoder.c", "worker/_encoder.abi3.so"
FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-z,now"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Named so by hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel's files are chosen; `version` is `editable` for a checkout."""
        del version
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        why = compile_encoder(root / SOURCE, root / BINARY)
        if why:
            (root / BINARY).unlink(missing_ok=True)  # one of another source must not be taken for this one
            self.app.display_warning(f"the encoder is not compiled, the one in Python runs: {why}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform()}"
        build_data["artifacts"].append(BINARY)


def platform() -> str:
    """As wheels name it."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_encoder(source: Path, target: Path, flags: tuple[str, ...] = ()) -> str:
    """Why it could not be; empty when it is there. Renamed into place: processes may run the old one."""
    if os.environ.get("SLS_SIEM_PURE"):
        return "SLS_SIEM_PURE is set"
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} is not CPython"
    compiler = find_compiler()
    if not compiler:
        return "no C compiler"
    made = target.with_name(f".{target.name}.{os.getpid()}")
    include = f"-I{sysconfig.get_path('include')}"
    command = [
        *compiler,
        *FLAGS,
        *shlex.split(os.environ.get("CFLAGS", "")),
        *flags,
        include,
        str(source),
        "-o",
        str(made),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        made.unlink(missing_ok=True)
        return ran.stderr.strip()[:2000] or f"{compiler[0]} ended with {ran.returncode}"
    made.replace(target)
    return ""


def find_compiler() -> list[str]:
    """`CC`, what this Python was built with, or what there is; empty when none is."""
    for wanted in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        command = shlex.split(wanted or "")
        if command and shutil.which(command[0]):
            return command
    return []
