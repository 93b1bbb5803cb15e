"""Finds the missing requirements to compile for an Ascend chip with CANN, or to run on one.

The compiler calls the first `python3` in PATH, whose packages must be older than those of this
program.
"""

import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from distributed_pose.devices.ascend import soc_version
from distributed_pose.devices.cann import Cann, output
from distributed_pose.devices.lacks import Lack

# Modules that the compiler's operators import. Source: the installation guide of CANN 8.0.
_MODULES = ("numpy", "decorator", "sympy", "cffi", "yaml", "psutil", "scipy", "attr", "absl")
_PROBE = (
    "import sys\n"
    "from importlib.util import find_spec\n"
    f"lacking = [name for name in {_MODULES} if not find_spec(name)]\n"
    "numpy = '' if 'numpy' in lacking else __import__('numpy').__version__\n"
    "print(sys.version_info[1], numpy or '-', *lacking)\n"
)


class PythonNeeds(NamedTuple):
    """The versions of Python and NumPy that an installation of CANN supports.

    Attributes:
        newest_minor: newest minor version of Python 3 that is supported.
        numpy_below: major and minor version of the first NumPy that is not supported.
    """

    newest_minor: int
    numpy_below: tuple[int, int]


# Each entry has the first version of CANN that it applies to.
# Source: the installation guides of 5.1, 8.0, 8.5, 9.1.
_PYTHON_NEEDS = (
    ((9, 1), PythonNeeds(14, (2, 0))),
    ((8, 5), PythonNeeds(13, (2, 0))),
    ((6, 0), PythonNeeds(11, (1, 25))),
    ((0, 0), PythonNeeds(9, (1, 24))),
)

# First version of CANN that supports a chip, for installations that have no files of chips.
# Source: the replaced guide for 310P, release notes for the others.
_FIRST_VERSIONS = (
    (re.compile(r"Ascend310P\d?"), (5, 1)),
    (re.compile(r"Ascend310B\d?"), (6, 2)),
    (re.compile(r"Ascend910B[1-4].*"), (6, 3)),
    (re.compile(r"Ascend910_93.*"), (8, 0)),
)


class _Python(NamedTuple):
    """A `python3` in PATH.

    Attributes:
        path: path of the executable.
        problem: reason why the compiler cannot use this Python; empty if it can.
    """

    path: str
    problem: str


def compiler_lacks(cann: Cann | None, soc: str = "") -> tuple[Lack, ...]:
    """Returns the items that the compiler `atc` lacks to compile for a chip.

    Args:
        cann: installation that `find_cann` returns; None if there is none.
        soc: name of the chip, with or without `Ascend`; empty for any chip.

    Raises:
        ConfigError: if the name cannot be that of an Ascend chip.
    """
    if cann is None:
        return (_no_cann(),)
    if not shutil.which("atc", path=cann.environment.get("PATH", "")):
        remedy = "install the toolkit package of CANN"
        return (Lack("atc, the Ascend compiler", f"{cann} without it", remedy),)
    lacks = [_chip_lack(cann, soc_version(soc)) if soc else None, _python_lack(cann)]
    return tuple(lack for lack in lacks if lack)


def runtime_lacks(cann: Cann | None) -> tuple[Lack, ...]:
    """Returns the items that this process lacks to import pyACL, the runtime's Python interface.

    Args:
        cann: installation that `find_cann` returns; None if there is none.
    """
    if find_spec("acl") is not None:
        return ()
    if cann is None:
        return (_no_cann(),)
    source = f"source {cann.script}" if cann.script else f"set PYTHONPATH for {cann.home}"
    remedy = f"{source} before starting, and before `ray start` on each node"
    return (Lack("the Python module acl", f"{cann}, not in this environment", remedy),)


def compiler_environment(cann: Cann) -> dict[str, str]:
    """Returns the compiler's environment variables, with a supported Python first in PATH."""
    environment = dict(cann.environment)
    fitting = next((python for python in _pythons(cann) if not python.problem), None)
    if fitting:
        environment["PATH"] = f"{Path(fitting.path).parent}{os.pathsep}{environment['PATH']}"
    return environment


def first_version(soc: str) -> tuple[int, int]:
    """Returns the first version of CANN that supports a chip; (0, 0) if that is not known.

    Args:
        soc: name of the chip as `ascend.soc_version` returns it.
    """
    return next((first for name, first in _FIRST_VERSIONS if name.fullmatch(soc)), (0, 0))


def python_needs(cann: Cann) -> PythonNeeds:
    """Returns the Python that an installation supports; an unknown version counts as the newest."""
    if not cann.version:
        return _PYTHON_NEEDS[0][1]
    return next(needs for first, needs in _PYTHON_NEEDS if cann.number >= first)


def _chip_lack(cann: Cann, soc: str) -> Lack | None:
    first = first_version(soc)
    if cann.chips:
        is_known = soc.lower() in {chip.lower() for chip in cann.chips}
    else:
        is_known = not cann.version or cann.number >= first
    if is_known:
        return None
    known = ", ".join(cann.chips[:8]) + ", ..." * (len(cann.chips) > 8)
    found = str(cann) + (f", which supports {known}" if known else "")
    is_old = cann.version and cann.number < first
    newer = f"install CANN {first[0]}.{first[1]} or newer" if is_old else "install another CANN"
    return Lack(f"a compiler for {soc}", found, f"{newer}, or correct npu.soc")


def _python_lack(cann: Cann) -> Lack | None:
    pythons = []
    for python in _pythons(cann):
        if not python.problem:
            return None
        pythons.append(python)
    needs = python_needs(cann)
    numpy = f"numpy<{needs.numpy_below[0]}.{needs.numpy_below[1]}"
    what = f"a python3 for {cann}: 3.{needs.newest_minor} or older, {numpy}"
    found = "; ".join(f"{python.path}: {python.problem}" for python in pythons) or "none in PATH"
    remedy = (
        "put the folder of such a python3 into PATH, with "
        f"`pip install '{numpy}' decorator sympy cffi pyyaml psutil scipy attrs absl-py`"
    )
    return Lack(what, found, remedy)


def _pythons(cann: Cann) -> Iterator[_Python]:
    """Yields each `python3` in PATH, in the order of PATH."""
    needs = python_needs(cann)
    for folder in dict.fromkeys(cann.environment.get("PATH", "").split(os.pathsep)):
        if folder and (path := shutil.which("python3", path=folder)):
            yield _Python(path, _problem(_probed(path, tuple(cann.environment.items())), needs))


@cache
def _probed(path: str, environment: tuple[tuple[str, str], ...]) -> list[str]:
    """Returns the words that the probe prints in a Python; empty if the probe fails.

    The result is cached, because it is needed for each model that is compiled.
    """
    return output([path, "-c", _PROBE], dict(environment)).split()


def _problem(words: list[str], needs: PythonNeeds) -> str:
    if len(words) < 2:
        return "it does not run"
    minor, numpy, *lacking = words
    problems = [f"Python 3.{minor}"] if int(minor) > needs.newest_minor else []
    match = re.match(r"(\d+)\.(\d+)", numpy)
    if match and (int(match[1]), int(match[2])) >= needs.numpy_below:
        problems.append(f"NumPy {numpy}")
    return ", ".join([*problems, *(f"no {name}" for name in lacking)])


def _no_cann() -> Lack:
    return Lack(
        "CANN",
        "none in ASCEND_TOOLKIT_HOME, ASCEND_HOME_PATH, /usr/local/Ascend and ~/Ascend",
        "install it, or run what `compile --dry-run` prints on a machine that has it",
    )
