"""The HEC emulator against facts/hec.md 6B, by number (the rest: test_hec_life.py), and against clients nobody here wrote."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.emulators.hec import TOKEN, HecEmulator, Knobs
from tests.emulators.hec_client import code, post
from tests.emulators.hec_rules import Token, instant
from tests.waiting import poll

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hec() -> Iterator[HecEmulator]:
    with HecEmulator(knobs=Knobs(keep_envelopes=True)) as made:
        yield made


def test_6b_01_a_valid_event_is_taken_and_an_empty_body_is_no_data(hec: HecEmulator) -> None:
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
def test_6b_02_tokens(header: str, expected: tuple[int, int]) -> None:
    with HecEmulator(tokens=[Token(TOKEN), Token("off", disabled=True)]) as hec:
        assert code(post(hec, '{"event":"a"}', Authorization=header))[:2] == expected


def test_6b_03_basic_with_the_token_as_password_and_query_tokens(hec: HecEmulator) -> None:
    assert (
        requests.post(f"{hec.url}/services/collector", data='{"event":1}', auth=("any", TOKEN), timeout=10).status_code
        == 200
    )
    assert code(post(hec, '{"event":"a"}', f"/services/collector/event?token={TOKEN}"))[:2] == (400, 16)
    assert code(post(hec, '{"event":"a"}', "/services/collector/event?token=x"))[:2] == (403, 4)
    hec.knobs.allow_query_token = True
    assert code(post(hec, '{"event":"a"}', f"/services/collector/event?token={TOKEN}", Authorization=""))[:2] == (
        200,
        0,
    )
    assert code(post(hec, '{"event":"a"}', "/services/collector/event?token=x"))[:2] == (403, 4), "it beats the header"


def test_6b_04_paths(hec: HecEmulator) -> None:
    for path in ("", "/1.0", "/event", "/event/1.0"):
        assert code(post(hec, '{"event":"a"}', f"/services/collector{path}"))[:2] == (200, 0)
    assert code(post(hec, "x", "/services/nothing"))[:2] == (404, 404)
    assert requests.get(f"{hec.url}/services/collector/event", timeout=10).status_code == 405


def test_6b_05_options_need_no_token(hec: HecEmulator) -> None:
    answer = requests.options(f"{hec.url}/services/collector/event", timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (200, "POST,OPTIONS")


def test_6b_06_health(hec: HecEmulator) -> None:
    def ask(**headers: str) -> tuple[int, int]:
        found = requests.get(f"{hec.url}/services/collector/health", timeout=10, headers=headers)
        return found.status_code, found.json()["code"]

    assert ask() == ask(Authorization="Splunk bogus") == (200, 17)
    for full, down, expected in ((True, False, 18), (False, True, 19), (True, True, 20)):
        hec.knobs.queue_full, hec.knobs.ack_down = full, down
        assert ask() == (503, expected)
    hec.knobs.shutting_down = True
    assert ask() == (503, 23)


def test_6b_07_what_stands_before_the_bad_object_is_indexed(hec: HecEmulator) -> None:
    assert code(post(hec, '{"event":{"sls_id":"a"}}{"event":"b"')) == (400, 6, 1)
    assert set(hec.stored) == {"a"}


def test_6b_08_any_white_space_between_and_an_array(hec: HecEmulator) -> None:
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
def test_6b_09_event_faults_carry_the_right_number(hec: HecEmulator, bad: str, expected: int) -> None:
    assert code(post(hec, '{"event":{"sls_id":"a"}}' + bad + '{"event":{"sls_id":"c"}}')) == (400, expected, 1)
    assert set(hec.stored) == {"a"}


def test_6b_10_a_wrong_index_is_counted_from_one_and_an_empty_list_allows_all(hec: HecEmulator) -> None:
    body = '{"event":{"sls_id":"a"},"index":"main"}{"event":1,"index":"other"}'
    with HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as strict:
        assert code(post(strict, body)) == (400, 7, 2)
        assert set(strict.stored) == {"a"}
    assert code(post(hec, body)) == (200, 0, None)


def test_6b_11_after_an_unknown_key_nothing_more_is_indexed(hec: HecEmulator) -> None:
    assert code(
        post(hec, '{"event":{"sls_id":"a"}}{"event":{"sls_id":"b"}}{"event":1,"extra":1}{"event":{"sls_id":"d"}}')
    ) == (200, 0, None)
    assert set(hec.stored) == {"a", "b"}


def test_6b_12_fields_without_event_are_answered_with_success_and_not_stored(hec: HecEmulator) -> None:
    assert code(post(hec, '{"fields":{"a":"b"}}')) == (200, 0, None)
    assert not hec.stored


def test_6b_13_metadata_do_not_carry_over(hec: HecEmulator) -> None:
    post(hec, '{"event":1,"host":"h"}{"event":2}')
    assert "host" not in hec.envelopes[1]


def test_6b_15_gzip_corrupt_gzip_deflate_and_size(hec: HecEmulator) -> None:
    assert code(post(hec, gzip.compress(b'{"event":1}'), Content_Encoding="gzip"))[:2] == (200, 0)
    assert post(hec, b"not gzip", Content_Encoding="gzip")[0] == 400
    assert post(hec, b"x", Content_Encoding="deflate")[0] == 415
    hec.knobs.max_content_length = 100
    assert post(hec, '{"event":"' + "x" * 200 + '"}')[0] == 413
    with HecEmulator(knobs=Knobs(profile="cloud", cloud_cap=100)) as cloud:
        assert code(post(cloud, '{"event":"' + "x" * 200 + '"}')) == (400, 6, 0)


@pytest.mark.parametrize(
    "time",
    ["1700000000.123456", 1700000000.123456, "1700000000123456000", 1700000000123456000, "1700000000.123456789"],
    ids=str,
)
def test_6b_14_every_form_of_time_is_the_same_instant(hec: HecEmulator, time: Any) -> None:
    assert code(post(hec, json.dumps({"event": 1, "time": time}))) == (200, 0, None)
    assert instant(hec.envelopes[0]["time"]) == 1_700_000_000_123_456
    assert instant(1_700_000_000_123) == 1_700_000_000_123_000
    assert instant(1_700_000_000) == 1_700_000_000_000_000
    assert instant("1.7E9") is None


def test_6b_16_a_bomb_is_bounded_by_the_cap(hec: HecEmulator) -> None:
    hec.knobs.max_content_length = 1 << 20
    assert post(hec, gzip.compress(bytes(64 << 20)), Content_Encoding="gzip")[0] == 413


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
