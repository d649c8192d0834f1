"""`check`: each step by breaking the real thing, and its remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.hec import TOKEN, HecEmulator
from tests.emulators.hec_rules import Token
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_client import SlsClient
from tests.supervisor.cli_bench import Bench, filled

pytestmark = pytest.mark.xdist_group("check")
OTHER = "00000000-0000-4000-8000-00000000000f"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with filled(tmp_path_factory.mktemp("check")) as bench:
        yield bench


@pytest.fixture
def bench(made: Bench) -> Iterator[Bench]:
    """And mended afterwards."""
    made.write(index="main")
    keys, tokens = dict(made.sls.service.keys), dict(made.hec.tokens)
    yield made
    made.sls.service.keys.clear()
    made.sls.service.keys.update(keys)
    made.hec.tokens = tokens
    made.sls.clock.skew = 0.0


def steps(
    bench: Bench, *options: str, code: int = 0, env: dict[str, str] | None = None
) -> dict[str, tuple[str, str, str]]:
    """name → result, text, remedy; a bad certificate of the URL is cut out of the name."""
    done = bench.run("check", "--json", *options, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] == (not code)
    found: dict[str, tuple[str, str, str]] = {}
    for step in document["steps"]:
        name = step["name"].replace(bench.hec.url, "splunk")
        before = f"{found[name][1]}; " if name in found else ""
        found[name] = step["result"], before + step["text"], step["remedy"] or ""
    return found


def append(bench: Bench, toml: str) -> None:
    bench.config.write_text(bench.config.read_text() + toml)


def change(bench: Bench, old: str, new: str) -> None:
    text = bench.config.read_text()
    assert old in text
    bench.config.write_text(text.replace(old, new))


def test_all_is_well_step_by_step_and_splunk_has_the_probe(bench: Bench) -> None:
    bench.hec.knobs.keep_envelopes = True
    found = steps(bench)
    assert list(found) == [
        "settings", "spool directory", "file system", "flush", "space", "sqlite", "memory", "encoder", "sls l dns", "sls l tcp",
        "sls l clock", "sls l logstore", "sls l retention", "sls l group", "sls l read", "hec splunk dns", "hec splunk tcp",
        "hec splunk health", "hec splunk token", "hec splunk index main",
    ]  # fmt: skip
    assert {result for result, _, _ in found.values()} <= {"OK", "WARN"}
    probes = [one for one in bench.hec.envelopes if one["sourcetype"] == "sls_siem:probe"]
    assert [one["index"] for one in probes] == ["main"]
    assert "sourcetype=sls_siem:probe" in found["hec splunk index main"][1]
    steps(bench, "--no-probe")
    assert len([one for one in bench.hec.envelopes if one["sourcetype"] == "sls_siem:probe"]) == 1
    assert not bench.sls.store().groups, "nothing was joined or made"
    assert list(steps(bench, "--offline")) == list(found)[:8]


def test_a_step_is_told_at_once_with_its_remedy_below(bench: Bench) -> None:
    bench.write(index="secret")
    done = bench.run("check")
    assert done.returncode == 69
    lines = done.stdout.splitlines()
    assert lines[0] == "OK    settings: 1 sources, 0 routes"
    failed = next(place for place, line in enumerate(lines) if line.startswith("FAIL"))
    assert "Incorrect index" in lines[failed]
    assert lines[failed + 1] == "      do: add it to the token's allowed indexes"


def clock(seconds: float) -> Callable[[Bench], None]:
    def skew(bench: Bench) -> None:
        bench.sls.clock.skew = seconds

    return skew


def allowed(*actions: str) -> Callable[[Bench], None]:
    def restrict(bench: Bench) -> None:
        bench.sls.service.keys["ak"] = AccessKey("ak", "sk", allowed=frozenset(actions))

    return restrict


def thirty_groups(bench: Bench) -> None:
    with SlsClient(bench.sls) as client:
        for number in range(30):
            client.sdk.create_consumer_group("p", "l", f"old-{number}", 30, False)


def ack_required(bench: Bench) -> None:
    change(bench, "[hec]\n", '[hec]\nack = "required"\n')


def ack_off(bench: Bench) -> None:
    bench.hec.tokens[TOKEN] = Token(TOKEN, indexes=("main",), ack=True)
    change(bench, "[hec]\n", '[hec]\nack = "off"\n')


def route_token(bench: Bench) -> None:
    append(bench, f'[[route]]\nname = "waf"\ntopic = "waf*"\ntoken = "{OTHER}"\n')


def route_index(bench: Bench) -> None:
    bench.hec.tokens[OTHER] = Token(OTHER, indexes=("other",))
    append(bench, f'[[route]]\nname = "waf"\ntopic = "waf*"\ntoken = "{OTHER}"\nindex = "web"\n')


def fallback_of_a_route(bench: Bench) -> None:
    bench.hec.tokens = {TOKEN: Token(TOKEN, indexes=("main", "rest")), OTHER: Token(OTHER, indexes=("web",))}
    change(bench, "[hec]\n", '[hec]\non_incorrect_index = "fallback"\nfallback_index = "rest"\n')
    append(bench, f'[[route]]\nname = "waf"\ntopic = "waf*"\ntoken = "{OTHER}"\nindex = "web"\n')


def proxy(bench: Bench) -> None:
    change(bench, "[hec]\n", '[hec]\nproxy = "http://127.0.0.1:1"\n')


def bad_settings(bench: Bench) -> None:
    change(bench, "workers = 1", "workers = 1000\nwrokers = 1")


def setting(name: str, value: str) -> Callable[[Bench], None]:
    def put(bench: Bench) -> None:
        old = next(line for line in bench.config.read_text().splitlines() if line.startswith(f"{name} = "))
        change(bench, old, f'{name} = "{value}"')

    return put


def an_unknown_key(bench: Bench) -> None:
    bench.sls.service.keys.clear()


def an_expired_token(bench: Bench) -> None:
    bench.sls.service.keys["ak"] = AccessKey("ak", "sk", token="t", expires=1.0)
    change(bench, 'access_key_id = "ak"', 'access_key_id = "ak"\nsecurity_token = "t"')


def small_memory(bench: Bench) -> None:
    change(bench, "1GiB", "100MiB")


ALL = ("log:ListShards", "log:GetLogStore", "log:GetCursorOrData", "log:ListConsumerGroup")


@pytest.mark.parametrize(
    ("harm", "code", "name", "result", "text", "remedy"),
    [
        (bad_settings, 78, "settings", "FAIL", "must be 1 to 256", "docs/configuration.md"),
        (small_memory, 78, "settings", "FAIL", "need at least", "docs/configuration.md"),
        (setting("access_key_secret", "x"), 77, "sls l logstore", "FAIL", "SignatureNotMatch", "check access_key_id"),
        (an_unknown_key, 77, "sls l logstore", "FAIL", "Unauthorized", "check access_key_id"),
        (an_expired_token, 77, "sls l logstore", "FAIL", "has expired", "security_token"),
        (setting("project", "nowhere"), 69, "sls l logstore", "FAIL", "ProjectNotExist", "check project, logstore"),
        (setting("logstore", "none"), 69, "sls none logstore", "FAIL", "LogStoreNotExist", "the endpoint's region"),
        (clock(120), 0, "sls l clock", "WARN", " s behind theirs", "timedatectl"),
        (clock(-7200), 69, "sls l clock", "FAIL", "s ahead of theirs", "timedatectl"),
        (clock(-7200), 69, "sls l logstore", "FAIL", "RequestTimeTooSkewed", "set this host's clock"),
        (allowed(*ALL[1:]), 77, "sls l logstore", "FAIL", "denied by", "allow log:ListShards to the RAM user"),
        (allowed(ALL[0], *ALL[2:]), 77, "sls l retention", "FAIL", "denied by", "allow log:GetLogStore to the RAM user"),
        (allowed(*ALL[:2], ALL[3]), 77, "sls l read", "FAIL", "denied by", "allow log:GetCursorOrData to the RAM user"),
        (allowed(*ALL[:3]), 77, "sls l group", "FAIL", "denied by", "allow log:ListConsumerGroup to the RAM user"),
        (ack_required, 69, "hec splunk token", "FAIL", "acknowledgement off", 'turn "indexer acknowledgement" on'),
        (ack_off, 0, "hec splunk token", "WARN", "wants acknowledgement", "set hec.ack to auto"),
        (ack_off, 0, "hec splunk index main", "OK", "a probe event was accepted", ""),
        (route_token, 77, "hec splunk token of route waf", "FAIL", "403/4: Invalid token", "token"),
        (route_index, 69, "hec splunk index web", "FAIL", "Incorrect index", "add it to the token's allowed indexes"),
        (fallback_of_a_route, 69, "hec splunk index rest", "FAIL", "Incorrect index", "add it to the token's allowed indexes"),
        (proxy, 69, "hec splunk proxy tcp", "FAIL", "127.0.0.1:1", "is the port open from here?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_remedy(
    bench: Bench, harm: Callable[[Bench], None], code: int, name: str, result: str, text: str, remedy: str
) -> None:
    harm(bench)
    found = steps(bench, code=code)
    assert found[name][0] == result, found
    assert text in found[name][1]
    assert remedy in found[name][2]
    if name != "settings":
        assert "sls l dns" in found or "sls none dns" in found, (
            "one failure does not keep the others from being looked at"
        )


def test_a_proxy_of_the_environment_is_looked_at_and_not_what_lies_behind_it(bench: Bench) -> None:
    """As the consumers go: the endpoint's name may mean nothing to this host."""
    bench.write(index="main", sls="http://sls.test")
    change(bench, 'start = "begin"', 'start = "begin"\nallow_plaintext = true')
    way = {"http_proxy": bench.sls.proxy.removeprefix("http://"), "no_proxy": "127.0.0.1"}
    found = steps(bench, env=way)
    assert (found["sls l proxy tcp"][0], found["sls l read"][0]) == ("OK", "OK")
    assert "sls l dns" not in found
    assert found["hec splunk tcp"][0] == "OK", "which no_proxy excepts"
    found = steps(bench, env=way | {"http_proxy": "http://127.0.0.1:1"}, code=69)
    assert found["sls l proxy tcp"][0] == "FAIL"
    assert "sls l logstore" not in found


