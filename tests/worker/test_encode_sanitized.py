"""The compiled encoder under AddressSanitizer and UndefinedBehaviorSanitizer; its reader of JSON once more, by itself."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from scripts.hatch_build import compile_encoder, find_compiler
from tests.worker.json_texts import texts
from tests.worker.times import times
from worker.unfold import event_time, unfold_text

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
    ran = fuzz(ROOT / "worker/_encoder.c", tmp_path, flags, 3000)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert int(ran.stdout) > 100


def test_the_sanitizer_would_see_one_byte_too_many(tmp_path: Path) -> None:
    """The witness is awake: the same program fails when the check of one bound is taken out."""
    changed = careless(tmp_path, "_text.h", "if (limit - p >= 16) {", "if (limit - p >= 1) {")
    ran = fuzz(changed / "_encoder.c", tmp_path, (), 10)
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr


def careless(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the source in which one thing is left out."""
    for path in (ROOT / "worker").glob("*.[ch]"):
        shutil.copy(path, folder)
    source = (folder / file).read_text()
    assert old in source
    (folder / file).write_text(source.replace(old, new))
    return folder


# the reader of JSON, whose memory ends where a text does


def judge(
    headers: Path, folder: Path, flags: tuple[str, ...], records: list[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes]]:
    """N, Y or U, and what a text or a time becomes."""
    program = folder / "unfold_bounds"
    command: list[str | Path] = [
        *find_compiler(),
        "-std=c11",
        *SANITIZE,
        "-Wno-unused-function",
        *flags,
        f"-I{headers}",
        "-o",
        program,
    ]
    subprocess.run([*command, ROOT / "tests/worker/unfold_bounds.c"], check=True)
    given = b"".join(kind.encode() + struct.pack("=I", len(text)) + text for kind, text in records)
    ran = subprocess.run([program], input=given, capture_output=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:].decode("utf-8", "replace")
    at = 0
    while at < len(ran.stdout):
        (size,) = struct.unpack_from("=I", ran.stdout, at + 1)
        yield chr(ran.stdout[at]), ran.stdout[at + 5 : at + 5 + size]
        at += 5 + size


def texts_and_times() -> list[tuple[str, bytes]]:
    """What the encoder hands to its reader is UTF-8."""
    found = [("J", text.decode("utf-8", "replace").encode()) for text in texts(9, 20_000)]
    for text in list(found[:200]):
        found += [("J", text[1][:end].decode("utf-8", "ignore").encode()) for end in range(len(text[1]))]
    return found + [("T", text) for text in times(Random(9), 20_000)]


def compare(headers: Path, folder: Path, flags: tuple[str, ...] = ()) -> None:
    records, sure = texts_and_times(), 0
    for (kind, text), (verdict, shown) in zip(records, judge(headers, folder, flags, records), strict=True):
        said = event_time(text.decode()) if kind == "T" else unfold_text(text.decode(), [("in",), ("other",)])
        assert verdict == "U" or said == (shown.decode() if verdict == "Y" else None), (kind, text)
        sure += verdict != "U"
    assert sure > 0.7 * len(records)


@pytest.mark.parametrize("flags", [(), ("-U__SSE2__",)], ids=["sse2", "portable"])
def test_a_text_or_a_time_cut_anywhere_is_read_to_its_end_as_python_reads_it(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    compare(ROOT / "worker", tmp_path, flags)


#: What a reader may forget.
FORGOTTEN = {
    "the NUL behind a text": ("    **end = 0;\n    if (*o", "    if (*o"),
    "the NUL behind a text in a text": ("    *stop = 0;\n", ""),
    "where a string ends": ("p += 16;\n            continue", "p += 17;\n            continue"),
    "how long a time is": ("if (end - p < 19 || ", "if ("),
    "how long its zone is": ("zone.size != 6 ||", "zone.size < 2 ||"),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_reader_that_forgets_a_bound_is_seen(tmp_path: Path, what: str) -> None:
    changed = careless(tmp_path, "_unfold.h", *FORGOTTEN[what])
    with pytest.raises(AssertionError):
        compare(changed, tmp_path)
