"""Whose certificates are trusted, in one place for consumers, senders and `check`: what passes there passes here."""

from __future__ import annotations

import os
import ssl
from pathlib import Path


def trusted(ca_file: Path | str | None) -> str | bool:
    """A file or a directory: the setting's, else the environment's, else the system's; True where there is none: then those
    which `requests` brings along. An administrator adds a company's own CA to the system's, and nowhere else.
    """
    if ca_file:
        return str(ca_file)
    system = ssl.get_default_verify_paths()  # with SSL_CERT_FILE and SSL_CERT_DIR
    found = os.environ.get("REQUESTS_CA_BUNDLE") or system.cafile
    if not found and system.capath and any(Path(system.capath).glob("*.0")):
        found = system.capath
    return found or True
