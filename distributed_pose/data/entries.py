"""Reads values of an annotation file in the forms that tools write, and collects notes on them."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

# The id of an image or a category in an annotation file.
ListedId = int | float | str

JsonObject = Mapping[str, Any]

_MAX_SHOWN = 60


class InvalidEntryError(ValueError):
    """An entry of the file cannot be used.

    Args:
        message: names the entry and its error.
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Notes:
    """Collects sentences about the file that a reader of the figures needs to know."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def say(self, sentence: str) -> None:
        """Adds a sentence about the whole file."""
        self._counts[sentence] += 0

    def add(self, sentence: str, count: int = 1) -> None:
        """Adds entries to the count of a sentence."""
        if count:
            self._counts[sentence] += count

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences; each ends with the number of its entries if it has any."""
        return tuple(
            f"{sentence} ({count})." if count else f"{sentence}."
            for sentence, count in self._counts.items()
        )


class Reading(NamedTuple):
    """Reads the values of one entry of the file.

    Attributes:
        entry: keys and values of the entry.
        where: name of the entry in messages, such as `annotations[3]`.
        notes: receives sentences about values that are interpreted.
    """

    entry: JsonObject
    where: str
    notes: Notes

    def required(self, key: str) -> Any:
        """Returns the value of a required key.

        Raises:
            InvalidEntryError: if the key is missing or its value is null.
        """
        value = self.entry.get(key)
        if value is None:
            state = "is null" if key in self.entry else "is missing"
            raise self.invalid(f"'{key}' {state}")
        return value

    def number(self, key: str) -> int | float:
        """Returns a finite number, which may be written as text.

        Raises:
            InvalidEntryError: if the key is missing, or the value is not a finite number.
        """
        value = self.required(key)
        number = self._from_text(value) if type(value) is str else value
        if (type(number) is int or type(number) is float) and _is_finite(number):
            return number
        raise self.invalid(f"'{key}' is {shown(value)}, not a number")

    def whole(self, key: str) -> int:
        """Returns a whole number, which may be written as 640.0 or as text.

        Raises:
            InvalidEntryError: if the key is missing, or the value is not a whole number.
        """
        number = self.number(key)
        if number != int(number):
            raise self.invalid(f"'{key}' is {shown(number)}, not a whole number")
        return int(number)

    def optional_number(self, key: str) -> int | float | None:
        """Returns a number or a flag as 1 or 0, or None if the key is missing.

        Raises:
            InvalidEntryError: if the value is not a finite number.
        """
        value = self.entry.get(key)
        if value is None:
            return None
        if type(value) is str and value.strip().lower() in _FLAGS:
            self.notes.add(TEXT)
            return _FLAGS[value.strip().lower()]
        return int(value) if type(value) is bool else self.number(key)

    def identifier(self, key: str) -> ListedId:
        """Returns an id: a number, or text without a change.

        Raises:
            InvalidEntryError: if the key is missing, or the value is neither.
        """
        value = self.required(key)
        if type(value) is int or type(value) is str:
            return value
        if type(value) is float and math.isfinite(value):
            return int(value) if value.is_integer() else value
        raise self.invalid(f"'{key}' is {shown(value)}, not an id")

    def invalid(self, text: str) -> InvalidEntryError:
        """Returns an error about this entry."""
        return InvalidEntryError(f"{self.where}: {text}")

    def _from_text(self, text: str) -> object:
        try:
            number = float(text)
        except ValueError:
            return text
        self.notes.add(TEXT)
        return int(number) if number.is_integer() else number


TEXT = "Numbers that are written as text are read as numbers"

_FLAGS = {"true": 1, "false": 0}


def objects(content: JsonObject, key: str) -> list[JsonObject]:
    """Returns a list of the file whose entries are objects.

    Raises:
        InvalidEntryError: if the file has no such list, or an entry is not an object.
    """
    if key not in content:
        raise InvalidEntryError(f"has no list '{key}'")
    entries = content[key]
    if not isinstance(entries, list):
        raise InvalidEntryError(f"'{key}' is {shown(entries)}, not a list")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidEntryError(f"{key}[{position}] is {shown(entry)}, not an object")
    return entries


def shown(value: object) -> str:
    """Returns a value in the form for messages: short, on one line and printable."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    try:
        text = ascii(value)
    except ValueError:
        # Python refuses to format integers of thousands of digits.
        return "a number of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
