"""Settings: every kind of mistake at once, where values come from, and that no secret is ever shown."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from supervisor.cli_config import TEMPLATE, flatten, written
from supervisor.config import ConfigError, adapter, load, load_with_origins
from supervisor.config_schema import file_schema
from supervisor.settings import Settings

GOOD = """
[[source]]
project = "p"
logstore = "l"
endpoint = "https://cn-hangzhou.log.aliyuncs.com"
consumer_group = "g"
start = "end"
access_key_id = "id"
access_key_secret = "s3cret-value"
[hec]
urls = ["https://splunk:8088"]
token = "t0ken-value"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sls-siem.toml"
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, env: dict[str, str] | None = None, cli: dict[str, Any] | None = None) -> Settings:
    return load(write(tmp_path, text), cli, {"HOME": "/home/x", **(env or {})})


def problems(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text, env)
    assert "s3cret-value" not in str(raised.value)
    assert "t0ken-value" not in str(raised.value)
    return raised.value.problems


def test_all_mistakes_are_said_at_once_with_what_may_have_been_meant(tmp_path: Path) -> None:
    wrong = (
        GOOD.replace('"end"', '"yesterday"').replace("consumer_group", "consumer_grp")
        + 'in_flihgt = 4\ntimeout = "soon"\n[spool]\nmax_bytes = "many"\n[spol]\ndirectory = "x"\n[supervisor]\nworkers = "three"\n'
    )
    found = "\n".join(problems(tmp_path, wrong))
    for expected in (
        "source.consumer_grp: no such key; did you mean consumer_group?", "hec.in_flihgt: no such key; did you mean in_flight?",
        "[spol]: no such table; did you mean spool?", "hec.timeout: not a duration", "spool.max_bytes: not a size",
        "source.0.consumer_group: missing", "supervisor.workers: should be a valid integer",
    ):  # fmt: skip
        assert expected in found


CROSS = [
    ('"end"', '"2026-01-01T00:00:00"', "start"),
    ("https://cn-hangzhou.log.aliyuncs.com", "http://cn-hangzhou.log.aliyuncs.com", "plain http"),
    ("https://splunk:8088", "http://splunk:8088", "plain http"),
    ("https://splunk:8088", "splunk:8088", "hec.urls"),
    ("https://splunk:8088", "https://splunk:8088/services/collector", "the path"),
    ("https://splunk:8088", "https://splunk..corp:8088", "hec.urls.0: no address"),
    ("https://splunk:8088", "https://splunk:80880", "no number up to 65535"),
    ("https://splunk:8088", "https://[::1:8088", "brackets or characters"),
    ("https://splunk:8088", "https://spl unk:8088", "a blank in it"),
    ("https://cn-hangzhou.log.aliyuncs.com", "https://[cn", "endpoint: no address"),
    ("https://cn-hangzhou.log.aliyuncs.com", f"{'a' * 64}.com", "endpoint: no address"),
    ('start = "end"', 'start = "end"\nproxy = "http://a..b:3128"', "proxy: no address"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\nproxy = "http://user:pw@[b:3128"', "hec.proxy: no address"),
    ('token = "t0ken-value"', "", "hec.token"),
    ('access_key_secret = "s3cret-value"', "", "access_key_id"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\non_incorrect_index = "fallback"', "fallback_index"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\nack = "maybe"', "hec.ack"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\n[memory]\nbudget = "100MiB"', "memory.budget"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\n[status]\nlisten = "9464"', "status.listen"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\n[[route]]\n[[route]]\ntopic = "a"', "can never match"),
    ('start = "end"', 'start = "end"\nmax_groups = 5000', "max_groups"),
    ('token = "t0ken-value"', 'token = "two words"', "hec.token: must be printable"),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\nindex = "Cloud Audit"',
        "hec.index: 'Cloud Audit' is no name of an index",
    ),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\nproxy = "http://me:t0ken-value#1@b:3128"',
        "in a password, / ? # are written",
    ),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\nproxy = "http://me:t0ken-value\u2100@b:3128"',
        "characters that none",
    ),
    ("https://splunk:8088", "https://me:t0ken-value\u2100@splunk:8088", "hec.urls.0: no address"),
    ('access_key_id = "id"', 'access_key_id = "i\u200bd"', "access_key_id: must be printable"),
    (
        'access_key_secret = "s3cret-value"',
        'access_key_secret = "s3cret-value\\n"',
        "access_key_secret: must be printable",
    ),
    ('start = "end"', 'start = "end"\nsecurity_token = "s3cret-value\\n"', "security_token: must be printable"),
    ('start = "end"', 'start = "end"\nconsumer_timeout = "2s"', "consumer_timeout"),
    ('token = "t0ken-value"', 'token = "${NOT_SET}"', "NOT_SET"),
    ("https://splunk:8088", "https://me:t0ken-value@splunk:8088", "hec.urls.0: no user or password"),
    ("https://splunk:8088", "https://splunk:8088?channel=t0ken-value", "hec.urls.0: nothing behind a ?"),
    ("https://cn-hangzhou", "https://id:s3cret-value@cn-hangzhou", "endpoint: no user or password"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\ntimeout = 0', "hec.timeout: must be more than 0"),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\nconnect_timeout = -1',
        "hec.connect_timeout: must be more than 0",
    ),
    ('token = "t0ken-value"', 'token = "t0ken-value"\nack_timeout = nan', "hec.ack_timeout: must be more than 0"),
    ('token = "t0ken-value"', 'token = "t0ken-value"\nmax_unacked_bytes = 0', "nothing is ever sent"),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\nmax_bytes_per_second = -1',
        "hec.max_bytes_per_second: must not be less",
    ),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\n[supervisor]\nstop_timeout = inf',
        "supervisor.stop_timeout: must be",
    ),
    (
        'token = "t0ken-value"',
        'token = "t0ken-value"\n[spool]\nmin_free_bytes = -1',
        "spool.min_free_bytes: must not be less",
    ),
    (
        'start = "end"',
        'start = "end"\nheartbeat_interval = "0s"\nconsumer_timeout = "0s"',
        "source.l.consumer_timeout: must be more than 0",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CROSS, ids=[c[2] + " " + str(i) for i, c in enumerate(CROSS)])
