"""Writes what is generated: docs/configuration.md, docs/commands.md, docs/sls-siem.1. `python -m scripts.docs`

tests/test_docs.py holds that they are up to date and that nothing is left out.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def attribute_docs(section: type) -> dict[str, str]:
    """key → the text below it in the source."""
    tree = ast.parse(inspect.getsource(section)).body[0]
    found: dict[str, str] = {}
    body = getattr(tree, "body", [])
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            found[node.target.id] = " ".join(str(text).split())
    return found


def default_text(value: Any) -> str:
    """As one would write it in TOML."""
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f'`"{value >> 30}GiB"`' if value % (1 << 30) == 0 else f'`"{value >> 20}MiB"`'
    return f"`{value}`"


def configuration() -> str:
    """docs/configuration.md"""
    from supervisor.config import SECTIONS, defaults_of

    out = [
        "# Configuration", "",
        "Generated from the settings' own descriptions by `python -m scripts.docs`.", "",
        "One TOML file: `--config`, else `$SLS_SIEM_CONFIG`, else `./sls-siem.toml`, else `/etc/sls-siem/config.toml`.",
        "Scalar keys also as `SLS_SIEM_<TABLE>__<KEY>`; command line over environment over file over default. Sizes take",
        '`"10GiB"`, durations `"90s"`. Values may say `${ENV}`, `${ENV:-default}`, `${file:/path}` or `${credential:name}`',
        "(systemd). Unknown keys are errors; all errors are shown at once; `sls-siem config show` tells what is in force and",
        "where it came from. HUP reads the file again. A duration is more than 0, and a year at most. No secret belongs into an",
        "address but a proxy's: addresses are shown.", "",
        "Without a `[[source]]` the environment is enough: `SLS_ENDPOINT`, `SLS_AK_ID`, `SLS_AK_KEY`, `SLS_PROJECT`,",
        "`SLS_LOGSTORE`, `SLS_CG` (and `SLS_ENDPOINTS`, `SLS_PROJECTS`, `SLS_LOGSTORES`, separated by `;` and `,`),",
        "`SLS_SIEM_START` (`begin` unless set), `SPLUNK_HEC_URL` (comma-separated) and `SPLUNK_HEC_TOKEN`.", "",
    ]  # fmt: skip
    titles = {"source": "[[source]]", "route": "[[route]]"}
    for name, section in SECTIONS.items():
        if name == "source_defaults":
            out += [
                "## [source_defaults]",
                "",
                "Any key of a source but `name`, `project` and `logstore`: laid under each.",
                "",
            ]
            continue
        out += [f"## {titles.get(name, f'[{name}]')}", "", " ".join((section.__doc__ or "").split()), ""]
        out += ["| key | default | what |", "|---|---|---|"]
        docs, defaults = attribute_docs(section), defaults_of(section)
        for one in fields(section):
            shown = (
                default_text(defaults[one.name])
                if one.name in defaults
                else "see text"
                if docs[one.name]
                else "required"
            )
            text = docs[one.name].replace("|", "\\|")
            out.append(f"| `{one.name}` | {shown} | {text} |")
        out.append("")
    return "\n".join(out)


def walk(command: Any, path: str) -> list[tuple[str, Any]]:
    """(path, command) of all leaves but the hidden."""
    children = getattr(command, "commands", None)
    if not children:
        return [(path, command)]
    return [
        row for name in sorted(children) if not children[name].hidden for row in walk(children[name], f"{path} {name}")
    ]


def commands() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(path, help, [(option with its value, help)]), arguments last."""
    import typer

    from supervisor.cli import app

    found = []
    for path, command in walk(typer.main.get_command(app), "sls-siem"):
        params = [param for param in command.params if param.name != "help"]
        shown = [(usage_of(param), param.help or "") for param in sorted(params, key=is_argument)]
        found.append((path, " ".join((command.help or "").split()), shown))
    return found


def is_argument(param: Any) -> bool:
    """Not an option."""
    return bool(param.param_type_name == "argument")


def usage_of(param: Any) -> str:
    """`--limit N`, `--json`, `FILE`."""
    value: str = param.metavar or param.name.upper()
    if is_argument(param):
        return value
    return param.opts[0] if param.is_flag else f"{param.opts[0]} {value}"


def synopsis(path: str, options: list[tuple[str, str]]) -> str:
    """The command with all that it takes; what must be given stands without brackets."""
    must = {"FILE", "DIR", "ID", "NAME", "--source NAME", "--from TIME", "--to TIME"}
    return " ".join([path, *(name if name in must or name[0] == "[" else f"[{name}]" for name, _ in options)])


