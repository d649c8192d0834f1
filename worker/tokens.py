"""The HEC tokens: the default one, from the settings or a file that is read again when it changes; and the routes' own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from worker.settings import HecSettings


class Tokens:
    """Never shown: `mask` names a token in holds and logs."""

    def __init__(self, hec: HecSettings) -> None:
        self._default = hec.token
        self._file = hec.token_file
        self._seen: tuple[float, int] | None = None

    def resolve(self, token: str) -> str:
        """A route's own token, or the default one of now."""
        return token or self.default()

    def default(self) -> str:
        """Of the file where one is named; an unreadable file keeps the last token."""
        if self._file is not None:
            self._reread(self._file)
        return self._default

    def _reread(self, path: Path) -> None:
        try:
            found = path.stat()
            if (found.st_mtime, found.st_size) != self._seen:
                self._default = path.read_text().strip() or self._default
                self._seen = found.st_mtime, found.st_size
        except OSError:
            return


def mask(token: str) -> str:
    """A name that tells tokens apart and gives nothing away."""
    return f"token-{hashlib.sha256(token.encode()).hexdigest()[:8]}" if token else "default"
