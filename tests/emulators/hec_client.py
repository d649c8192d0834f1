"""What the tests of the HEC emulator speak to it with: nothing of ours."""

from __future__ import annotations

from typing import Any

import requests

from tests.emulators.hec import TOKEN, HecEmulator


def post(
    hec: HecEmulator, body: str | bytes, path: str = "/services/collector/event", **headers: str
) -> tuple[int, Any]:
    """Status, and the answer's JSON or text."""
    given = {"Authorization": f"Splunk {TOKEN}", "User-Agent": "test"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    data = body.encode() if isinstance(body, str) else body
    answer = requests.post(hec.url + path, data=data, headers={k: v for k, v in given.items() if v}, timeout=10)
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, answer.text


def code(found: tuple[int, Any]) -> tuple[int, int, int | None]:
    """Status, code and number of an answer."""
    return found[0], found[1]["code"], found[1].get("invalid-event-number")