EXITS = [
    (0, "fine"), (1, "failed; or a second signal killed it"), (2, "wrong usage; `status --check`: critical or not running"),
    (69, "a remote is not available"), (70, "crash loop"), (74, "the spool cannot be read or written"),
    (75, "spool or port held by another"), (77, "credentials refused"), (78, "wrong settings"),
    (130, "ended by Ctrl-C (commands; `supervise` stops, and ends with 0)"),
]  # fmt: skip


def commands_page() -> str:
    """docs/commands.md"""
    out = ["# Commands", "", "Generated from the commands' own help by `python -m scripts.docs`.", "",
           "stdout is data, stderr is talk. Commands that read have `--json`: one document, its schema in [schema/](schema/).",
           "Errors are two lines, `error:` and `hint:`. What destroys says what it would do, and wants `--yes`.", ""]  # fmt: skip
    for path, text, options in commands():
        out += [f"## {path}", "", text, "", f"    {synopsis(path, options)}", ""]
        out += [f"- `{option}`: {what}" for option, what in options]
        out += [""] if options else []
    out += ["## Exit codes", "", "| code | means |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXITS), ""]
    return "\n".join(out)


#: Of the man page: what no command's help says.
FILES = [
    (
        "/etc/sls-siem/config.toml",
        "settings, when neither --config nor $SLS_SIEM_CONFIG nor ./sls-siem.toml names others",
    ),
    ("/var/lib/sls-siem", "the spool: what waits, and the dead letters"),
    ("/opt/sls-siem/docs", "the documents; operations.md is for whoever is called at three in the morning"),
    ("http://127.0.0.1:9464/", "status as a page; /metrics, /healthz, /readyz, /status"),
]
ENVIRONMENT = [
    ("SLS_SIEM_CONFIG", "the settings file"),
    ("SLS_SIEM_<TABLE>__<KEY>", "any scalar setting, over the file"),
    ("SLS_ENDPOINT, SLS_AK_ID, SLS_AK_KEY, SLS_PROJECT, SLS_LOGSTORE, SLS_CG, SPLUNK_HEC_URL, SPLUNK_HEC_TOKEN",
     "enough to run without a file"),
    ("NO_COLOR", "no colours"),
]  # fmt: skip
SIGNALS = [
    ("TERM, INT", "stop: finish what is in progress, save, end with 0; what waits stays in the spool"),
    ("TERM, INT again", "kill the children, end with 1; nothing is lost"),
    ("HUP", "read the settings; when they are good, replace the children one at a time"),
]


def man_page() -> str:
    """docs/sls-siem.1"""
    out = ['.TH SLS-SIEM 1 "" "sls-siem" "User Commands"', ".SH NAME", "sls-siem \\- Alibaba Cloud Log Service logs to Splunk",
           ".SH SYNOPSIS", ".B sls-siem", ".I command", "[options]", ".SH DESCRIPTION",
           roff("Forwards Alibaba Cloud Log Service (SLS) logs to Splunk's HTTP Event Collector (HEC), unattended, and loses none. "
                "Between the two lies a spool on disk, so that a Splunk outage never stalls reading. stdout is data, stderr is "
                "talk. With --json a command prints one JSON document; its schema is in docs/schema. Errors are two lines, error: "
                "and hint:. What destroys says what it would do, and wants --yes."),
           ".SH COMMANDS"]  # fmt: skip
    for path, text, options in commands():
        out += [".TP", f".B {roff(synopsis(path, options).removeprefix('sls-siem '))}", roff(text)]
        out += [
            f".br\n.I {roff(option)}\n{roff(what)}"
            for option, what in options
            if option not in {"--json", "--config FILE"}
        ]
    titled = (("SIGNALS OF SUPERVISE", SIGNALS), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXITS))
    for title, rows in titled:
        out += [f".SH {title}", *(f".TP\n.B {roff(str(name))}\n{roff(what)}" for name, what in rows)]
    return "\n".join([*out, ""])


def roff(text: str) -> str:
    """As troff wants it: no line begins with its own commands, hyphens are those of a keyboard."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped


PAGES = {"configuration.md": configuration, "commands.md": commands_page, "sls-siem.1": man_page}


def main() -> None:
    """Write them."""
    for name, make in PAGES.items():
        (ROOT / "docs" / name).write_text(make())


if __name__ == "__main__":
    main()
