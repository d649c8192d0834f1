"""The HEC tokens: the default one, from the settings or a file that is read again when it changes; and the routes' own.

A rotation overlaps: some indexers know the new token before others forget the old one. So the file may hold several, one a
line, the preferred first, and the one that it held before is kept; at each endpoint the next is tried when one is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from worker.settings import HecSettings


class Tokens:
    """Never shown: `mask` names a token in holds and logs."""

    def __init__(self, hec: HecSettings) -> None:
        self._candidates = [hec.token] if hec.token else [""]
        self._file = hec.token_file
        self._seen: tuple[float, int, int] | None = None
        self._place: dict[str, int] = {}
        """Endpoint → which of them it takes."""
        self._refused: dict[str, set[str]] = {}
        """Endpoint → those it has refused since it took one."""

    def resolve(self, token: str, url: str = "") -> str:
        """A route's own token, or the default one of now for that endpoint."""
        return token or self.default(url)

    def default(self, url: str = "") -> str:
        """Of the file where one is named; a file that is empty, unreadable or no text keeps the last tokens."""
        if self._file is not None:
            self._reread(self._file)
        return self._candidates[self._place.get(url, 0) % len(self._candidates)]

    def try_next(self, url: str, refused: str) -> bool:
        """That endpoint refused one: whether there is another to ask it with at once."""
        known = self._refused.setdefault(url, set())
        known.add(refused)
        self.default(url)  # the file may have changed meanwhile
        for place, one in enumerate(self._candidates):
            if one not in known:
                self._place[url] = place
                return True
        self._place[url] = 0
        known.clear()
        return False

    def accepted(self, url: str) -> None:
        """It took the one it was asked with."""
        if self._refused:
            self._refused.pop(url, None)

    def _reread(self, path: Path) -> None:
        try:
            found = path.stat()
            seen = found.st_mtime, found.st_size, found.st_ino
            if seen != self._seen:
                self._seen = seen
                self._take(path.read_text().split())
        except (OSError, UnicodeDecodeError):
            return

    def _take(self, tokens: list[str]) -> None:
        if tokens and tokens != self._candidates[: len(tokens)]:
            old = self._candidates[0]
            self._candidates = list(dict.fromkeys([*tokens, *([old] if old else [])]))
            self._place.clear()


def mask(token: str) -> str:
    """A name that tells tokens apart and gives nothing away."""
    return f"token-{hashlib.sha256(token.encode()).hexdigest()[:8]}" if token else "default"
