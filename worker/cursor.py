"""SLS's cursor: base64 of a decimal number that grows by one per LogGroup. Inside this program it is the number."""

from __future__ import annotations

import base64
import binascii

from worker.sls_errors import BadAnswer


def to_text(number: int) -> str:
    """As SLS wants it."""
    return base64.b64encode(str(number).encode()).decode()


def to_number(text: str) -> int:
    """What SLS sent; BadAnswer when it is no cursor."""
    try:
        number = int(base64.b64decode(text, validate=True).decode("ascii"))
    except (ValueError, binascii.Error):
        raise BadAnswer(f"this is no cursor: {text[:64]!r}") from None
    if not 0 <= number < 1 << 63:
        raise BadAnswer(f"this cursor is out of range: {number}")
    return number
