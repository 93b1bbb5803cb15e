"""What something needs and a machine does not have, and how to get it."""

from collections.abc import Iterable
from typing import NamedTuple


class Lack(NamedTuple):
    """Something that is needed and missing.

    Attributes:
        what: is needed, such as `libcudnn.so.9`.
        found: in its place, such as `numpy 2.4.6`; empty where there is nothing.
        mend: the command or setting that gets it.
    """

    what: str
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what} (found {self.found})" if self.found else self.what


def listed(lacks: Iterable[Lack]) -> str:
    """Returns what is missing as a part of a sentence."""
    return ", ".join(map(str, lacks))


def mends(lacks: Iterable[Lack]) -> str:
    """Returns what gets it as a part of a sentence, each way once."""
    return "; ".join(dict.fromkeys(lack.mend for lack in lacks))
