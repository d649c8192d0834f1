"""What an answer of Splunk's, or its absence, means for the events that were sent. One pure function.

Nothing here means "drop". What is unknown is tried again, and held when it stays so.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from worker.words import readable

#: Seconds: no Retry-After is honoured beyond it.
LONGEST_RETRY_AFTER = 300.0
#: Splunk's codes are up to 28, and statuses of HTTP.
MOST_CODE = 999


class Act(enum.Enum):
    """What to do with the request."""

    ACCEPT = "accept"
    RETRY = "retry"
    """The endpoint is in trouble; the same bytes again, another endpoint first."""
    HOLD = "hold"
    """As RETRY, and said: a human must see to it."""
    ISOLATE = "isolate"
    """An event is at fault: find it."""
    SPLIT = "split"
    """Too large for this endpoint."""
    CHANNEL = "channel"
    """The token wants acknowledgement: again with a (new) channel."""
    AGAIN = "again"
    """At once on a fresh connection: an idle one had been closed."""
    PLAIN = "plain"
    """Again without gzip."""


class Failure(enum.Enum):
    """No whole answer came."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    """The certificate, theirs or ours, is not accepted."""
    TLS_HANDSHAKE = "tls handshake"
    WRONG_PROTOCOL = "wrong protocol"
    """http spoken to https, or the other way round."""
    PROXY = "proxy"
    STALE = "stale connection"
    """It had been idle, and ended before the first byte of an answer."""
    SEND = "send"
    TIMEOUT = "timeout"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: an answer, or a failure with its text."""

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    failure: Failure | None = None
    text: str = ""
    cookies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, and what to say."""

    act: Act
    status: int = 0
    code: int = -1
    why: str = ""
    hint: str = ""
    hold: str = ""
    """`token` or `endpoint`, for HOLD."""
    number: int | None = None
    """The first bad event, by the code's own way of counting undone."""
    ambiguous: bool = False
    """It may have been taken: sending again may duplicate."""
    retry_after: float | None = None
    ack_id: int | None = None
    slow_down: bool = False
    suspect: bool = False
    """It may be these very bytes that are refused, while others pass: a firewall that dislikes them, an indexer they crash."""
    no_channels: bool = False
    """For CHANNEL: the endpoint has no room for one, and wants a pause."""


_EVENT_FAULTS = {5, 6, 7, 12, 13, 15}
_TOKEN_CODES = {1, 2, 3, 4, 16, 21, 22, 400}
_BUSY_CODES = {9, 18, 19, 20, 26}
_FAILURES: dict[Failure, tuple[Act, bool, str]] = {
    Failure.DNS: (Act.RETRY, False, "check the name in hec.urls and the DNS server"),
    Failure.CONNECT: (Act.RETRY, False, "is Splunk running, and the port (8088) open from here?"),
    Failure.TLS: (Act.HOLD, False, "check the certificate; hec.ca_file names the CA, hec.client_cert ours"),
    Failure.TLS_HANDSHAKE: (Act.RETRY, False, "the TLS handshake did not finish; is a client certificate wanted?"),
    Failure.WRONG_PROTOCOL: (Act.HOLD, False, "http and https are mixed up in hec.urls"),
    Failure.PROXY: (Act.HOLD, False, "check hec.proxy and its user and password"),
    Failure.STALE: (Act.AGAIN, True, "the connection was closed while idle"),
    Failure.SEND: (Act.RETRY, True, "the connection broke while sending"),
    Failure.TIMEOUT: (Act.RETRY, True, "Splunk did not answer in time; see hec.timeout"),
    Failure.READ: (Act.RETRY, True, "the connection broke before the answer was whole"),
}
_SUSPECT_FAILURES = {Failure.SEND, Failure.TIMEOUT, Failure.READ}


def judge(reply: Reply, *, events: int, wants_ack: bool = False, now: float = 0.0) -> Verdict:
    """The verdict; `events` is how many were in the request, `now` Unix seconds for a Retry-After that is a date.

    With `wants_ack` an acceptance without an ackId is none. Facts: facts/hec.md section 4, by the numbers of its rows.
    """
    if reply.failure is not None:
        act, ambiguous, hint = _FAILURES[reply.failure]
        return Verdict(
            act, why=f"{reply.failure.value}: {reply.text}"[:300], hint=hint, hold="endpoint", ambiguous=ambiguous,
            suspect=reply.failure in _SUSPECT_FAILURES,
        )  # fmt: skip
    answer = _parse(reply.body)
    code = _code(answer)
    said = readable(answer.get("text", ""), 200) or f"HTTP {reply.status} without an answer of Splunk's"
    if reply.status == 200:
        return _success(answer, code, said, wants_ack)
    if reply.status == 400:
        return _bad_request(answer, code, said, events)
    return _other(reply, answer, code, said, now)


