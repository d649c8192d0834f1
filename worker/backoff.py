"""How long to wait before the next try. Pure: time and chance come in as arguments."""

from __future__ import annotations


def next_wait(trouble_age: float, chance: float) -> float:
    """Seconds until the next try or probe: a quarter of the trouble's age, 0.5 s to 60 s, jittered down to half.

    `chance` is uniform in [0, 1). One rule for retries and holds alike, so that after a short trouble the rate is
    soon back where it was, and in a long one nobody is hammered.
    """
    wait = min(max(trouble_age / 4, 0.5), 60.0)
    return wait * (0.5 + chance / 2)


def respawn_wait(failures: int, chance: float) -> float:
    """Seconds until a dead child is started again: 0 after none, then 0.5 s doubling to 60 s, jittered to half."""
    if failures <= 0:
        return 0.0
    return min(60.0, 0.5 * 2.0 ** min(failures - 1, 10)) * (0.5 + chance / 2)
