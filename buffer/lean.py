"""structlog without rich. Where rich is installed structlog imports it, for stacks in colour that nobody sees here: 5 MiB and
0.1 s in each of our processes. Import structlog from here and nowhere else.
"""

from __future__ import annotations

import sys

if "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment]  # "not installed", as importlib spells it
    try:
        import structlog
    finally:
        del sys.modules["rich"]

__all__ = ["structlog"]