def test_what_does_not_fit_together_is_said(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, GOOD.replace(old, new)))


ROUTES = [
    ('[[route]]\nlogstore = "l*"\n[[route]]\ntopic = "a"\nlogstore = "l*"', "route.1: can never match: an earlier"),
    ('[[route]]\nsource_name = "nobody"', "route.0: can never match: no source"),
    ('[[route]]\nname = "a"\ntopic = "x"\n[[route]]\nname = "a"\ntopic = "y"', "route.1.name: two routes"),
    ('[[route]]\nhost = "field:"', "route.0.host"),
    ('[[route]]\nhost = "source:x"', "route.0.host"),
    ('[[route]]\nhost = "="', "route.0.host"),
    ('[[route]]\nindex = "Main"', "route.0.index: 'Main' is no name of an index"),
    ('[[route]]\nindex = "-a"', "route.0.index"),
    ('[[route]]\ntoken = "two words"', "route.0.token: must be printable"),
    ('[[route]]\njson_fields = ["a", "a..b"]', "route.0.json_fields"),
    ('[[route]]\nfields = {"" = "x"}', "route.0.fields"),
    ('[[route]]\nfields = {a = {b = "x"}}', "route.0.fields"),
    ('[[route]]\nindx = "main"', "index"),
]


@pytest.mark.parametrize(("route", "expected"), ROUTES, ids=[f"{c[1]} {i}" for i, c in enumerate(ROUTES)])
def test_what_is_wrong_with_a_route_is_said(tmp_path: Path, route: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, f"{GOOD}\n{route}\n"))


def test_an_id_that_a_route_would_write_twice_is_said(tmp_path: Path) -> None:
    text = GOOD.replace('token = "t0ken-value"', 'token = "t0ken-value"\nid_field = "fields"')
    assert "route.0.fields" in "\n".join(problems(tmp_path, f'{text}\n[[route]]\nfields = {{sls_id = "x"}}\n'))


def test_routes_that_fit_together_are_taken(tmp_path: Path) -> None:
    text = f"""{GOOD}
[[route]]
topic = "actiontrail_*event"
sourcetype = "aliyun:actiontrail"
index = "cloud_audit"
json_fields = ["event", "event.requestParameterJson"]
[[route]]
topic = "waf*"
host = "field:matched_host"
fields = {{team = "x"}}
[[route]]
topic = "oss*"
logstore = "l"
host = "=h"
index = "_internal"
"""
    routes = read(tmp_path, text).routes
    assert [route.host for route in routes] == ["", "field:matched_host", "=h"]


