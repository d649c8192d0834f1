"""How an answer goes wrong: a fault and a whole answer in, a broken one out."""

from __future__ import annotations

import json
import threading

from tests.emulators.sls_faults import Fault
from tests.emulators.sls_http import Response
from tests.emulators.sls_pull import compress


def before_call(fault: Fault, stopping: threading.Event) -> Response | None:
    """The answer in place of the call, or None when the call shall happen."""
    if fault.kind == "drop":
        return Response(drop=True)
    if fault.kind == "hang":
        stopping.wait(fault.seconds)
        return Response(drop=True)
    if fault.kind == "delay":
        stopping.wait(fault.seconds)
    return _status(fault) if fault.kind == "status" else None


def after_call(fault: Fault, response: Response, stopping: threading.Event) -> Response:
    """The call has happened; only its answer suffers."""
    if fault.kind == "drop_after":
        return Response(drop=True)
    if fault.kind == "status_after":
        return _status(fault)
    if fault.kind == "slow":
        response.rate = max(1, fault.amount)
    elif fault.kind == "no_headers":
        wanted = {name.lower() for name in fault.names}
        response.headers = {k: v for k, v in response.headers.items() if k.lower() not in wanted}
    elif fault.kind == "empty":
        response.body = b""
    elif fault.kind == "body":
        response.body = (fault.text or "").encode()
    elif fault.kind not in {"delay", "drop", "hang", "status"} and response.status == 200:
        _spoil_body(fault, response)
    response.headers |= fault.headers
    return response


def _status(fault: Fault) -> Response:
    body = (
        fault.text if fault.text is not None else json.dumps({"errorCode": fault.code, "errorMessage": fault.message})
    )
    headers = {"Content-Type": "application/json", "x-emulator-code": fault.code, **fault.headers}
    return Response(fault.status, headers, body.encode())


def _spoil_body(fault: Fault, response: Response) -> None:
    body, headers = response.body, response.headers
    if fault.kind == "garbage":
        response.body = bytes(n * 37 % 251 for n in range(max(len(body), 64)))[: len(body) or 64]
    elif fault.kind == "flip" and body:
        at = len(body) // 2
        response.body = body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]
    elif fault.kind == "wrong_count":
        headers["x-log-count"] = str(int(headers.get("x-log-count", "0")) + fault.amount)
    elif fault.kind == "wrong_size":
        headers["x-log-bodyrawsize"] = str(int(headers.get("x-log-bodyrawsize", "0")) + fault.amount)
    elif fault.kind == "truncate":
        response.sent = len(body) // 2
    elif fault.kind == "cut":
        response.body = body[: len(body) // 2]
    elif fault.kind == "bomb":
        size = fault.amount if fault.amount > 1 else 1 << 30
        headers |= {"x-log-compresstype": "lz4", "x-log-bodyrawsize": str(size)}
        response.body = _lz4_zeros(size)


def _lz4_zeros(size: int) -> bytes:
    """An LZ4 block of `size` zeros, about 1/255 of it, without ever holding them."""
    if size < 1 << 16:
        return compress(b"\0" * size, "lz4")
    match = size - 1 - 5 - 4  # one literal, the match, five literals at the end
    extra, rest = divmod(match - 15, 255)
    return b"\x1f\x00\x01\x00" + b"\xff" * extra + bytes([rest]) + b"\x50" + b"\0" * 5
