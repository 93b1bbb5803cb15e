"""How the decoder's inner loops are compiled.

Compiled code holds no interpreter lock, uses the calling thread only, and is kept on disk, so that
later processes load it. It never reorders or fuses sums: poses depend on the last bit.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

from distributed_pose.cache.entries import open_entry
from distributed_pose.files import user_cache_folder
from distributed_pose.pose.sources import sources_digest

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _cache_folder() -> Path:
    """Returns a folder for the code that these sources compile to.

    Numba looks only at the file of a function, not at those of the functions that it calls and
    takes in, so a change of one file would leave old code in the others.
    """
    folder = Path(numba.config.CACHE_DIR or user_cache_folder() / "kernels") / sources_digest()
    open_entry(folder)
    return folder


numba.config.CACHE_DIR = str(_cache_folder())


class _Cache(FunctionCache):  # type: ignore[misc]
    """Compiled code on disk; what is damaged there is compiled and written again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        # Whatever a cut or foreign file makes the reader of pickles come upon.
        except Exception:  # noqa: BLE001
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # What cannot be kept is compiled by the next process, too.
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns the function compiled at its first call."""
    return _compiled(function)


def inlined(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function that becomes a part of those that call it.

    For what runs once a sample: passing records of arrays costs more there than the arithmetic.
    """
    return cast("Callable[_P, _R]", numba.njit(inline="always", error_model="numpy")(function))


def compiled_extremum(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function that finds least or greatest values, compiled at its first call.

    Told that values are finite, the compiler takes several at once.
    """
    return _compiled(function, fastmath={"nnan", "nsz"})


def _compiled(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    options |= {"nogil": True, "error_model": "numpy"}
    result = numba.njit(**options)(function)
    with suppress(RuntimeError):  # No folder at all can be written.
        result._cache = _Cache(function)  # noqa: SLF001 - as `cache=True` does
    return cast("Callable[_P, _R]", result)
