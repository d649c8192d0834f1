"""A program: the compiled encoder (argument: its file) under a sanitizer, fed damaged and cut bodies for a number of rounds.

`PYTHONMALLOC=malloc` makes the bounds of a bytes object the bounds that the sanitizer sees.
"""

from __future__ import annotations

import importlib.util
import sys
from random import Random
from typing import Any

from tests.emulators import generator_wire as wire
from tests.emulators.generator import Generator
from tests.emulators.generator_nasty import nasty_groups
from tests.worker.json_texts import texts
from tests.worker.times import times

PLAN = (b'","host":"h","event":{', b'"__topic__":"t"', b',"sls_id":"x-', b'"}}', 0, True)
#: A plain route; one that looks into the logs, in fields that are there; one whose events Python makes.
LOOK = (
    b"t",
    b"h",
    b',"event":{',
    ((b"k", (b"in", b"other")), (b"event", (b"requestParameterJson",)), (b"user", ()), (b"", ())),
)
PLANS = [(*PLAN, 0, None), (*PLAN, 2, LOOK), (*PLAN, 3, None)]


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("worker._encoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(encoder: Any, raw: bytes, rows: bytes | None = None) -> bool:
    """Whether it was taken. The second pass must be safe with rows of another body, too."""
    encoder.count(raw)
    try:
        kinds, own = encoder.scan(raw)
    except ValueError:
        kinds, own = [()] * 8, rows or b""
    taken = True
    for plan in PLANS:
        try:
            encoder.encode(raw, own, [plan] * len(kinds), ask, 1 << 61, len(raw) % 2)
        except ValueError:
            taken = False
    return taken


def ask(
    _kind: int, pairs: list[tuple[bytes, bytes]], _seconds: int, _nanoseconds: int, tail: bytes, _place: int
) -> bytes:
    """All that is handed out is touched."""
    return b"".join(name + value for name, value in pairs) + tail


def mutate(random: Random, raw: bytes) -> bytes:
    body = bytearray(raw)
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(body) + 1)
        body[at : at + random.randrange(4)] = random.randbytes(random.randrange(4))
    return bytes(body)


def looked(random: Random, seed: int) -> bytes:
    """Its last value is the last thing in the body."""
    fields = zip(texts(seed, 6), times(random, 6), strict=True)
    logs = [wire.log(1, [(b"h", time), (b"t", time), (b"k", text), (b"user", text)]) for text, time in fields]
    return wire.group([wire.log(1, [(b"k", b"{}")]), *logs])


def main(path: str, rounds: int) -> None:
    encoder, random = load(path), Random(rounds)
    seeds = [wire.group_list([group] * 2) for group in nasty_groups(1_767_225_601).values() if len(group) < 5000]
    seeds += [wire.group_list(Generator(n, logs_per_group=4, nasty=0.5).data(20)) for n in range(8)]
    seeds += [wire.group_list([looked(random, n)]) for n in range(12)]
    taken = 0
    for raw in seeds:
        assert run(encoder, raw)
        rows = encoder.scan(raw)[1]
        for end in range(0, len(raw), max(1, len(raw) // 300)):
            taken += run(encoder, raw[:end], rows)
    for _ in range(rounds):
        raw = random.choice(seeds)
        taken += run(encoder, mutate(random, raw), encoder.scan(raw)[1])
    many = wire.group([wire.log(1, [(b"%d" % n, b"\x01" * n) for n in range(3000)] * 2)])
    assert run(encoder, wire.group_list([many]))
    print(taken)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