@pytest.mark.parametrize("differs", ['query = "* | where a = 1"', 'endpoint = "cn-hangzhou.log.aliyuncs.com"'])
def test_two_sources_may_not_share_a_consumer_group_of_a_logstore(tmp_path: Path, differs: str) -> None:
    """SLS would share the shards out between them, and each would move the other's checkpoints."""
    first, rest = GOOD.split("[hec]")
    keys = {line.partition(" = ")[0]: line for line in [*first.split("\n")[2:], 'name = "second"', differs]}
    second = "[[source]]\n" + "\n".join(keys.values())
    found = problems(tmp_path, f"{first}{second}\n[hec]{rest}")
    assert "source.second.consumer_group: 'g' reads this logstore for source l already" in "\n".join(found)
    second = second.replace('"g"', '"h"')
    assert read(tmp_path, f"{first}{second}\n[hec]{rest}").sources[1].consumer_group == "h"


def test_addresses_with_which_connections_are_made_are_taken(tmp_path: Path) -> None:
    """What the clients strip, and what they quote."""
    spaced = GOOD.replace("https://cn-hangzhou.log.aliyuncs.com", " https://cn-hangzhou.log.aliyuncs.com\\n")
    spaced = spaced.replace("https://splunk:8088", " https://splunk.corp.:8088")
    assert read(tmp_path, f'{spaced}proxy = "http://me:a pass phrase@proxy:3128"').hec.proxy.endswith("@proxy:3128")


def test_urls_of_the_environment_may_have_blanks_between_them(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD, {"SLS_SIEM_HEC__URLS": "https://one:8088, https://two:8088 ,"})
    assert found.hec.urls == ("https://one:8088", "https://two:8088")


def test_two_tunnels_to_two_regions_are_two_places(tmp_path: Path) -> None:
    first, rest = GOOD.replace("cn-hangzhou.log.aliyuncs.com", "127.0.0.1:8443").split("[hec]")
    second = first.replace("8443", "8444") + 'name = "second"\n'
    assert len(read(tmp_path, f"{first}{second}[hec]{rest}").sources) == 2
    found = problems(tmp_path, f"{first}{second.replace('8444', '8443/')}[hec]{rest}")
    assert "source.second.consumer_group" in found[0]


def test_the_command_line_is_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    text = GOOD + '[supervisor]\nworkers = 3\nstop_timeout = "5s"\n'
    assert read(tmp_path, text).supervisor.workers == 3
    env = {"SLS_SIEM_SUPERVISOR__WORKERS": "4", "SLS_SIEM_HEC__TIMEOUT": "90s", "SLS_SIEM_SPOOL__MAX_BYTES": "2GiB"}
    found = read(tmp_path, text, env)
    assert (found.supervisor.workers, found.hec.timeout, found.spool.max_bytes) == (4, 90.0, 2 << 30)
    assert read(tmp_path, text, env, {"supervisor.workers": 5}).supervisor.workers == 5
    _, origins = load_with_origins(write(tmp_path, text), {"supervisor.senders": 1}, {"HOME": "/", **env})
    assert origins["supervisor.workers"].startswith("environment")
    assert origins["supervisor.senders"] == "command line"
    assert origins["supervisor.stop_timeout"] == "file"


def test_config_show_says_where_each_value_of_a_source_or_route_came_from(tmp_path: Path) -> None:
    text = GOOD.replace("[[source]]", '[source_defaults]\ncodec = "lz4"\n[[source]]', 1) + '[[route]]\nindex = "i"\n'
    settings, origins = load_with_origins(write(tmp_path, text), None, {"HOME": "/h"})
    shown = flatten(settings, origins)
    name = settings.sources[0].name
    assert shown[f"source.{name}.codec"] == {"value": "lz4", "from": "source_defaults"}
    assert shown[f"source.{name}.start"]["from"] == "file"
    assert shown[f"source.{name}.proxy"] == {"value": "", "from": "default"}
    assert (shown["route.0.index"]["from"], shown["route.0.topic"]["from"]) == ("file", "default")
    founding = {"SLS_ENDPOINT": "https://e", "SLS_PROJECT": "p", "SLS_LOGSTORE": "l", "SLS_CG": "g", "SLS_AK_ID": "i",
                "SLS_AK_KEY": "k", "SPLUNK_HEC_URL": "https://h", "SPLUNK_HEC_TOKEN": "t", "HOME": "/h"}  # fmt: skip
    settings, origins = load_with_origins(write(tmp_path, ""), None, founding)
    assert flatten(settings, origins)["source.l.project"] == {"value": "p", "from": "environment"}


