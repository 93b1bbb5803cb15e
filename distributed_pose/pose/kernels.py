"""Compiles the decoder's inner loops with Numba.

Compiled code releases the interpreter lock, runs in the calling thread only, and is cached on disk
for later processes. It never reorders or fuses sums, because poses depend on the last bit.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

from distributed_pose.cache.entries import open_entry
from distributed_pose.pose.sources import kernels_folder

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NO_ENTRY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


FOLDER = kernels_folder()
open_entry(FOLDER)
numba.config.CACHE_DIR = str(FOLDER)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Caches compiled code on disk; a damaged entry is compiled and written again."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        # A truncated or foreign file can make unpickling raise any exception.
        except Exception:  # noqa: BLE001
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # Code that cannot be cached is compiled by the next process again.
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns the function, which is compiled at its first call."""
    return _compiled(function)


def compiled_part(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function that only compiled functions can call.

    Without an entry for calls from Python, it is compiled in less time.
    """
    return _compiled(function, **_NO_ENTRY)


def inlined(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function that is inlined into the compiled functions that call it.

    It is meant for code that runs once per sample, where passing named tuples of arrays would
    cost more than the arithmetic.
    """
    return cast("Callable[_P, _R]", numba.njit(inline="always", error_model="numpy")(function))


def compiled_extremum(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a part, as `compiled_part` does, that computes minima or maxima.

    The compiler may assume that values are finite, which lets it vectorise the comparisons.
    """
    return _compiled(function, fastmath={"nnan", "nsz"}, **_NO_ENTRY)


def _compiled(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    options |= {"nogil": True, "error_model": "numpy"}
    result = numba.njit(**options)(function)
    with suppress(RuntimeError):  # No cache folder is writable.
        result._cache = _Cache(function)  # noqa: SLF001 - as `cache=True` does
    return cast("Callable[_P, _R]", result)
