"""The JSON Schema of the settings file, for editors: what may stand in the file, not what is made of it. Pure."""

from __future__ import annotations

from typing import Any

from supervisor.units import DURATION_KEYS, SIZE_KEYS

#: Fields of Settings → the tables of the file, of which there may be many.
TABLES = {"sources": "source", "routes": "route"}
REFERENCE = {"type": "string", "pattern": r"\$\{[^}]*\}"}


def file_schema(made: dict[str, Any]) -> dict[str, Any]:
    """From the schema of `Settings`. Nothing is required: it may be in the environment, or in `[source_defaults]`."""
    tables = {name: _table(section) for name, section in made["$defs"].items()}
    properties = {TABLES.get(field, field): shown for field, shown in made["properties"].items()}
    properties["source_defaults"] = properties["source"]["items"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sls-siem", "type": "object",
        "additionalProperties": False, "properties": properties, "$defs": tables,
    }  # fmt: skip


def _table(section: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in section.items() if key != "required"}
    return found | {"properties": {key: _key(key, shown) for key, shown in section["properties"].items()}}


def _key(name: str, shown: dict[str, Any]) -> dict[str, Any]:
    """As it may be written: "10GiB", "90s", "${ENV}" in place of anything, a list of logstores."""
    told = {key: shown[key] for key in ("title", "description", "default") if key in shown}
    kind = {key: value for key, value in shown.items() if key not in told}
    if name in SIZE_KEYS | DURATION_KEYS:
        return told | {"anyOf": [kind, {"type": "string"}]}
    if name == "logstore":
        return told | {"anyOf": [kind, {"type": "array", "items": kind}]}
    return shown if kind.get("type") == "string" and "enum" not in kind else told | {"anyOf": [kind, REFERENCE]}
