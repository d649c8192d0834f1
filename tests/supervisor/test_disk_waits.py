"""Who waits for the disk: from files as the kernel writes them, and nobody else is taken for one."""

from __future__ import annotations

from pathlib import Path

from supervisor.disk_waits import STANDS, DiskWaits


def thread(proc: Path, pid: int, number: int, state: str, switches: int) -> None:
    folder = proc / str(pid) / "task" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text(
        f"Name:\tx\nState:\t{state}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t3\n"
    )


def test_only_a_thread_that_stays_in_one_sleep_waits(tmp_path: Path) -> None:
    waits = DiskWaits(tmp_path)
    thread(tmp_path, 1, 1, "S (sleeping)", 9)
    thread(tmp_path, 1, 2, "D (disk sleep)", 9)
    thread(tmp_path, 2, 3, "D (disk sleep)", 9)
    thread(tmp_path, 3, 4, "T (stopped)", 9)
    assert waits.look(100.0, [1, 2, 3, 4]) == {}
    thread(tmp_path, 2, 3, "D (disk sleep)", 10)
    assert waits.look(100.0 + STANDS, [1, 2, 3, 4]) == {1: STANDS}
    assert waits.look(101.0 + STANDS, [1, 2]) == {1: STANDS + 1}, "the other is in another sleep: it has run meanwhile"
    thread(tmp_path, 1, 2, "S (sleeping)", 10)
    assert waits.look(200.0, [1]) == {}
    assert not waits.sleeping


def test_the_kernel_has_no_such_thread_of_ours() -> None:
    import os

    assert DiskWaits().look(0.0, [os.getpid()]) == {}
