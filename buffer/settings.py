"""The `[spool]` table of the settings, and what every table of settings shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

MIB = 1 << 20
GIB = 1 << 30


class Section:
    """A table of the settings file: unknown keys are errors, values are never echoed."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "hide_input_in_errors": True,
        "use_attribute_docstrings": True,
        "arbitrary_types_allowed": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings(Section):
    """Where batches wait, and how much may wait."""

    directory: Path
    """Where the spool lives; a local file system. Default: $STATE_DIRECTORY, else ~/.local/state/sls-siem."""
    max_bytes: int = 10 * GIB
    """Allocated bytes over all lanes and the dead letters; near it, consumers stop pulling."""
    min_free_bytes: int = 1 * GIB
    """Free bytes the file system must keep; below it, consumers stop pulling."""
    dead_letter_max_bytes: int | None = None
    """Bytes the dead letters of all lanes may take, reserved out of max_bytes. Default: the smaller of 1 GiB and max_bytes / 10."""
    force_file_system: bool = False
    """Accept a file system that cannot promise durability (NFS, CIFS, tmpfs). For tests."""

    @property
    def dead_letter_quota(self) -> int:
        """Bytes, with the default resolved."""
        if self.dead_letter_max_bytes is not None:
            return self.dead_letter_max_bytes
        return min(GIB, self.max_bytes // 10)