def test_config_show_says_what_is_in_force_and_as_it_might_stand_in_the_file(tmp_path: Path) -> None:
    settings, origins = load_with_origins(write(tmp_path, GOOD), None, {"HOME": "/h"})
    shown = flatten(settings, origins)
    assert shown["spool.dead_letter_max_bytes"]["value"] == 1 << 30, "of the default of max_bytes"
    assert shown["memory.budget"]["value"] > 0
    for key, value, text in (
        ("spool.max_bytes", 10 << 30, "10GiB"), ("spool.max_bytes", 1000, "1000B"), ("hec.timeout", 120.0, "120s"),
        ("hec.max_bytes_per_second", 0, "0"), ("hec.gzip", True, "true"),
        ("hec.urls", ["a", "b"], "a, b"), ("hec.ca_file", None, None),
    ):  # fmt: skip
        assert written(key, value) == text


def test_an_unknown_variable_of_ours_is_an_error(tmp_path: Path) -> None:
    assert "did you mean token" in "\n".join(problems(tmp_path, GOOD, {"SLS_SIEM_HEC__TOKN": "x"}))


FOUNDING = {
    "HOME": "/h", "SLS_ENDPOINT": "https://a", "SLS_AK_ID": "i", "SLS_AK_KEY": "k", "SLS_PROJECT": "p", "SLS_LOGSTORE": "l",
    "SLS_CG": "g", "SPLUNK_HEC_URL": "https://x:8088, https://y:8088", "SPLUNK_HEC_TOKEN": "t",
}  # fmt: skip


def test_the_founding_documents_environment_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(environment=FOUNDING)
    assert found.hec.urls == ("https://x:8088", "https://y:8088")
    assert (found.sources[0].name, found.sources[0].start, found.sources[0].consumer_group) == ("l", "begin", "g")
    assert load(environment=FOUNDING | {"SLS_SIEM_START": "-2h"}).sources[0].start == "-2h"


def test_several_endpoints_projects_and_logstores_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = {"SLS_ENDPOINTS": "https://a;https://b", "SLS_PROJECTS": "p1;p2", "SLS_LOGSTORES": "l1;l2_1,l2_2"}
    found = load(environment=FOUNDING | many)
    assert [(s.endpoint, s.project, s.logstore) for s in found.sources] == [
        ("https://a", "p1", "l1"), ("https://b", "p2", "l2_1"), ("https://b", "p2", "l2_2"),
    ]  # fmt: skip


