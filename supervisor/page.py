"""The page at `/`: one file, no outside resources, dark and light. It reads /status and /history every two seconds."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_bytes()


def _source(tag: str) -> str:
    """The one inline element of that kind, as a Content-Security-Policy names it: by its hash."""
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


#: Nothing runs but our own script, nothing is loaded but our own numbers: a hostile log's text stays text.
POLICY = (
    f"default-src 'none'; script-src {_source('script')}; style-src {_source('style')}; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
