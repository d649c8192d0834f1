"""Who may do what: signatures of version 1 and 4, security tokens, clock skew, and permissions by action.

Written from the documented rules, not from any client, so that a client that signs wrongly is refused here too.
"""

from __future__ import annotations

import base64
import calendar
import email.utils
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tests.emulators.sls_groups import Refused

MAX_SKEW = 900.0
_V4 = re.compile(
    r"SLS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/sls/aliyun_v4_request,"
    r"\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(slots=True)
class AccessKey:
    """A key pair; with `token`, temporary credentials that end at `expires` (true time)."""

    id: str = "ak"
    secret: str = "sk"
    token: str | None = None
    expires: float | None = None
    allowed: frozenset[str] | None = None  # actions such as log:ListShards; None: all


@dataclass(frozen=True, slots=True)
class Signed:
    """The parts of a request that a signature covers."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # lower-case names
    body: bytes


def authenticate(request: Signed, keys: Mapping[str, AccessKey], now: float) -> AccessKey:
    """The key that signed `request`; Refused as the service refuses."""
    given = request.headers.get("authorization", "")
    version_4 = _V4.fullmatch(given)
    if version_4:
        key = _find(keys, version_4["id"])
        _check_clock(_time_v4(request.headers), now)
        good = _signature_v4(request, key.secret, version_4["date"], version_4["region"]) == version_4["signature"]
    elif given.startswith("LOG ") and ":" in given:
        name, _, signature = given[4:].partition(":")
        key = _find(keys, name)
        _check_clock(_time_v1(request.headers), now)
        good = _check_v1(request, key.secret, signature)
    else:
        raise Refused(401, "Unauthorized", "The request is not signed.")
    if not good:
        raise Refused(401, "SignatureNotMatch", f"signature {given[-44:]} not match")
    _check_token(request.headers.get("x-acs-security-token"), key, now)
    return key


def authorize(key: AccessKey, action: str, resource: str) -> None:
    if key.allowed is not None and action not in key.allowed:
        raise Refused(401, "Unauthorized", f"denied by sts or ram, action: {action}, resource: {resource}")


def _find(keys: Mapping[str, AccessKey], name: str) -> AccessKey:
    if name not in keys:
        raise Refused(401, "Unauthorized", f"AccessKeyId not found: {name}")
    return keys[name]


def _check_token(given: str | None, key: AccessKey, now: float) -> None:
    if key.token is None:
        return
    if given != key.token:
        raise Refused(401, "Unauthorized", "The security token you provided is invalid.")
    if key.expires is not None and now >= key.expires:
        raise Refused(401, "Unauthorized", "The security token you provided has expired.")


def _check_clock(signed_at: float | None, now: float) -> None:
    if signed_at is None:
        raise Refused(400, "InvalidDateFormat", "The date of the request is missing or malformed.")
    if abs(now - signed_at) > MAX_SKEW:
        raise Refused(
            400, "RequestTimeTooSkewed", f"Request time exceeds server time more than {MAX_SKEW / 60:.0f} minutes."
        )


def _time_v1(headers: Mapping[str, str]) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(headers.get("date", headers.get("x-log-date", ""))).timestamp()
    except ValueError:
        return None


def _time_v4(headers: Mapping[str, str]) -> float | None:
    try:
        return calendar.timegm(time.strptime(headers.get("x-log-date", ""), "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None


def _check_v1(request: Signed, secret: str, signature: str) -> bool:
    headers = request.headers
    if request.body and headers.get("content-md5") != hashlib.md5(request.body).hexdigest().upper():
        raise Refused(400, "SignatureNotMatch", "Content-MD5 does not match the body")
    # x-log-date is added after signing by clients that cannot send Date through a proxy
    names = sorted(
        n
        for n in headers
        if n.startswith(("x-log-", "x-acs-")) and not n.startswith("x-log-meta-") and n != "x-log-date"
    )
    resource = request.path
    if request.query:
        resource += "?" + "&".join(f"{key}={value}" for key, value in sorted(request.query.items()))
    text = "\n".join(
        (
            request.method,
            headers.get("content-md5", ""),
            headers.get("content-type", ""),
            headers.get("date", headers.get("x-log-date", "")),
            *(f"{name}:{headers[name]}" for name in names),
            resource,
        )
    )
    good = hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()
    return hmac.compare_digest(base64.b64encode(good).decode(), signature)


def _signature_v4(request: Signed, secret: str, date: str, region: str) -> str:
    headers = request.headers
    body_hash = hashlib.sha256(request.body).hexdigest()
    if headers.get("x-log-content-sha256") != body_hash:
        raise Refused(400, "SignatureNotMatch", "x-log-content-sha256 does not match the body")
    names = sorted(
        n
        for n in headers
        if n in {"content-type", "host"} or (n.startswith(("x-log-", "x-acs-")) and not n.startswith("x-log-meta-"))
    )
    query = "&".join(
        f"{key}={quote(value, safe='~')}" if value else key for key, value in sorted(request.query.items())
    )
    canonical = "\n".join(
        (
            request.method,
            request.path,
            query,
            "".join(f"{name}:{headers[name].strip()}\n" for name in names),
            ";".join(names),
            body_hash,
        )
    )
    scope = f"{date}/{region}/sls/aliyun_v4_request"
    text = f"SLS4-HMAC-SHA256\n{headers['x-log-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"aliyun_v4{secret}".encode()
    for part in (date, region, "sls", "aliyun_v4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()