def test_defaults_of_sources_lists_of_logstores_and_references(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "hec").write_text("from-systemd\n")
    text = f"""
[source_defaults]
endpoint = "https://e"
access_key_id = "${{KEY}}"
access_key_secret = "${{SECRET:-fallback}}"
consumer_group = "g"
start = "-2h"
[[source]]
project = "p"
logstore = ["a", "b"]
[[source]]
name = "mine"
project = "q"
logstore = "a"
start = "begin"
[hec]
urls = ["https://s:8088"]
token = "${{file:{tmp_path}/token}}"
[[route]]
topic = "x"
token = "${{credential:hec}}"
"""
    found = read(tmp_path, text, {"KEY": "k", "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert [(s.name, s.start, s.access_key_id, s.access_key_secret) for s in found.sources] == [
        ("a", "-2h", "k", "fallback"), ("b", "-2h", "k", "fallback"), ("mine", "begin", "k", "fallback"),
    ]  # fmt: skip
    assert (found.hec.token, found.routes[0].token) == ("from-file", "from-systemd")


def test_no_secret_in_repr_or_config_show(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    settings, origins = load_with_origins(path, None, {"HOME": "/h"})
    shown = repr(settings) + json.dumps(flatten(settings, origins))
    assert "s3cret-value" not in shown
    assert "t0ken-value" not in shown
    assert flatten(settings, origins)["hec.token"] == {"value": "****", "from": "file"}


def test_the_commented_file_that_init_prints_is_good(tmp_path: Path) -> None:
    found = read(tmp_path, TEMPLATE, {"SLS_AK_ID": "i", "SLS_AK_KEY": "k", "SPLUNK_HEC_TOKEN": "t"})
    assert found.sources[0].logstore == "actiontrail_log"
    everything = TEMPLATE.replace("\n# ", "\n")
    assert read(
        tmp_path, everything.split("\n", 2)[2], {"SLS_AK_ID": "i", "SLS_AK_KEY": "k", "SPLUNK_HEC_TOKEN": "t"}
    ).routes


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ('spool = "/var/lib/sls-siem"', "spool: write it as [spool]"), ("hec = 5", "hec: write it as [hec]"),
        ('source = ["actiontrail_log"]', "source: write it as [[source]]"), ("route = [1]", "route: write it as [[route]]"),
        ("[route]\nindex = 'i'", "route: write it as [[route]]"), ("[[spool]]", "spool: write it as [spool]"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_said(tmp_path: Path, wrong: str, expected: str) -> None:
    assert expected in problems(tmp_path, wrong)


def test_a_file_behind_a_value_that_is_no_text_is_said_without_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes("s3cret-value".encode("utf-16"))
    found = problems(tmp_path, GOOD.replace("t0ken-value", f"${{file:{tmp_path}/token}}"))
    assert f"hec.token: ${{file:{tmp_path}/token}} cannot be resolved: not UTF-8 text" in found
    assert "null byte" in problems(tmp_path, GOOD.replace("t0ken-value", "${file:/a\\u0000b}"))[0]


def test_a_file_that_is_no_toml_or_is_missing_is_said(tmp_path: Path) -> None:
    assert "not TOML" in problems(tmp_path, "[[source")[0]
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.toml", environment={"HOME": "/"})


def test_whoever_only_looks_needs_no_secrets(tmp_path: Path) -> None:
    """As root in a shell: systemd has given the credentials to the service, and its environment is another."""
    text = GOOD.replace("t0ken-value", "${credential:hec_token}").replace('"id"', '"${SLS_KEY_OF_THE_SERVICE}"')
    assert text.count("${") == 2
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as found:
        load(path, environment={"HOME": "/root"})
    assert "to the service alone" in str(found.value)
    assert "CREDENTIALS_DIRECTORY=/etc/sls-siem/credentials" in str(found.value), (
        "it may be stopped, and must for group reset"
    )
    assert load(path, environment={"HOME": "/root"}, secrets=False).hec.urls
    path.write_text(text.replace("[hec]", '[hec]\nindex = "${NOWHERE}"'))
    with pytest.raises(ConfigError, match=r"hec.index: \$\{NOWHERE\} cannot be resolved: not in the environment"):
        load(path, environment={"HOME": "/root"}, secrets=False)


def faults(text: str) -> list[str]:
    """What an editor says of a file, by the schema that we print."""
    schema = file_schema(adapter().json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return [fault.message for fault in jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text))]


def test_an_editor_takes_what_we_take_by_the_schema(tmp_path: Path) -> None:
    whole = f"""{GOOD}timeout = "90s"
connect_timeout = 5
max_request_bytes = "2MiB"
gzip = "${{GZIP:-true}}"
in_flight = "${{IN_FLIGHT:-4}}"
[source_defaults]
codec = "lz4"
consumer_timeout = "1m"
[[source]]
project = "p"
logstore = ["a", "b"]
endpoint = "https://e"
consumer_group = "h"
start = "-2h"
credentials_file = "/k"
[[route]]
topic = "x*"
json_fields = ["a.b"]
fields = {{team = "x"}}
[supervisor]
workers = 3
stop_timeout = 20.5
[memory]
budget = "16GiB"
[spool]
max_bytes = 1073741824
[status]
listen = ""
[log]
file = "/l"
"""
    assert read(tmp_path, whole).hec.timeout == 90.0
    for text in (whole, TEMPLATE, TEMPLATE.replace("\n# ", "\n").split("\n", 2)[2], ""):
        assert faults(text) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "[hec]\ntimout = 1", "[sources]", "[source]\nproject = 'p'", "[supervisor]\nworkers = 'many'",
        "[[source]]\ncodec = 'gzip'", "[hec]\nurls = 'https://one'", "[spool]\nmax_bytes = true", "[memory]\nbudget = [1]",
    ],
)  # fmt: skip
def test_an_editor_finds_mistakes_by_the_schema(wrong: str) -> None:
    assert faults(wrong)
