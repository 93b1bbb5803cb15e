"""Writes the generated reference pages: `python -m tests.reference_pages`.

The pages come from the configuration schema, from the command line and from the docstrings of the
report's records, so that there is one place to describe each of them.
"""

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_type_hints

from distributed_pose.config.keys import config_keys
from distributed_pose.report.run_report import RunReport

_REPOSITORY = Path(__file__).parents[1]
FOLDER = _REPOSITORY / "docs" / "reference"

# A line of an `Attributes:` section that begins an entry.
_ENTRY = re.compile(r"^    (\w+): (.*)$")


def configuration_page() -> str:
    """Returns the page of all configuration keys."""
    rows = [
        f"| `{key.name}` | {key.values.replace('|', chr(92) + '|')} | {key.default} "
        f"| {key.description} |"
        for key in config_keys()
    ]
    return "\n".join(
        [
            "# Configuration keys",
            "",
            "Every key can be set in the YAML file of `--config` and by `--set key=value`, which",
            "wins. `distributed-pose config keys` prints this list, and `distributed-pose config",
            "show` prints the resolved configuration of a run. Relative paths start at the working",
            "directory of the command.",
            "",
            "| key | values | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def command_line_page() -> str:
    """Returns the page of all commands and options, as Typer documents them."""
    command = (
        "-m",
        "typer",
        "distributed_pose.cli.main",
        "utils",
        "docs",
        "--name",
        "distributed-pose",
    )
    answer = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, cwd=_REPOSITORY
    )
    return html.unescape(answer.stdout).strip() + "\n"


def report_page() -> str:
    """Returns the page of `report.json`: every field of the report and of its records."""
    sections = [section for record in _records(RunReport) for section in _section(record)]
    return "\n".join(
        [
            "# report.json",
            "",
            "Every run writes its report as JSON, and `--json` prints it. Names that end in `_ns`",
            "are nanoseconds, in `_s` seconds, in `_bytes` bytes. Later versions add fields, and",
            "read reports without them. `report_format` grows when a field is removed or changes",
            "its meaning; versions that know only lower numbers refuse the report. A section per",
            "object:",
            *sections,
            "",
        ]
    )


PAGES = {
    "configuration.md": configuration_page,
    "cli.md": command_line_page,
    "report-json.md": report_page,
}


def _records(record: type[Any], seen: list[type[Any]] | None = None) -> list[type[Any]]:
    """Returns a dataclass and those in its fields, each once, in the order of the fields."""
    known = [] if seen is None else seen
    if record not in known:
        known.append(record)
        for hint in get_type_hints(record).values():
            for part in (hint, *get_args(hint)):
                if is_dataclass(part) and isinstance(part, type):
                    _records(part, known)
    return known


def _section(record: type[Any]) -> Iterator[str]:
    summary, described = _described(record)
    hints = get_type_hints(record)
    yield from ("", f"## {record.__name__}", "", summary, "", "| field | type | meaning |")
    yield "|---|---|---|"
    for field in fields(record):
        yield f"| `{field.name}` | {_type(hints[field.name])} | {described.get(field.name, '')} |"


def _described(record: type[Any]) -> tuple[str, dict[str, str]]:
    """Returns the text of a docstring before its attributes, and the text of each attribute."""
    text, _, attributes = (getdoc(record) or "").partition("\nAttributes:\n")
    described: dict[str, str] = {}
    name = ""
    for line in attributes.splitlines():
        if match := _ENTRY.match(line):
            name, described[match[1]] = match[1], match[2]
        elif name and line.strip():
            described[name] += f" {line.strip()}"
    return " ".join(text.split()), described


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    short = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    return f"`{short}`".replace("|", "or")


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
