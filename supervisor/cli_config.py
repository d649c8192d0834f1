"""`config …`: a commented file, what is in force and where it came from, and the schema."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import fields
from typing import Any

import typer

from supervisor.cli_output import show
from supervisor.cli_spool import Config, Json

app = typer.Typer(no_args_is_help=True)

TEMPLATE = """\
# sls-siem. Every key is described in docs/configuration.md; `sls-siem check` tells what is wrong.

[supervisor]
# workers = 8                    # consumer processes; default: the CPU count, at most 8

[[source]]
project = "slsaudit-center-1234567890-cn-hangzhou"
logstore = "actiontrail_log"      # or a list of logstores
endpoint = "https://cn-hangzhou.log.aliyuncs.com"
consumer_group = "sls-siem"
start = "end"                     # the group's first run: begin | end | 2026-01-01T00:00:00+08:00 | -2h
access_key_id = "${SLS_AK_ID}"
access_key_secret = "${SLS_AK_KEY}"

# [[route]]
# topic = "actiontrail_*event"
# sourcetype = "aliyun:actiontrail"
# index = "cloud_audit"
# json_fields = ["event", "event.requestParameterJson"]

[hec]
urls = ["https://splunk.example.com:8088"]
token = "${SPLUNK_HEC_TOKEN}"     # or token_file = "/etc/sls-siem/hec-token", read again when it changes
# ca_file = "/etc/sls-siem/splunk-ca.pem"

[spool]
directory = "/var/lib/sls-siem"
# max_bytes = "10GiB"             # `sls-siem size` reckons what an outage needs

[status]
# listen = "127.0.0.1:9464"       # metrics, health and a page; "" turns it off
# health_events = true            # our state as an event in Splunk, each minute: sourcetype=sls_siem:health
"""


@app.command()
def init() -> None:
    """Print a commented settings file to begin with."""
    sys.stdout.write(TEMPLATE)


@app.command("show")
def show_settings(config: Config = None, json: Json = False) -> None:
    """What is in force and where each value came from; secrets are masked."""
    from supervisor.config import load_with_origins

    settings, origins = load_with_origins(config, secrets=False)
    found = flatten(settings, origins)
    rows: list[list[Any]] = [["key", "value", "from"]]
    rows += [[key, written(key, one["value"]), one["from"]] for key, one in found.items()]
    show({"settings": found}, json, rows)


def written(key: str, value: Any) -> str | None:
    """As it might stand in the file."""
    from supervisor.units import is_duration, is_size

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(value)
    if is_size(key) and value:
        shift = next(shift for shift in (40, 30, 20, 10, 0) if not value % (1 << shift))
        return f"{value >> shift}{ {40: 'TiB', 30: 'GiB', 20: 'MiB', 10: 'KiB', 0: 'B'}[shift] }"
    if is_duration(key) and value is not None:
        return f"{value:g}s"
    return None if value is None else str(value)


def flatten(settings: Any, origins: dict[str, str]) -> dict[str, dict[str, Any]]:
    """`hec.timeout` → value and origin; a source's keys under its name. A default that depends on others is reckoned."""
    from supervisor import memory

    found: dict[str, dict[str, Any]] = {}
    for section in ("supervisor", "memory", "hec", "spool", "status", "log"):
        _add(found, section, getattr(settings, section), origins)
    found["memory.budget"]["value"] = memory.budget(settings.memory.budget)
    found["spool.dead_letter_max_bytes"]["value"] = settings.spool.dead_letter_quota
    for source in settings.sources:
        _add(found, f"source.{source.name}", source, origins)
    for place, route in enumerate(settings.routes):
        _add(found, f"route.{route.name or place}", route, origins)
    return found


def _add(found: dict[str, dict[str, Any]], prefix: str, section: Any, origins: dict[str, str]) -> None:
    from supervisor.config import SECRETS, UNKNOWN

    for one in fields(section):
        value = getattr(section, one.name)
        if one.name in SECRETS and value:
            value = "**** (not to be had here)" if UNKNOWN in str(value) else "****"
        elif value is not None and not isinstance(value, str | int | float | bool | dict):
            value = [str(v) for v in value] if isinstance(value, tuple) else str(value)
        found[f"{prefix}.{one.name}"] = {"value": value, "from": origins.get(f"{prefix}.{one.name}", "default")}


@app.command()
def schema() -> None:
    """The JSON Schema of the settings file, for editors."""
    from supervisor.config import adapter
    from supervisor.config_schema import file_schema

    sys.stdout.write(json_module.dumps(file_schema(adapter().json_schema()), indent=2) + "\n")
