"""A FIFO that wakes the reader when the writer has put something. A lost ring costs a second: the reader polls too,
so a bell that cannot ring is never an error."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Bell:
    """Both sides open it for reading and writing, so that neither blocks nor sees an end of file."""

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Wake the reader; a full FIFO has already been rung."""
        with contextlib.suppress(OSError):
            os.write(self.fd, b".")

    def drain(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 4096):
                pass

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self.fd)
