"""The keys for SLS: as the settings say, or from a file that is read again when it changes.

Called at every signature, so it must be cheap: one `stat` a second at most.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from worker.settings import SourceSettings
from worker.sls_errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key, with its token where it is a temporary one."""

    access_key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


class Credentials:
    """Gives the keys that are good now."""

    def __init__(self, settings: SourceSettings) -> None:
        self._path = settings.credentials_file
        self._keys = Keys(settings.access_key_id, settings.access_key_secret, settings.security_token)
        self._seen: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._lock = threading.Lock()

    def get(self) -> Keys:
        """Misconfigured when the file cannot be read and never could."""
        if self._path is None:
            return self._keys
        with self._lock:
            now = time.monotonic()
            if self._seen is None or now - self._looked >= 1.0:
                self._looked = now
                self._reread()
            return self._keys

    def _reread(self) -> None:
        try:
            path = self._path or Path()
            found = path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return
            self._keys = parse_keys(path.read_bytes())
            self._seen = seen
        except (OSError, ValueError) as error:
            # Half-written or just being replaced: what was good stays good, SLS says when it is not.
            if self._seen is None:
                wrong = Misconfigured(f"cannot read the credentials file {self._path}: {error}")
                wrong.hint = (
                    "a JSON object with access_key_id, access_key_secret and security_token, readable by this user"
                )
                raise wrong from error


def parse_keys(data: bytes) -> Keys:
    """The file's content; ValueError without echoing it."""
    try:
        found = orjson.loads(data)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - one error for all that is wrong with it
    plain = {str(key).lower().replace("_", ""): str(value).strip() for key, value in found.items() if value is not None}
    key, secret = plain.get("accesskeyid", ""), plain.get("accesskeysecret", "")
    if not key or not secret:
        raise ValueError("access_key_id or access_key_secret is missing")
    token = plain.get("securitytoken", plain.get("ststoken", ""))
    if not all(map(is_sendable, (key, secret, token))):
        raise ValueError("a key or token in it has a blank or a character that is not ASCII")
    return Keys(key, secret, token)


def is_sendable(text: str) -> bool:
    """Whether it may stand in a header: a library that refuses to send it says what it was."""
    return text.isascii() and text.isprintable() and " " not in text
