"""Reads records from JSON that another version or another program may have written."""

from types import GenericAlias
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError

_T = TypeVar("_T")

# The range of figures: no device is faster, and no run takes longer.
Figure = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
AveragePrecision = Annotated[float, Field(ge=-1, le=1)]  # COCO has -1 for undefined AP.

# The maximum number of characters of a key in a message.
_MAX_PLACE = 100

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def read_record(kind: type[_T], content: bytes | str) -> _T:
    """Returns a dataclass from JSON.

    Values must have the annotated types, without conversions, and numbers must be finite. Keys that
    the dataclass does not have are ignored.

    Args:
        kind: class of the record, a dataclass whose annotations may be pydantic's.
        content: JSON text.

    Raises:
        ValueError: if the text is not JSON, or not such a record; the message is one line.
    """
    data = content.encode() if isinstance(content, str) else content
    records = read_records(kind, b"[" + data + b"]", is_one=True)
    if len(records) != 1:
        raise ValueError("Invalid JSON: expected one object")
    return records[0]


def read_records(kind: type[_T], content: bytes, *, is_one: bool = False) -> list[_T]:
    """Returns a list of dataclasses from JSON; see `read_record`.

    Args:
        kind: class of the records, a dataclass whose annotations may be pydantic's.
        content: JSON text.
        is_one: whether messages omit the position in the list.

    Raises:
        ValueError: if the text is not JSON, or not a list of such records.
    """
    # Only a container accepts a configuration, which applies to the dataclasses in it. Validation
    # stops at the first error, because each error takes a hundred times the memory of its value.
    records: Any = Annotated[GenericAlias(list, (kind,)), FailFast()]
    try:
        values: list[_T] = TypeAdapter(records, config=_STRICT).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"][is_one:]))[:_MAX_PLACE]
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return values
