"""Imports a module or loads a shared library, and prints how that ended; a process of its own.

It is run as a script by `requirements`, with the standard library alone: what vendors ship may
print, hang or end the process, and none of it is to stay loaded in the one that asks.
"""

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping


def main() -> None:
    """Prints a JSON list: the error, empty if there was none, and what was found."""
    question, target, search_path = json.loads(sys.argv[1])
    sys.path[:] = search_path
    # What vendors print to stdout is no part of the answer.
    answer_stream = os.dup(1)
    os.dup2(2, 1)
    try:
        error, found = "", _QUESTIONS[question](target)
    # Also SystemExit: nothing that is imported here is known.
    except BaseException as failure:  # noqa: BLE001
        error, found = _in_one_line(failure), ""
    os.write(answer_stream, json.dumps([error, found]).encode())
    # Without taking down what was loaded, which may hang or crash.
    os._exit(0)


def _import(target: str) -> str:
    """Imports `module:dotted.attribute`, and returns the module's version."""
    name, _, attribute = target.partition(":")
    value = module = importlib.import_module(name)
    for part in filter(None, attribute.split(".")):
        value = getattr(value, part)
    return str(getattr(module, "__version__", ""))


def _load(name: str) -> str:
    ctypes.CDLL(name)
    return ""


def _driver(name: str) -> str:
    """Returns the newest CUDA that a driver's library knows, such as `13.0`.

    Source: CUDA Driver API, `cuDriverGetVersion`.
    """
    number = ctypes.c_int()
    if code := ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number)):
        message = f"cuDriverGetVersion returned {code}"
        raise OSError(message)
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _in_one_line(failure: BaseException) -> str:
    text = " ".join(str(failure).strip().partition("\n")[0].split())
    return text or type(failure).__name__


_QUESTIONS: Mapping[str, Callable[[str], str]] = {
    "import": _import,
    "load": _load,
    "driver": _driver,
}

if __name__ == "__main__":
    main()