def test_the_one_proxy_of_the_environment_for_all_is_looked_at_for_splunk(bench: Bench) -> None:
    """As the senders go; consumers heed HTTP_PROXY and HTTPS_PROXY only."""
    change(bench, str(bench.hec.url), "http://splunk.test")
    change(bench, "[hec]\n", "[hec]\nallow_plaintext = true\n")
    way = {"all_proxy": "http://127.0.0.1:1", "http_proxy": "", "https_proxy": "", "no_proxy": "127.0.0.1"}
    found = steps(bench, env=way, code=69)
    assert found["hec http://splunk.test proxy tcp"][0] == "FAIL"
    assert found["sls l tcp"][0] == "OK"


def test_a_full_quota_of_groups_names_them_and_the_command_that_deletes_one(bench: Bench) -> None:
    thirty_groups(bench)
    try:
        result, text, remedy = steps(bench, code=69)["sls l group"]
        assert (result, "30 of 30" in text, "old-7" in text) == ("FAIL", True, True)
        assert "sls-siem group delete" in remedy
    finally:
        bench.sls.store().groups.clear()


def test_certificates(bench: Bench) -> None:
    with HecEmulator(tls=True, tokens=[Token(TOKEN)]) as hec:
        bench.write(hec=hec.url)
        name = f"hec {hec.url} tls"
        result, text, remedy = steps(bench, code=69)[name]
        assert (result, "ca_file" in remedy) == ("FAIL", True), text
        trusting = steps(bench, env={"REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": str(hec.ca_file)})
        assert trusting[name][0] in {"OK", "WARN"}, "as the senders do, it trusts whom the machine trusts"
        change(bench, "[hec]\n", "[hec]\nverify_tls = false\n")
        assert steps(bench)[name][0] == "WARN"
        change(bench, "verify_tls = false", f'ca_file = "{hec.ca_file}"')
        result, text, _ = steps(bench)[name]
        assert result in {"OK", "WARN"}
        assert "127.0.0.1" in text, "whose certificate it is"
        assert "expires in" in text