def _parse(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _code(answer: dict[str, object]) -> int:
    """-1 for what no code of Splunk's can be: it is a label of a metric, and stands in dead letters."""
    found = answer.get("code", -1)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MOST_CODE else -1


def _success(answer: dict[str, object], code: int, said: str, wants_ack: bool) -> Verdict:
    if code not in {0, 24, 25}:
        why = (
            f"200 with code {code}: {said}" if code >= 0 else "200 without Splunk's answer: a portal or another service"
        )
        return Verdict(
            Act.HOLD,
            200,
            code,
            why,
            "hec.urls must name the HEC port (8088), not the web's",
            "endpoint",
            ambiguous=True,
        )
    ack_id = _ack_id(answer)
    if wants_ack and ack_id is None:
        return Verdict(
            Act.HOLD, 200, code, "the answer has no ackId", "enable indexer acknowledgement for the token, or set hec.ack",
            "token", ambiguous=True,
        )  # fmt: skip
    return Verdict(Act.ACCEPT, 200, code, said, ack_id=ack_id, slow_down=code != 0)


def _ack_id(answer: dict[str, object]) -> int | None:
    found = answer.get("ackId", answer.get("ackID"))
    if isinstance(found, bool) or not isinstance(found, int | str):
        return None
    try:
        return int(found)
    except ValueError:
        return None


def _bad_request(answer: dict[str, object], code: int, said: str, events: int) -> Verdict:
    if code == 5 and events == 1:  # none of our events is blank: its bytes did not arrive
        hint = "something on the way strips the bodies of requests: a proxy or load balancer"
        return Verdict(Act.HOLD, 400, code, said, hint, "endpoint", suspect=True)
    if code in _EVENT_FAULTS:
        return Verdict(Act.ISOLATE, 400, code, said, number=_number(answer, code, events))
    if code in {10, 11, 28}:
        return Verdict(Act.CHANNEL, 400, code, said)
    if code in _TOKEN_CODES:
        return _token(400, code, said)
    if code == 14:
        return Verdict(
            Act.HOLD, 400, code, said, "the token no longer acknowledges; set hec.ack", "token", ambiguous=True
        )
    hint = "something in front of Splunk refuses the request: a firewall or load balancer"
    return Verdict(Act.HOLD, 400, code, said, hint, "endpoint", suspect=True)


def _number(answer: dict[str, object], code: int, events: int) -> int | None:
    """The bad event's place; code 7 counts from one."""
    found = answer.get("invalid-event-number")
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    found = max(found - 1, 0) if code == 7 else found
    return found if 0 <= found < events else None


def _token(status: int, code: int, said: str) -> Verdict:
    hint = (
        "check that the token is enabled in Splunk, and hec.token, then `systemctl restart sls-siem`;"
        " a token_file is read again by itself"
    )
    return Verdict(Act.HOLD, status, code, said, hint, "token")


def _other(reply: Reply, answer: dict[str, object], code: int, said: str, now: float) -> Verdict:
    status = reply.status
    headers = {name.lower(): value for name, value in (reply.headers or {}).items()}
    after = retry_after(headers.get("retry-after", ""), now)

    def hold(hint: str, **more: bool) -> Verdict:
        return Verdict(Act.HOLD, status, code, said, hint, "endpoint", retry_after=after, **more)

    if status in {401, 403} and code in _TOKEN_CODES:
        return _token(status, code, said)
    if status in {401, 403}:
        return hold("something in front of Splunk refuses us: a firewall or an allow-list of addresses", suspect=True)
    if 300 <= status < 400:
        where = headers.get("location", "nowhere")[:200]
        return Verdict(
            Act.HOLD,
            status,
            code,
            f"redirected to {where}; never followed",
            "hec.urls must name the HEC port itself",
            "endpoint",
        )
    if status in {201, 202, 204}:
        return hold("this is not Splunk's HEC; hec.urls must name it", ambiguous=True)
    if status == 404:
        return Verdict(
            Act.RETRY,
            status,
            code,
            said,
            "an indexer in detention, maintenance, or a wrong path in hec.urls",
            "endpoint",
            retry_after=after,
        )
    if status == 413:
        return Verdict(Act.SPLIT, status, code, said)
    if status == 415:
        return Verdict(Act.PLAIN, status, code, said)
    if status == 407:
        return hold("the proxy wants a user and password in hec.proxy")
    if status == 429 and code == 27:
        hint = "Splunk has no room for another ack channel: it comes back by itself"
        return Verdict(Act.CHANNEL, status, code, said, hint, "endpoint", retry_after=after, no_channels=True)
    if status in {429, 503} or code in _BUSY_CODES:
        hint = "Splunk's queues are full, or it is restarting: it comes back by itself"
        return Verdict(Act.RETRY, status, code, said, hint, "endpoint", retry_after=after, slow_down=True,
                       ambiguous=code == 23 or _names_an_event(answer))  # fmt: skip
    if status in {405, 501, 505, 411, 414, 426, 431}:
        return hold("this is not Splunk's HEC, or something on the way breaks the request")
    if status in {408, 417, 421, 425} or status >= 500:
        return Verdict(Act.RETRY, status, code, said, "an error on Splunk's side or on the way", "endpoint", ambiguous=True,
                       retry_after=after, suspect=status >= 500)  # fmt: skip
    return hold("an answer that Splunk never gives", ambiguous=True, suspect=True)


def _names_an_event(answer: dict[str, object]) -> bool:
    """A busy answer with a number: what stood in front of it was probably taken, which nobody has measured."""
    return "invalid-event-number" in answer


def retry_after(text: str, now: float) -> float | None:
    """Seconds, of either form; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():  # "²" is a digit, and no number
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        found = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(found, LONGEST_RETRY_AFTER) if found > 0 else None
