"""Configurations from YAML files and `--set`, with messages that name the key."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from distributed_pose.config.messages import short_line, short_repr
from distributed_pose.config.schema import RunConfig
from distributed_pose.errors import ConfigError
from distributed_pose.files.local import one_line, read_regular
from distributed_pose.files.yaml_values import parse_yaml

# Hundreds of times what a configuration takes, and parsed in two seconds.
_MAX_FILE_BYTES = 2**18


_MAX_MISTAKES = 20

# A choice in pydantic's message about a value that is none of them.
_QUOTED = re.compile(r"'([^']+)'")


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Returns the validated configuration of a YAML file with overrides applied on top.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `dotted.key=value` each, the value read as YAML; later ones win.

    Raises:
        ConfigError: for an unreadable file, an unknown key, a wrong type or an impossible value;
            the message names the dotted key.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Returns the validated configuration of nested mappings, as YAML or JSON would give them.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        mistakes = [_explain(entry) for entry in error.errors()[:_MAX_MISTAKES]]
        if (more := error.error_count() - len(mistakes)) > 0:
            mistakes.append(f"and {more} more")
        raise ConfigError("; ".join(mistakes)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_regular(path, _MAX_FILE_BYTES)
    except OSError as error:
        hint = "--config must be a regular file of YAML; single keys can be given by --set"
        raise ConfigError(f"cannot read {path}: {one_line(error)}", hint) from None
    except ValueError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}", "see --config") from None
    try:
        values = parse_yaml(content.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {short_line(str(error))}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not a {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(f"--set {override}: expected dotted.key=value")
    try:
        value = text if _is_literal(dotted, text) else parse_yaml(text)
    except ValueError:
        shown = short_line(repr(text))
        raise ConfigError(f"--set {dotted}: {shown} is not a YAML value") from None
    *parents, leaf = dotted.split(".")
    for name in parents:
        child = values.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, it has no keys of its own")
        values = child
    values[leaf] = value


def _is_literal(dotted: str, text: str) -> bool:
    """Returns whether a value is text as it stands: one of a path or name without quotes."""
    if text.lstrip()[:1] in {"'", '"', ""} or text.strip() in {"null", "Null", "NULL", "~"}:
        return False
    return dotted in _text_keys(RunConfig)


def _text_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _text_keys(nested, f"{prefix}{name}.")
        # Paths, names and None. A literal's values are not classes, and a number is not text.
        elif all(
            isinstance(kind, type) and not issubclass(kind, int | float | tuple)
            for kind in map(_without_checks, get_args(nested) or (nested,))
        ):
            yield f"{prefix}{name}"


def _without_checks(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else get_origin(kind) or kind


def _explain(entry: Any) -> str:
    dotted = ".".join(str(part) for part in entry["loc"] if isinstance(part, str))
    if entry["type"] == "extra_forbidden":
        dotted = short_line(dotted)
        return f"unknown key '{dotted}'{_did_you_mean(dotted, _dotted_keys(RunConfig))}"
    text = entry["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if entry["type"] != "value_error":
        text += f", not {short_repr(entry['input'])}"
    if entry["type"] == "literal_error":
        choices = _QUOTED.findall(entry["ctx"]["expected"])
        text += _did_you_mean(short_repr(entry["input"]), choices)
    return f"{dotted}: {text}"


def _did_you_mean(word: str, valid: Iterable[str]) -> str:
    choices = sorted(valid)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5) or difflib.get_close_matches(
        word.rpartition(".")[2], choices, n=1, cutoff=0.3
    )
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(choices)}"


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _dotted_keys(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
