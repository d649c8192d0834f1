"""An index that cannot be opened now, and one that is being made: who tries, and who looks on. Witness: the kernel's open files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from buffer import outside
from buffer.database import open_cache
from buffer.errors import SpoolDamaged
from buffer.values import ShardKey


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


def test_an_index_of_which_only_the_file_is_made_yet_is_none_to_those_who_look_on(tmp_path: Path) -> None:
    """Consumers of one start look into each other's lanes while these are made; one of them ended with "no such table"."""
    lane = tmp_path / "lanes/5e0f-1"
    (lane / "v").mkdir(parents=True)
    (lane / "cache.db").touch()
    assert outside.find_position(tmp_path, "5e0f", ShardKey("p", "l", "g", "", 0, 1)) is None
    assert outside.group_positions(tmp_path, "5e0f", "p", "l", "g") == {}
    assert outside.lowest_waiting(tmp_path, "p", "l", 0) is None
    assert list(outside.batches(tmp_path)) == []
    (lane / "v/0a.val").write_bytes(b"what waits")
    with pytest.raises(SpoolDamaged, match="no such table"):
        outside.lowest_waiting(tmp_path, "p", "l", 0)
