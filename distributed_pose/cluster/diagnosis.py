"""Describes the activity of a process, for the message of a run that makes no progress."""

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_PACKAGE = Path(__file__).parents[1]


def describe_threads() -> str:
    """Returns the innermost functions of this package that other threads are in, as text."""
    found = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001
        innermost: FrameType | None = frame
        while innermost and not Path(innermost.f_code.co_filename).is_relative_to(_PACKAGE):
            innermost = innermost.f_back
        if innermost and ident != threading.get_ident():
            module = Path(innermost.f_code.co_filename).relative_to(_PACKAGE).with_suffix("")
            found.append(f"{'.'.join(module.parts)}.{innermost.f_code.co_name}")
    return ", ".join(sorted(set(found))) or "no function of this package"
