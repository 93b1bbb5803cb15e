"""Imports a module or loads a shared library in a process of its own, and prints the outcome.

`requirements` runs it as a script that uses the standard library alone: vendors' modules may print,
hang or end the process, and none of them may stay loaded in the process that asks.
"""

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping


def main() -> None:
    """Prints a JSON list: the error, empty if there was none, and the answer to the question."""
    question, target, search_path = json.loads(sys.argv[1])
    sys.path[:] = search_path
    # Text that vendors' modules print to stdout must not mix with the answer.
    answer_stream = os.dup(1)
    os.dup2(2, 1)
    try:
        error, found = "", _QUESTIONS[question](target)
    # Also catches SystemExit, because an imported module may do anything.
    except BaseException as failure:  # noqa: BLE001
        error, found = _in_one_line(failure), ""
    os.write(answer_stream, json.dumps([error, found]).encode())
    # Skips the clean-up of the loaded modules, which may hang or crash.
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
    """Returns the newest CUDA version that a driver's library supports, such as `13.0`.

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
