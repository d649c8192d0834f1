"""A bench for the commands: both emulators, a spool with something in it, a settings file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from buffer.reader import LaneReader
from buffer.values import Tally
from tests.buffer.power.workload import letter
from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.emulators.sls import SlsEmulator
from tests.worker.sending import Sending, log_group

ROOT = Path(__file__).resolve().parents[2]
#: The sls_id of the one dead letter.
LETTER = "e3b09f8e-0-1000-0"


class Bench:
    """Both emulators, a spool with something in it, a settings file."""

    def __init__(self, work: Path, sls: SlsEmulator, hec: HecEmulator) -> None:
        self.work, self.sls, self.hec = work, sls, hec
        self.config = work / "sls-siem.toml"
        self.write()

    def write(self, **changes: str) -> None:
        values = {
            "secret": "sk", "logstore": "l", "token": TOKEN, "index": "", "hec": self.hec.url, "sls": self.sls.endpoint,
        } | changes  # fmt: skip
        self.config.write_text(f"""
[supervisor]
workers = 1
[memory]
budget = "1GiB"
[[source]]
project = "p"
logstore = "{values["logstore"]}"
endpoint = "{values["sls"]}"
consumer_group = "g"
start = "begin"
access_key_id = "ak"
access_key_secret = "{values["secret"]}"
[hec]
urls = ["{values["hec"]}"]
token = "{values["token"]}"
index = "{values["index"]}"
[status]
listen = ""
[spool]
directory = "{self.work / "spool"}"
min_free_bytes = "1MiB"
max_bytes = "64MiB"
""")

    @property
    def spool(self) -> Path:
        """Its directory."""
        return self.work / "spool"

    @property
    def environment(self) -> dict[str, str]:
        """Without what would change the settings."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("SLS_", "SPLUNK_"))}

    def copy(self, source: Path, target: Path) -> None:
        """With its FIFOs."""
        subprocess.run(["cp", "-a", str(source), str(target)], check=True, timeout=60)

    def command(self, *words: str) -> list[str]:
        """`sls-siem …`, with our settings where it takes some."""
        takes_none = words[0] in {"version", "size"} or words[:2] in {("config", "init"), ("config", "schema")}
        with_config = [] if takes_none else ["--config", str(self.config)]
        return [sys.executable, "-m", "supervisor", *words, *with_config]

    def run(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            env=self.environment | (env or {}),
        )  # fmt: skip

    def json(self, *command: str) -> Any:
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def filled(work: Path) -> Iterator[Bench]:
    """One batch of two events and one dead letter wait; SLS has 200 logs."""
    with SlsEmulator(shards=2) as sls, HecEmulator(tokens=[Token(TOKEN, indexes=("main",))]) as hec:
        sls.fill(200)
        made = Bench(work, sls, hec)
        with_letters = Sending(work, [hec.url], TOKEN)
        with_letters.put(logs=3)
        with_letters.put(topic="other", logs=2)
        reader = LaneReader.open(with_letters.lane, with_letters.settings.spool)
        buried = replace(letter(LETTER, "dead"), log=log_group("t", [{"n": "0"}]))
        reader.ack(reader.read(0, 1, 1), [buried], Tally({"main": 3}, {"main": 2}))
        reader.close()
        with_letters.close()
        yield made
