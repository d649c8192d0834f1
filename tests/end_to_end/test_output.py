"""All that a full run prints, shows and writes beside the spool, searched for secrets and for what is in the logs."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

from tests.end_to_end.books import assert_books
from tests.end_to_end.house import House
from tests.waiting import poll

KEY_ID, KEY_SECRET = "LTAI-an-access-key-id-7c1e", "an-access-key-secret-that-is-nowhere-else-5f0c"
TOKEN = "7b9f3a52-0000-4000-8000-2c3d4e5f6a7b"
WRONG = "wrong-secret-of-the-second-source-91ab"
LOG = """
[log]
level = "debug"
file = "{work}/our.log"
[[source]]
name = "refused"
project = "p"
logstore = "l"
endpoint = "http://127.0.0.1:{port}"
consumer_group = "other"
start = "begin"
access_key_id = "{key}"
access_key_secret = "{wrong}"
proxy = ""
"""


def page(house: House, what: str) -> str:
    """From the listener, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://{house.status()['supervisor']['listen']}/{what}", timeout=30) as answer:
            found: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            found = error.read()
    return found.decode()


def bodies(house: House) -> set[str]:
    """Long texts that stood in the events, and the number of each."""
    found = set()
    for line in house.hec.text("envelopes").split("\n"):
        event = json.loads(line)["event"]
        found |= {
            value for name, value in event.items()
            if isinstance(value, str) and len(value) >= 16 and not name.startswith("__") and name != "sls_id"
        }  # fmt: skip
    return found


def ends(house: House) -> int:
    """Of children, as our log tells."""
    return (house.work / "our.log").read_text().count('"event":"child died"')


def words(text: str) -> set[str]:
    """Everything that an event's number could be."""
    return set(re.findall(r"[0-9a-f]{16}", text))


def test_no_secret_and_no_event_is_in_anything_that_a_run_in_trouble_prints(tmp_path: Path) -> None:
    keys = ("--ak", KEY_ID, "--sk", KEY_SECRET)
    with House(
        tmp_path, shards=4, consumers=2, senders=2, sls_options=("--fill", "8000", "--nasty", "0.02", *keys),
        hec_options=("--keep-envelopes",),
    ) as house:  # fmt: skip
        house.hec.send("tokens", [{"value": TOKEN, "indexes": ["main"]}])
        settings = house.settings().replace('"ak"', f'"{KEY_ID}"').replace('"sk"', f'"{KEY_SECRET}"')
        settings = re.sub(r'token = ".*"', f'token = "{TOKEN}"', settings)
        more = LOG.format(work=tmp_path, port=house.sls.port, key=KEY_ID, wrong=WRONG)
        route = '[[route]]\ntopic = "waf*"\nindex = "not-allowed"\n'
        house.config.write_text(settings + more + route)
        house.sls.send("faults", [
            {"kind": "flip", "operation": "pull", "count": 3},
            {"kind": "garbage", "operation": "pull", "count": 3},
            {"kind": "status", "operation": "checkpoint", "count": 3, "status": 500},
            {"kind": "drop", "operation": "heartbeat", "count": 3},
        ])  # fmt: skip
        house.hec.send("script", [
            {"status": 400, "code": 6, "number": 1}, {"status": 503, "code": 9}, {"drop": True}, {"status": 413, "body": "large"},
        ])  # fmt: skip
        house.start()
        poll(lambda: len(house.delivered()) > 500, f"the flow has begun; {house.tail()}", 60)
        house.hec.post("outage", on=True, status=403, code=4)
        house.sls.post("append", logs=1000)
        poll(lambda: any(h["kind"] == "token" for h in house.status()["holds"]), "a hold of the token", 60)
        pids = {child["name"]: child["pid"] for child in house.status()["children"]}
        # faulthandler writes a word at a time: a line of another process may stand in the middle of its stacks. So that it is not
        # what is said of the second end, the first is waited for.
        os.kill(pids["sender-0"], signal.SIGABRT)
        poll(lambda: ends(house) == 1, "one end is said")
        os.kill(pids["consumer-0"], signal.SIGKILL)
        poll(lambda: ends(house) == 2, "both ends are said")
        assert house.supervisor is not None
        house.supervisor.send_signal(signal.SIGHUP)
        house.hec.post("outage", on=False)
        # How much was set aside depends on how much was in the pulls that were damaged.
        poll(
            lambda: len(house.delivered()) > 1000 and not house.status()["spool"]["batches"],
            "what can be is delivered",
            120,
        )
        old = {None, *pids.values()}
        poll(lambda: not old & {child["pid"] for child in house.status()["children"]}, "all are replaced", 120)
        poll(lambda: any(h["name"] == "refused" for h in house.status()["holds"]), "the second source is held", 60)
        shown = "".join(page(house, what) for what in ("", "metrics", "status", "healthz", "readyz"))
        for command in (
            ("status",),
            ("config", "show"),
            ("check",),
            ("spool", "stats"),
            ("spool", "ls"),
            ("dead", "ls"),
        ):
            done = house.run(*command, "--json")
            plain = house.run(*command)
            shown += done.stdout + done.stderr + plain.stdout + plain.stderr
        for pid in house.tree():
            shown += Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        seen = bodies(house)
        assert house.stop() == 0, house.tail()
        assert_books(house)
        log = (tmp_path / "our.log").read_text()
        written = "".join(p.read_text(errors="replace") for p in (tmp_path / "spool" / "run").iterdir())
        everything = (tmp_path / "supervisor.log").read_text() + log + shown + written

        for secret in (KEY_SECRET, WRONG, TOKEN):
            assert secret not in everything
        assert len(seen) > 1000
        assert not [text for text in seen if len(text) > 16 and text in everything]
        assert not seen & words(everything)

        lines = [json.loads(line) for line in log.splitlines()]
        assert all(len(line) < 4096 for line in log.splitlines())
        events = {line["event"] for line in lines}
        assert {
            "child died",
            "settings reloaded; children are replaced one at a time",
            "source held",
            "stopped",
        } <= events
        assert {"supervisor", "consumer-0", "consumer-1", "sender-0", "sender-1"} <= {line["role"] for line in lines}
        stacks = [line for line in lines if line["event"] == "stderr"]
        assert any("Fatal Python error: " in line["text"] for line in stacks), (
            "the aborted child's stack is in the file"
        )
        assert [p.name for p in tmp_path.glob("our.log*")] == ["our.log"], "one file, without a pid"
