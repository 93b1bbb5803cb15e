"""Records read back from JSON, which may be of another version or another program."""

from types import GenericAlias
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError

_T = TypeVar("_T")

# What figures can be: no device makes more a second, and no run takes longer.
Figure = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
AveragePrecision = Annotated[float, Field(ge=-1, le=1)]  # COCO has -1 where it is undefined.

# Characters of a key that a message shows.
_MAX_PLACE = 100

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def read_record(kind: type[_T], content: bytes | str) -> _T:
    """Returns a dataclass from JSON.

    Types are those of the annotations, without conversions, and numbers are finite. Keys that the
    dataclass does not have are ignored.

    Args:
        kind: the dataclass; its annotations may be pydantic's.
        content: JSON.

    Raises:
        ValueError: if it is not JSON, or not such a record; the message is one line.
    """
    data = content.encode() if isinstance(content, str) else content
    records = read_records(kind, b"[" + data + b"]", is_one=True)
    if len(records) != 1:
        raise ValueError("Invalid JSON: expected one object")
    return records[0]


def read_records(kind: type[_T], content: bytes, *, is_one: bool = False) -> list[_T]:
    """Returns dataclasses from a list in JSON, as `read_record` does.

    Args:
        kind: the dataclass.
        content: JSON.
        is_one: whether messages leave out the place in the list.

    Raises:
        ValueError: likewise.
    """
    # Only a container takes a configuration, which holds for the dataclasses in it. It stops at the
    # first mistake, since each takes a hundred times the memory of what it is about.
    records: Any = Annotated[GenericAlias(list, (kind,)), FailFast()]
    try:
        found: list[_T] = TypeAdapter(records, config=_STRICT).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"][is_one:]))[:_MAX_PLACE]
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return found
