"""Describes the missing requirements of a machine, and how to install them."""

from collections.abc import Iterable
from typing import NamedTuple


class Lack(NamedTuple):
    """A requirement that is missing.

    Attributes:
        what: name of the missing item, such as `libcudnn.so.9`.
        found: description of the item found in its place, such as `numpy 2.4.6`; empty if there is
            none.
        remedy: command or setting that makes the item available.
    """

    what: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} (found {self.found})" if self.found else self.what


def listed(lacks: Iterable[Lack]) -> str:
    """Returns the missing items as a part of a sentence."""
    return ", ".join(map(str, lacks))


def remedies(lacks: Iterable[Lack]) -> str:
    """Returns the remedies for the missing items as a part of a sentence, each remedy once."""
    return "; ".join(dict.fromkeys(lack.remedy for lack in lacks))
