"""What can go wrong with SLS, named for what the caller does next. Each says `error` and `hint` in words for people.

`classify` is pure: HTTP status, SLS's code and message in, the error out. SLS's own misspellings are known.
`lasting` errors need somebody's hand and are shown at once; the others are shown when they have lasted a few seconds.
"""

from __future__ import annotations

from typing import ClassVar

from worker.words import readable


class SlsError(Exception):
    """Root. `code` and `status` are SLS's, where it answered at all."""

    lasting: ClassVar[bool] = False
    advice: ClassVar[str] = "see SLS's error code; it is tried again"

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.request_id = message, status, code, request_id
        self.hint = self.advice

    @property
    def error(self) -> str:
        """One line: what was refused."""
        text = readable(" ".join(self.message.split()), 300)
        return f"SLS answered {self.status} {self.code}: {text}" if self.status else text


class Revoked(SlsError):
    """The shard is not ours any more. Not an error: let it go."""

    advice = "nothing to do: another consumer has the shard"


class CredentialsRefused(SlsError):
    """The key is unknown, wrong, disabled or expired."""

    lasting = True
    advice = (
        "check access_key_id, access_key_secret and security_token of this source, then `systemctl restart sls-siem`;"
        " a credentials_file is read again by itself"
    )


class Forbidden(SlsError):
    """The key is good, but may not do this."""

    lasting = True
    advice = "grant the RAM user the policy in docs/ram-policy.json"


class NotFound(SlsError):
    """Project or logstore do not exist (here)."""

    lasting = True
    advice = "check project, logstore and the endpoint's region"


class GroupNotFound(SlsError):
    """The consumer group does not exist: create it."""

    advice = "it is made again within a minute"


class GroupExists(SlsError):
    """Somebody else created it first: join it."""


class ForgottenConsumer(SlsError):
    """SLS has forgotten this consumer: let go of all shards, come back with an empty list."""


class Declined(SlsError):
    """We do not want the answer's body now. SLS has it."""

    advice = "nothing to do: it is asked for again"


class InvalidCursor(SlsError):
    """Older than retention, or beyond the end."""

    advice = "reading goes on at the earliest log that SLS still has"


class BadRequest(SlsError):
    """SLS does not understand what we ask: a setting (query, group name) is wrong, or the service is not SLS."""

    lasting = True
    advice = "check query, consumer_group and endpoint of this source"


class Throttled(SlsError):
    """Read quota or flow control: slower."""

    advice = "split the shard, or raise the project's read quota"


class QuotaExceeded(SlsError):
    """No more consumer groups in this logstore."""

    lasting = True
    advice = "`sls-siem group ls`: delete a consumer group of this logstore that is not used, or ask for a higher quota"


class ClockSkew(SlsError):
    """Our clock and theirs are more than 15 minutes apart."""

    lasting = True
    advice = "set this host's clock (timedatectl, chrony)"


class Unavailable(SlsError):
    """SLS has a trouble of its own (5xx)."""

    advice = "wait; if it lasts, see the status page of Alibaba Cloud"


class Unreachable(SlsError):
    """No answer: DNS, network, proxy, TLS."""

    advice = "check endpoint, DNS, firewall and proxy; `sls-siem check` goes through them one by one"


class TlsRefused(Unreachable):
    """The certificate cannot be trusted."""

    lasting = True
    advice = "set ca_file to the CA that signed it, or fix the endpoint's name"


class ProxyRefused(Unreachable):
    """The proxy on the way does not know us. What it says is a page for people."""

    lasting = True
    error = "the proxy wants a user and a password, or refuses these (407)"
    advice = (
        "set user and password in this source's proxy (http://user:password@host:port, special characters as %XX), then"
        " `systemctl reload sls-siem`"
    )


class BadAnswer(SlsError):
    """An answer that is not SLS's: headers missing, not JSON, too large."""

    advice = "look for a proxy or a gateway between this host and SLS"


class Misconfigured(SlsError):
    """Something local: a file that cannot be read, plain http that is not allowed."""

    lasting = True


_CREDENTIALS = ("signaturenotmatch", "unauthorized", "invalidaccesskeyid", "accesskey", "securitytoken")
_BY_CODE: dict[str, type[SlsError]] = {
    "consumernotmatch": Revoked,
    "consumernotexist": Revoked,
    "consumernotexsit": Revoked,
    "shardnotexist": Revoked,
    "shardnotexsit": Revoked,
    "invalidcursor": InvalidCursor,
    "notexistconsumerwithbody": ForgottenConsumer,
    "consumergroupnotexist": GroupNotFound,
    "consumergroupnotexsit": GroupNotFound,
    "consumergroupalreadyexist": GroupExists,
    "consumergroupquotaexceed": QuotaExceeded,
    "projectnotexist": NotFound,
    "logstorenotexist": NotFound,
    "logstorewithoutshard": NotFound,
    "requesttimetooskewed": ClockSkew,
    "requesttimeexpired": ClockSkew,
    "projectforbidden": Forbidden,
    "serverbusy": Unavailable,
    "internalservererror": Unavailable,
    "requesttimeout": Unavailable,
}


def classify(status: int, code: str, message: str, request_id: str = "") -> SlsError:
    """SLS's answer as the error that says what to do."""
    return _kind(status, code.lower(), message)(message, status=status, code=code, request_id=request_id)


def _kind(status: int, code: str, message: str) -> type[SlsError]:
    if "denied by" in message and status in {401, 403}:  # "denied by sts or ram, action: log:…": the key itself is good
        return Forbidden
    if code in _BY_CODE:
        return _BY_CODE[code]
    if "quotaexceed" in code or "flowcontrol" in code or "throttl" in code or status == 429:
        return Throttled
    if any(code.startswith(word) for word in _CREDENTIALS) and status != 403:
        return CredentialsRefused
    if status == 401:
        return CredentialsRefused
    if status == 407:
        return ProxyRefused
    if status == 403:
        return CredentialsRefused if code.startswith(_CREDENTIALS[2:]) else Forbidden
    if status == 404:
        return NotFound
    if status >= 500:
        return Unavailable
    return BadRequest if 400 <= status < 500 else BadAnswer
