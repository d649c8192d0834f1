"""The only door to pydantic: file, environment and command line → frozen Settings, or all that is wrong with them at once.

Precedence: command line, environment (`SLS_SIEM_<TABLE>__<KEY>`), file, default. Values and secrets are never echoed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from buffer.settings import SpoolSettings
from supervisor.founding import founding_environment
from supervisor.settings import MemorySettings, Settings, StatusSettings, SupervisorSettings
from supervisor.settings_checks import cross_check
from supervisor.units import convert
from worker.settings import HecSettings, LogSettings, RouteSettings, SourceSettings

SECTIONS: dict[str, type] = {
    "supervisor": SupervisorSettings, "memory": MemorySettings, "source_defaults": SourceSettings, "source": SourceSettings,
    "route": RouteSettings, "hec": HecSettings, "spool": SpoolSettings, "status": StatusSettings, "log": LogSettings,
}  # fmt: skip
SECRETS = {"access_key_id", "access_key_secret", "security_token", "token", "proxy"}
#: In place of a secret that cannot be had here. Where root finds those of a service that runs.
UNKNOWN, OF_THE_SERVICE = "unknown-here", "/run/credentials/sls-siem.service"
MEND = "mend the settings; `sls-siem config init` prints a commented file"
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class ConfigError(Exception):
    """Everything that is wrong, a line each. Exit 78."""

    def __init__(self, problems: list[str], hint: str = MEND) -> None:
        super().__init__("\n".join(problems))
        self.problems, self.hint = problems, hint


def find_file(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    """--config, $SLS_SIEM_CONFIG, ./sls-siem.toml, /etc/sls-siem/config.toml."""
    if given is not None:
        return given
    if named := environment.get("SLS_SIEM_CONFIG"):
        return Path(named)
    for candidate in (Path("sls-siem.toml"), Path("/etc/sls-siem/config.toml")):
        if candidate.exists():
            return candidate
    return None


def load(
    path: Path | None = None,
    command_line: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    secrets: bool = True,
) -> Settings:
    """The settings. Raises ConfigError.

    Without `secrets` one that cannot be had here (systemd gives credentials to the service alone, a shell lacks its environment)
    is no error: whoever only looks at the spool needs none.
    """
    return load_with_origins(path, command_line, environment, secrets=secrets)[0]


def load_with_origins(
    path: Path | None = None,
    command_line: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    secrets: bool = True,
) -> tuple[Settings, dict[str, str]]:
    """The settings, and where each value came from: `hec.timeout` → file, source_defaults, environment, command line, default."""
    environment = os.environ if environment is None else environment
    problems: list[str] = []
    origins = dict[str, str]()
    tables = _read(find_file(path, environment))
    for section, table in tables.items():
        if isinstance(table, dict):
            origins.update(dict.fromkeys((f"{section}.{key}" for key in table), "file"))
    _check_keys(tables, problems)
    _overlay_environment(tables, environment, origins, problems)
    for dotted, value in (command_line or {}).items():
        if value is not None:
            section, _, key = dotted.partition(".")
            tables.setdefault(section, {})[key] = value
            origins[dotted] = "command line"
    tables = _resolve(tables, environment, problems, "", secrets=secrets)
    has_file = bool(tables.get("source"))
    founding_environment(tables, environment, origins, has_file=has_file)
    convert(tables, problems)
    _defaults(tables, environment)
    settings = _validate(_shape(tables, problems, origins, "file" if has_file else "environment"), problems)
    if settings is not None:
        problems += cross_check(settings)
    if problems or settings is None:
        raise ConfigError(problems or ["nothing is set"])
    return settings, origins


def _read(path: Path | None) -> dict[str, Any]:
    """The tables. Where they cannot be had, nothing else can be said of them."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        hint = "run it as root or as the service does: sudo -u sls-siem sls-siem …"
        raise ConfigError([f"{path}: {error.strerror}"], hint) from error
    except OSError as error:
        hint = "name another file (--config, $SLS_SIEM_CONFIG); `sls-siem config init` prints one to begin with"
        raise ConfigError([f"{path}: {error.strerror}"], hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from error


def _check_keys(tables: dict[str, Any], problems: list[str]) -> None:
    """Unknown tables and keys, with what may have been meant; they are taken out, so that each is said once."""
    for section in list(tables):
        if section not in SECTIONS:
            problems.append(f"[{section}]: no such table{suggest(section, SECTIONS)}")
            del tables[section]
            continue
        many, found = section in {"source", "route"}, tables[section]
        rows = found if isinstance(found, list) else [found]
        if many != isinstance(found, list) or not all(isinstance(row, dict) for row in rows):
            problems.append(f"{section}: write it as {f'[[{section}]]' if many else f'[{section}]'}")
            del tables[section]
            continue
        known = [f.name for f in fields(SECTIONS[section])]
        for row in rows:
            for key in [key for key in row if key not in known]:
                problems.append(f"{section}.{key}: no such key{suggest(key, known)}")
                del row[key]


def suggest(wrong: str, known: Any) -> str:
    """`; did you mean …?`"""
    close = difflib.get_close_matches(wrong, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _overlay_environment(
    tables: dict[str, Any], environment: Mapping[str, str], origins: dict[str, str], problems: list[str]
) -> None:
    for name, value in environment.items():
        if not name.startswith("SLS_SIEM_") or "__" not in name:
            continue
        section, _, key = name.removeprefix("SLS_SIEM_").lower().partition("__")
        if section not in SECTIONS or section in {"source", "route"}:
            problems.append(f"${name}: no such table{suggest(section, SECTIONS)}")
        elif key not in (known := [f.name for f in fields(SECTIONS[section])]):
            problems.append(f"${name}: no such key{suggest(key, known)}")
        else:
            urls = [url.strip() for url in value.split(",") if url.strip()]
            tables.setdefault(section, {})[key] = urls if key == "urls" else value
            origins[f"{section}.{key}"] = f"environment ({name})"


def _resolve(value: Any, environment: Mapping[str, str], problems: list[str], where: str, *, secrets: bool) -> Any:
    """`${ENV}`, `${ENV:-default}`, `${file:/path}`, `${credential:name}` inside any text."""
    if isinstance(value, dict):
        return {
            key: _resolve(one, environment, problems, f"{where}.{key}".lstrip("."), secrets=secrets)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_resolve(one, environment, problems, where, secrets=secrets) for one in value]
    if not isinstance(value, str):
        return value

    def look_up(found: re.Match[str]) -> str:
        try:
            return _look_up(found[1], environment)
        except (KeyError, OSError, ValueError) as error:
            if not secrets and where.rpartition(".")[2] in SECRETS:
                return UNKNOWN
            why = _why(error)
            problems.append(f"{where}: ${{{found[1].partition(':-')[0]}}} cannot be resolved: {why}")
            return ""

    return _REFERENCE.sub(look_up, value)


def _why(error: KeyError | OSError | ValueError) -> str | None:
    """Without what the file holds: it may be a secret in another encoding."""
    if isinstance(error, OSError):
        return error.strerror
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.args[0])


def _look_up(reference: str, environment: Mapping[str, str]) -> str:
    if reference.startswith("file:"):
        return Path(reference[5:]).read_text(encoding="utf-8").strip()
    if reference.startswith("credential:"):
        directory = environment.get("CREDENTIALS_DIRECTORY") or OF_THE_SERVICE
        try:
            return Path(directory, reference[11:]).read_text(encoding="utf-8").strip()
        except OSError as error:
            if directory != OF_THE_SERVICE:
                raise
            raise KeyError(
                "systemd gives credentials (LoadCredential=) to the service alone; root may have them while it runs, and else from"
                " where LoadCredential= takes them: CREDENTIALS_DIRECTORY=/etc/sls-siem/credentials"
            ) from error
    name, has_default, default = reference.partition(":-")
    if name in environment:
        return environment[name]
    if has_default:
        return default
    raise KeyError("not in the environment")


def _defaults(tables: dict[str, Any], environment: Mapping[str, str]) -> None:
    supervisor = tables.setdefault("supervisor", {})
    supervisor.setdefault("workers", min(os.cpu_count() or 1, 8))
    supervisor.setdefault("senders", supervisor["workers"])
    state = environment.get("STATE_DIRECTORY", "").split(":")[0]
    home = Path(environment.get("HOME", "/var/lib")) / ".local/state/sls-siem"
    tables.setdefault("spool", {}).setdefault("directory", state or str(home))
    for section in ("memory", "status", "log"):
        tables.setdefault(section, {})


def _shape(tables: dict[str, Any], problems: list[str], origins: dict[str, str], came_from: str) -> dict[str, Any]:
    """From tables of the file to the fields of Settings: defaults of sources laid under, lists of logstores unrolled."""
    common = tables.pop("source_defaults", {})
    sources: list[dict[str, Any]] = []
    for row in tables.pop("source", []):
        whole = {**common, **row}
        logstores = whole.get("logstore", [])
        for logstore in logstores if isinstance(logstores, list) else [logstores]:
            named = whole.get("name") if not isinstance(logstores, list) or len(logstores) == 1 else None
            sources.append({**whole, "logstore": logstore, "name": named or logstore})
            for key in whole:
                laid_under = key in common and key not in row
                origins[f"source.{named or logstore}.{key}"] = "source_defaults" if laid_under else came_from
    if not sources:
        problems.append("no [[source]]: name a logstore in the file, or set SLS_ENDPOINT, SLS_PROJECT, SLS_LOGSTORE, …")
    routes = tables.pop("route", [])
    for place, row in enumerate(routes):
        origins.update(dict.fromkeys((f"route.{row.get('name') or place}.{key}" for key in row), "file"))
    return {**tables, "sources": sources, "routes": routes}


@cache
def adapter() -> TypeAdapter[Settings]:
    """Built once: it takes a while."""
    return TypeAdapter(Settings)


def _validate(shaped: dict[str, Any], problems: list[str]) -> Settings | None:
    shaped.pop("route", None)
    if not shaped["sources"]:
        shaped = {**shaped, "sources": []}
    try:
        return adapter().validate_python(shaped)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            where = (
                ".".join(str(part) for part in one["loc"]).replace("sources.", "source.").replace("routes.", "route.")
            )
            problems.append(f"{where}: {_plain(one['type'], one['msg'])}")
    return None


def _plain(kind: str, message: str) -> str:
    return "missing; it is required" if kind == "missing" else message.replace("Input should be", "should be")


def reloader(path: Path | None, command_line: Mapping[str, Any]) -> Callable[[], Settings]:
    """What HUP calls."""
    return lambda: load(path, command_line)


def defaults_of(section: type) -> dict[str, Any]:
    """key → default, for docs and `config show`."""
    found = {}
    for one in fields(section):
        if one.default is not MISSING:
            found[one.name] = one.default
        elif one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
    return found
