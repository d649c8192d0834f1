"""What an emulator writes down while a test reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

Row = TypeVar("Row")


class Book(deque[Row]):
    """A deque that may be gone through while rows are added to it: as it was when that began."""

    def __iter__(self) -> Iterator[Row]:
        return iter(list(super().__iter__()))
