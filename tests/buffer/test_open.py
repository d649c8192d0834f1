"""Opening an index that cannot be opened now: nothing of the try lives on. The kernel's list of open files is the witness."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from buffer.database import open_cache
from buffer.errors import SpoolDamaged


def open_files(below: Path) -> list[str]:
    found = []
    for one in Path("/proc/self/fd").iterdir():
        if one.exists() and os.readlink(one).startswith(f"{below}/"):
            found.append(os.readlink(one))
    return found


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_a_try_that_fails_half_way_holds_no_file_and_so_no_lock_against_the_next(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did: the next try of the same process waited a minute for its own first one, and then gave up."""
    monkeypatch.setenv("SLS_SIEM_JOURNAL_MODE", mode)
    cache = open_cache(tmp_path / "lane")
    cache.close()
    cache.disk.close()
    with sqlite3.connect(tmp_path / "lane/cache.db") as connection:
        connection.execute("INSERT INTO Settings VALUES ('disk_unheard_of', 1)")
    connection.close()
    with pytest.raises(SpoolDamaged, match="cannot read its settings") as failed:
        open_cache(tmp_path / "lane")
    assert failed.value.__traceback__ is not None, "what the failed try made is still referred to"
    assert open_files(tmp_path) == []
