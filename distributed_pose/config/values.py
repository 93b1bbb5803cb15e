"""The types of the configuration's values: counts, ids, paths and locations."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, GetPydanticSchema
from pydantic_core import core_schema

from distributed_pose.config.messages import short_repr
from distributed_pose.locations import Location, redacted
from distributed_pose.records.images import STRIDE, InputSize

# A count of images, workers or the like; strict, so that `true` and "8" are not numbers.
Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]


def _check_batch_size(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value < 2**31):
        return value
    raise ValueError(f"must be a count from 1, or 'auto', not {short_repr(value)}")


# Images in a batch; `auto` is the best one of a sweep on the device.
BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_check_batch_size)]


def _check_processes(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= 256):
        return value
    raise ValueError(f"must be a count from 1 to 256, or 'auto', not {short_repr(value)}")


# The longest side of a network input in pixels, for which a batch of 8 takes 1.6 GB.
_MAX_INPUT_SIDE = 4096


def _check_input_size(value: object) -> object:
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value) if isinstance(value, str) else None
    if value == "auto":
        return value
    if sides and all(
        STRIDE <= side <= _MAX_INPUT_SIDE and side % STRIDE == 0
        for side in map(int, sides.groups())
    ):
        return str(InputSize.parse(sides[0]))
    raise ValueError(
        f"must be 'auto' or HEIGHTxWIDTH in pixels, such as 256x456, both multiples of {STRIDE} up "
        f"to {_MAX_INPUT_SIDE}, not {short_repr(value)}"
    )


# Size of the network inputs; `auto` is that of the model or of the profile.
InputSizeText = Annotated[str, BeforeValidator(_check_input_size)]


# Far below and above the factors that the maps of a network are averaged over.
_MIN_SCALE, _MAX_SCALE = 0.1, 4.0
_MAX_SCALES = 8


def _check_scales(scales: tuple[float, ...]) -> tuple[float, ...]:
    if not 1 <= len(scales) <= _MAX_SCALES:
        raise ValueError(f"needs 1 to {_MAX_SCALES} factors, not {len(scales)}")
    if len({*scales}) < len(scales):
        raise ValueError(f"has a factor more than once: {', '.join(map(str, scales))}")
    return scales


def _as_scales(value: object) -> object:
    return (value,) if isinstance(value, int | float) else value


# Scale factors whose maps are averaged, in this order.
Scales = Annotated[
    tuple[Annotated[float, Field(strict=True, ge=_MIN_SCALE, le=_MAX_SCALE)], ...],
    BeforeValidator(_as_scales),
    AfterValidator(_check_scales),
]


# Threads of a worker, or processes of a run.
Feeders = Annotated[int | Literal["auto"], BeforeValidator(_check_processes)]
Reducers = Annotated[int | Literal["auto"], BeforeValidator(_check_processes)]


def as_list(value: object) -> object:
    """Returns a single text as a tuple, and any other value unchanged."""
    return (value,) if isinstance(value, str) else value


def _check_category(value: object) -> object:
    if value is None or type(value) is int or (type(value) is str and value):
        return value
    raise ValueError(f"must be the id or the name of a category, not {short_repr(value)}")


# COCO has numbers, other files have text.
CategoryId = Annotated[int | str | None, BeforeValidator(_check_category)]

_PathT = TypeVar("_PathT", Path, str)


def _check_path(path: _PathT) -> _PathT:
    if "\0" in str(path):
        raise ValueError("a path cannot have a null byte")
    # YAML can express unpaired surrogates, with which this raises a ValueError.
    os.fsencode(path)
    return path


def _as_text(value: object) -> object:
    if isinstance(value, Location):
        return value.plain
    return str(value) if isinstance(value, Path) else value


# A path, or a URI that pyarrow opens; written as text, it has no credentials.
DataLocation = Annotated[
    Location,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_after_validator_function(
            lambda text: Location(_check_path(text)),
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )
    ),
    BeforeValidator(_as_text),
]


def _check_no_uri(value: object) -> object:
    # As a path it would lead into the working directory, and show the credentials that it carries.
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and ("://" in text or redacted(text) != text):
        raise ValueError(
            f"must be a path on a mounted filesystem, not a URI, as {short_repr(text)} is"
        )
    return value


MountedPath = Annotated[Path, AfterValidator(_check_path), BeforeValidator(_check_no_uri)]
