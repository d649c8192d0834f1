"""When a certificate ends: read out of its bytes, so that neither a trusted CA nor a library is needed. Pure."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def not_after(der: bytes) -> float | None:
    """Unix seconds; None where it is no certificate. X.509: the second time of the field `validity` (RFC 5280, 4.1)."""
    try:
        return _not_after(der)
    except (ValueError, IndexError):
        return None


def first_end(pem: str) -> float | None:
    """Of all the certificates in a file, when the first of them ends."""
    ends = [not_after(ssl.PEM_cert_to_DER_cert(one)) for one in _PEM.findall(pem)]
    return min((end for end in ends if end is not None), default=None)


def _not_after(der: bytes) -> float:
    certificate, _ = _element(der, 0, _SEQUENCE)
    signed, _ = _element(certificate, 0, _SEQUENCE)
    at = 0
    if signed[0] == _VERSION:
        _, at = _element(signed, at)
    for _field in ("serial number", "signature", "issuer"):
        _, at = _element(signed, at)
    validity, _ = _element(signed, at, _SEQUENCE)
    _, at = _element(validity, 0)
    kind = validity[at]
    text, _ = _element(validity, at)
    return _time(kind, text.decode("ascii"))


def _element(data: bytes, at: int, wanted: int | None = None) -> tuple[bytes, int]:
    """The content of the DER element at `at`, and where the next begins."""
    if wanted is not None and data[at] != wanted:
        raise ValueError(f"an element of type {wanted} was expected")
    length, start = data[at + 1], at + 2
    if length > 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size]), start + size
    if start + length > len(data):
        raise ValueError("it ends too early")
    return data[start : start + length], start + length


def _time(kind: int, text: str) -> float:
    if kind == _UTC_TIME:  # two digits of the year: 50 to 99 are the last century's
        text = ("19" if text[:2] >= "50" else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
