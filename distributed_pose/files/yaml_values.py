"""Parses the YAML of configurations: plain values only, in linear time."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml


class _Loader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2, in which dates, `yes` and `1:30` are text.

    Aliases are refused, because a few lines of them can expand to more values than memory holds.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - so in its base
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="a configuration has no aliases")
        return super().compose_node(parent, index)


_TAG = "tag:yaml.org,2002:"
_Loader.add_implicit_resolver(
    f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
# Numbers with more digits are floats, which no configuration key accepts as a count.
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?[0-9]{1,19}\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z"),
    list("-+.0123456789"),
)


def _scalar(read: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: read(loader.construct_scalar(node))


_CONSTRUCTORS: dict[str, Callable[[Any, Any], Any]] = {
    "null": _scalar(lambda _: None),
    "bool": _scalar(lambda text: {"true": True, "false": False}[text.lower()]),
    "int": _scalar(int),
    "float": _scalar(lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan"))),
    "str": _Loader.construct_yaml_str,
    "seq": _Loader.construct_yaml_seq,
    "map": _Loader.construct_yaml_map,
}
_Loader.yaml_constructors |= {f"{_TAG}{name}": read for name, read in _CONSTRUCTORS.items()}
_Loader.yaml_constructors[None] = _Loader.construct_undefined


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text: mappings, lists, text, numbers, true, false and null.

    Raises:
        ValueError: if the text is not YAML, has an alias, or has a tag that does not fit its value.
    """
    try:
        # `_Loader` is derived from the safe loader.
        return yaml.load(text, _Loader)  # noqa: S506
    # Deep nesting raises no YAMLError.
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    # A tag that does not fit, such as `!!bool 5`, raises one of many errors.
    except (LookupError, AttributeError, TypeError):
        raise ValueError("a value does not have the type of its tag") from None