def unwritable(work: Path) -> str:
    """A spool below a file system that is read-only."""
    folder = work / "ro"
    folder.mkdir(exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "x", str(folder)], check=False).returncode:
        pytest.skip("needs root and mounts")
    return str(folder / "spool")


def test_the_disk(bench: Bench) -> None:
    spool = str(bench.spool)
    change(bench, "64MiB", "1000TiB")
    assert steps(bench, "--offline")["space"][0] == "WARN"
    change(bench, spool, "/dev/shm/sls-siem-check/spool")
    result, text, remedy = steps(bench, "--offline", code=74)["file system"]
    assert (result, text, "ext4" in remedy) == ("FAIL", "tmpfs", True)
    change(bench, "/dev/shm/sls-siem-check/spool", str(bench.work / "foreign"))
    (bench.work / "foreign").mkdir(exist_ok=True)
    (bench.work / "foreign" / "holiday.jpg").touch()
    assert steps(bench, "--offline")["spool directory"][0] == "WARN"
    where = unwritable(bench.work)
    try:
        change(bench, str(bench.work / "foreign"), where)
        result, text, remedy = steps(bench, "--offline", code=74)["spool directory"]
        assert (result, "cannot be written" in text, "owner and permissions" in remedy) == ("FAIL", True, True)
    finally:
        subprocess.run(["umount", str(Path(where).parent)], check=True)


def test_nothing_is_left_behind_on_the_disk(bench: Bench) -> None:
    before: Any = sorted(str(path) for path in bench.work.rglob("*"))
    steps(bench, "--offline")
    assert sorted(str(path) for path in bench.work.rglob("*")) == before
    assert shutil.disk_usage(bench.work).free
