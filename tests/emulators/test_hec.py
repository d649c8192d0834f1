"""The HEC emulator against facts/hec.md 6B, by number, and against clients that nobody here wrote."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import subprocess
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_rules import Token
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hec() -> Iterator[HecEmulator]:
    with HecEmulator(knobs=Knobs(keep_envelopes=True)) as made:
        yield made


def post(
    hec: HecEmulator, body: str | bytes, path: str = "/services/collector/event", **headers: str
) -> tuple[int, Any]:
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
    return found[0], found[1]["code"], found[1].get("invalid-event-number")


def test_01_a_valid_event_is_taken_and_an_empty_body_is_no_data(hec: HecEmulator) -> None:
    assert code(post(hec, '{"event":"a"}')) == (200, 0, None)
    assert code(post(hec, "")) == (400, 5, None)
    assert code(post(hec, " \r\n")) == (400, 5, None)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (401, 2)),
        (TOKEN, (401, 3)),
        (f"Bearer {TOKEN}", (401, 3)),
        ("Splunk unknown", (403, 4)),
        ("Splunk off", (403, 1)),
    ],
)
def test_02_tokens(header: str, expected: tuple[int, int]) -> None:
    with HecEmulator(tokens=[Token(TOKEN), Token("off", disabled=True)]) as hec:
        assert code(post(hec, '{"event":"a"}', Authorization=header))[:2] == expected


def test_03_basic_with_the_token_as_password_and_query_tokens(hec: HecEmulator) -> None:
    assert (
        requests.post(f"{hec.url}/services/collector", data='{"event":1}', auth=("any", TOKEN), timeout=10).status_code
        == 200
    )
    assert code(post(hec, '{"event":"a"}', f"/services/collector/event?token={TOKEN}"))[:2] == (400, 16)
    assert code(post(hec, '{"event":"a"}', "/services/collector/event?token=x"))[:2] == (403, 4)


def test_04_paths(hec: HecEmulator) -> None:
    for path in ("", "/1.0", "/event", "/event/1.0"):
        assert code(post(hec, '{"event":"a"}', f"/services/collector{path}"))[:2] == (200, 0)
    assert code(post(hec, "x", "/services/nothing"))[:2] == (404, 404)
    assert requests.get(f"{hec.url}/services/collector/event", timeout=10).status_code == 405


def test_05_options_need_no_token(hec: HecEmulator) -> None:
    answer = requests.options(f"{hec.url}/services/collector/event", timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (200, "POST,OPTIONS")


def test_06_health(hec: HecEmulator) -> None:
    assert requests.get(f"{hec.url}/services/collector/health", timeout=10).json()["code"] == 17
    hec.outage(True, status=503, code=18)
    assert requests.get(f"{hec.url}/services/collector/health", timeout=10).json()["code"] == 18


def test_07_what_stands_before_the_bad_object_is_indexed(hec: HecEmulator) -> None:
    assert code(post(hec, '{"event":{"sls_id":"a"}}{"event":"b"')) == (400, 6, 1)
    assert set(hec.stored) == {"a"}


def test_08_any_white_space_between_and_an_array(hec: HecEmulator) -> None:
    for body in (
        '{"event":1}{"event":2}',
        '{"event":1}\n{"event":2}',
        '{"event":1} \r\n {"event":2}',
        '[{"event":1},{"event":2}]',
    ):
        assert code(post(hec, body)) == (200, 0, None)
    assert len(hec.envelopes) == 8


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ('{"host":"h"}', 12), ('{"event":""}', 13), ('{"event":" "}', 13), ('{"event":null}', 6), ('{"event":false}', 6),
        ('{"event":1,"fields":{"a":{}}}', 15), ('{"event":1,"fields":1}', 6), ('{"event":1,"time":"abc"}', 15),
        ('{"event":1,"time":1.7E+29}', 15),
    ],
)  # fmt: skip
def test_09_event_faults_carry_the_right_number(hec: HecEmulator, bad: str, expected: int) -> None:
    assert code(post(hec, '{"event":{"sls_id":"a"}}' + bad + '{"event":{"sls_id":"c"}}')) == (400, expected, 1)
    assert set(hec.stored) == {"a"}


def test_10_a_wrong_index_is_counted_from_one_and_an_empty_list_allows_all(hec: HecEmulator) -> None:
    body = '{"event":{"sls_id":"a"},"index":"main"}{"event":1,"index":"other"}'
    with HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as strict:
        assert code(post(strict, body)) == (400, 7, 2)
        assert set(strict.stored) == {"a"}
    assert code(post(hec, body)) == (200, 0, None)


def test_11_after_an_unknown_key_nothing_more_is_indexed(hec: HecEmulator) -> None:
    assert code(
        post(hec, '{"event":{"sls_id":"a"}}{"event":{"sls_id":"b"}}{"event":1,"extra":1}{"event":{"sls_id":"d"}}')
    ) == (200, 0, None)
    assert set(hec.stored) == {"a", "b"}


def test_12_fields_without_event_are_answered_with_success_and_not_stored(hec: HecEmulator) -> None:
    assert code(post(hec, '{"fields":{"a":"b"}}')) == (200, 0, None)
    assert not hec.stored


def test_13_metadata_do_not_carry_over(hec: HecEmulator) -> None:
    post(hec, '{"event":1,"host":"h"}{"event":2}')
    assert "host" not in hec.envelopes[1]


def test_15_gzip_corrupt_gzip_deflate_and_size(hec: HecEmulator) -> None:
    assert code(post(hec, gzip.compress(b'{"event":1}'), Content_Encoding="gzip"))[:2] == (200, 0)
    assert post(hec, b"not gzip", Content_Encoding="gzip")[0] == 400
    assert post(hec, b"x", Content_Encoding="deflate")[0] == 415
    hec.knobs.max_content_length = 100
    assert post(hec, '{"event":"' + "x" * 200 + '"}')[0] == 413
    with HecEmulator(knobs=Knobs(profile="cloud", cloud_cap=100)) as cloud:
        assert code(post(cloud, '{"event":"' + "x" * 200 + '"}')) == (400, 6, 0)


def test_16_a_bomb_is_bounded_by_the_cap(hec: HecEmulator) -> None:
    hec.knobs.max_content_length = 1 << 20
    assert post(hec, gzip.compress(bytes(64 << 20)), Content_Encoding="gzip")[0] == 413


def test_17_to_20_channels_and_acknowledgements() -> None:
    with HecEmulator(tokens=[Token(TOKEN, ack=True)]) as hec:
        assert code(post(hec, '{"event":1}')) == (400, 10, None)
        assert code(post(hec, '{"event":1}', X_Splunk_Request_Channel="no-guid")) == (400, 11, None)
        one, two = str(uuid.uuid4()), str(uuid.uuid4())
        ids = [post(hec, '{"event":1}', X_Splunk_Request_Channel=c)[1]["ackId"] for c in (one, one, two)]
        assert ids == [0, 1, 0]

        def poll_acks(channel: str) -> Any:
            return post(hec, '{"acks":[0,7]}', "/services/collector/ack", X_Splunk_Request_Channel=channel)[1]["acks"]

        assert poll_acks(one) == {"0": True, "7": False}
        assert poll_acks(one) == {"0": False, "7": False}, "true is said once"
    with HecEmulator() as plain:
        assert code(post(plain, '{"acks":[0]}', "/services/collector/ack")) == (400, 14, None)


def test_24_nearly_full_is_accepted_and_busy_is_not(hec: HecEmulator) -> None:
    hec.knobs.near_full = True
    assert code(post(hec, '{"event":1}'))[:2] == (200, 24)
    hec.outage(True)
    assert code(post(hec, '{"event":1}'))[:2] == (503, 9)
    hec.outage(False)
    assert hec.total == 1


def test_26_detention_is_404_everywhere(hec: HecEmulator) -> None:
    hec.knobs.detention = True
    assert post(hec, '{"event":1}')[0] == 404
    assert requests.get(f"{hec.url}/services/collector/health", timeout=10).status_code == 404


def test_30_scripted_answers_and_dropped_connections(hec: HecEmulator) -> None:
    hec.script.extend([{"status": 502, "body": "<html>"}, {"drop": True}])
    assert post(hec, '{"event":1}')[0] == 502
    with pytest.raises(requests.ConnectionError):
        post(hec, '{"event":1}')
    assert code(post(hec, '{"event":1}'))[:2] == (200, 0)


def test_31_the_record_tells_what_came_and_how_often(hec: HecEmulator) -> None:
    for _ in range(2):
        post(hec, '{"event":{"sls_id":"a"}}')
    assert hec.stored == {"a": 2}
    assert [r.status for r in hec.requests] == [200, 200]


def test_a_lookalike_takes_all_or_nothing() -> None:
    with HecEmulator(knobs=Knobs(profile="lookalike")) as hec:
        assert code(post(hec, '{"event":1}{"event":null}'))[:2] == (400, 6)
        assert not hec.stored


def test_splunk_handler_from_pypi_delivers(hec: HecEmulator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from splunk_handler import SplunkHandler

        handler = SplunkHandler(
            "127.0.0.1",
            hec.server.port,
            TOKEN,
            "main",
            protocol="http",
            flush_interval=0.1,
            sourcetype="st",
            verify=False,
        )
    logger = logging.getLogger("tests.splunk_handler")
    logger.propagate = False
    logger.addHandler(handler)
    for number in range(20):
        logger.warning("event %d", number)
    handler.force_flush()
    poll(lambda: len(hec.envelopes) == 20, "20 events of splunk-handler", 30)
    handler.shutdown()
    assert {e["event"] for e in hec.envelopes} == {f"event {n}" for n in range(20)}
    assert {e["sourcetype"] for e in hec.envelopes} == {"st"}


SCRIPT = """
const Logger = require("splunk-logging").Logger;
const config = {token: process.argv[2], url: process.argv[1], batchInterval: 0, maxBatchCount: 10, maxRetries: 2};
const logger = new Logger(config);
let done = 0;
logger.error = (e) => { console.error(String(e)); process.exit(1); };
for (let i = 0; i < 20; i++) {
  logger.send({message: {number: i}, metadata: {source: "js", sourcetype: "st"}}, (err, res, body) => {
    if (err || body.code !== 0) { console.error(err, body); process.exit(1); }
    if (++done === 2) console.log("sent");
  });
}
"""


def test_splunk_logging_from_npm_delivers(hec: HecEmulator) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    home = ROOT / ".cache" / "npm"
    if not (home / "node_modules" / "splunk-logging").exists():
        home.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(ROOT / "tests" / "emulators" / "npm" / name, home / name)
        install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(install, cwd=home, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install splunk-logging: {done.stderr[-300:]}")
    done = subprocess.run(
        ["node", "-e", SCRIPT, hec.url, TOKEN], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    poll(lambda: len(hec.envelopes) == 20, "20 events of splunk-logging", 30)
    assert {e["event"]["message"]["number"] for e in hec.envelopes} == set(range(20))


def test_the_control_api_of_the_program_reports_and_obeys(hec: HecEmulator) -> None:
    post(hec, '{"event":{"sls_id":"a"}}')
    control = f"{hec.url}/_control"
    assert requests.get(f"{control}/stats", timeout=10).json()["distinct"] == 1
    assert requests.get(f"{control}/ids", timeout=10).text == "a"
    requests.post(f"{control}/outage", data=json.dumps({"on": True}), timeout=10)
    assert code(post(hec, '{"event":1}'))[:2] == (503, 9)
    requests.post(f"{control}/reset", timeout=10)
    assert requests.get(f"{control}/stats", timeout=10).json()["distinct"] == 0
