"""Words of others, before they are shown, logged or written down."""

from __future__ import annotations


def readable(text: object, most: int) -> str:
    """At most so many characters, and none that UTF-8 has not: half a surrogate, of a text cut by whoever counts UTF-16, ends
    whoever writes it.
    """
    return str(text)[:most].encode("utf-8", "replace").decode()
