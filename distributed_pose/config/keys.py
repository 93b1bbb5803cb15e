"""The configuration keys with type, default and meaning, read from the schema."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distributed_pose.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """A key as a user sets it.

    Attributes:
        name: dotted name, such as `data.images`.
        values: type or choices in words, such as `f32, f16`.
        default: default as YAML has it; `none` where the key is not set.
        description: meaning of the key, on one line.
    """

    name: str
    values: str
    default: str
    description: str


def config_keys() -> tuple[ConfigKey, ...]:
    """Returns all keys in the order of the schema."""
    schema = RunConfig.model_json_schema()
    return tuple(_keys(schema, schema["$defs"], ""))


def _keys(
    section: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> Iterator[ConfigKey]:
    for name, field in section["properties"].items():
        if reference := field.get("$ref"):
            nested = definitions[reference.rpartition("/")[2]]
            yield from _keys(nested, definitions, f"{prefix}{name}.")
        else:
            yield ConfigKey(
                name=f"{prefix}{name}",
                values=_values(field),
                default=_default(field["default"]),
                description=" ".join(field.get("description", "").split()),
            )


def _values(field: Mapping[str, Any]) -> str:
    """Returns what a key may be, in words."""
    if choices := field.get("anyOf"):
        return " or ".join(_values(choice) for choice in choices if choice.get("type") != "null")
    if choices := field.get("enum"):
        return ", ".join(choices)
    if "const" in field:
        return str(field["const"])
    kind = field["type"]
    if kind == "array":
        return f"{_values(field['items'])}, or a list of it"
    if field.get("format") == "path":
        return "path"
    words = {"boolean": "true or false", "integer": "integer", "number": "number", "string": "text"}
    return words[kind] + _limits(field)


def _limits(field: Mapping[str, Any]) -> str:
    limits = [
        f"{word} {field[key]:g}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        # The largest 32-bit integer bounds memory, and is not a limit that a user meets.
        if key in field and field[key] != 2**31 - 1
    ]
    return "".join(f" {limit}" for limit in limits)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
