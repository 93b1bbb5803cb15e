"""The names of backends and devices that a configuration can have, read from their tables."""

import re
from typing import Annotated

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from distributed_pose.backends.registry import backend_names
from distributed_pose.config.messages import short_repr
from distributed_pose.devices.ascend import soc_version
from distributed_pose.devices.kinds import CPU, KINDS
from distributed_pose.errors import ConfigError

# The kinds that a configuration names by number; all others than CPUs.
_NUMBERED = tuple(sorted(kind for kind in KINDS if kind != CPU))

# No cluster has more devices of a kind than five digits count.
_DEVICE = re.compile(
    rf"{CPU}(:[1-9][0-9]{{0,4}})?|({'|'.join(_NUMBERED)}):(\*|0|[1-9][0-9]{{0,4}})"
)


class _RegisteredBackend:
    """Makes pydantic accept the names of the registry, and report them as those of a Literal."""

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            _check_backend, core_schema.str_schema()
        )

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": list(backend_names())}


def _check_backend(value: object) -> object:
    names = backend_names()
    if value in names:
        return value
    *most, last = (f"'{name}'" for name in names)
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(most)} or {last}"})


BackendName = Annotated[str, _RegisteredBackend()]


def check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Returns requests for devices unchanged if each can be one.

    Raises:
        ValueError: if one cannot.
    """
    if not devices:
        raise ValueError("needs at least one device, or 'auto'")
    if devices == ("auto",):
        return devices
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ValueError(
                f"'{device}' is not a device: use 'auto', 'cpu' or 'cpu:N' (N workers), "
                f"{_of_each('*')} (all of a kind), {_of_each('N')} (the one of that number)"
            )
    return devices


def _of_each(number: str) -> str:
    return " or ".join(f"'{kind}:{number}'" for kind in _NUMBERED)


def check_chip(name: str) -> str:
    """Returns the name of an Ascend chip unchanged if it can be one.

    Raises:
        ValueError: if it cannot.
    """
    try:
        soc_version(name)
    except ConfigError as error:
        raise ValueError(f"{short_repr(name)} is not an Ascend chip: {error.hint}") from None
    return name
