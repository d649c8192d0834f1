"""A wall clock that tests can step, for the whole tree of a supervisor."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class Clock:
    """The wall clock of the whole tree, for tests to step. See clock.c."""

    def __init__(self, work: Path) -> None:
        self._file, library = work / "clock", work / "clock.so"
        self.step(0)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "clock.c"], check=True, timeout=60)
        self.variables = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(self._file)}

    def step(self, seconds: int) -> None:
        """From now on the clock is so far off."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("l", seconds))
