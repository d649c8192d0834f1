"""The compiled encoder, where it was built: `module` is None where no compiler was there, or when it is left aside."""

from __future__ import annotations

import importlib
import os
from typing import Any

module: Any = None
#: $SLS_SIEM_ENCODER = python leaves it aside, for comparisons.
if os.environ.get("SLS_SIEM_ENCODER") != "python":
    try:
        module = importlib.import_module("worker._encoder")
    except ImportError:  # no compiler was there when it was installed
        module = None
