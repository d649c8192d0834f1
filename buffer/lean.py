"""Libraries without what they bring along and nobody uses here. Each is imported from its lean.py and nowhere else.

structlog imports rich where it is installed, for stacks in colour that nobody sees here (5 MiB and 0.1 s in each of our
processes), and asyncio, for loggers that are awaited (1.5 MiB).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without(*missing: str, empty: str = "") -> Iterator[None]:
    """Modules that pass for not installed, and one that passes for an empty one, unless they are there already."""
    hidden: dict[str, ModuleType | None] = dict.fromkeys(missing)  # None: "not installed", as importlib spells it
    if empty:
        hidden[empty] = ModuleType(empty)
    hidden = {name: module for name, module in hidden.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with without("rich", empty="asyncio"):
    import structlog

__all__ = ["structlog", "without"]
