"""Finds CANN, the software of Ascend chips: its folder, its version and the chips that it supports.

Source: the installation guides of CANN 5.1 to 9.1; in an installation, `set_env.sh`, `version.cfg`
and the files of `data/platform_config`, whose names are the chips that the compiler supports.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 60.0

# The script set_env.sh sets both variables to the same folder.
_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")

# Folders of installations in `/usr/local/Ascend` and `~/Ascend`. The first two are those of CANN
# 8.5 and later.
_FOLDERS = ("cann", "cann-*", "ascend-toolkit", "nnae")
_SET_ENV = "set_env.sh"

# The product's version takes precedence over the versions of its components.
_VERSION_FILES = (
    "*-linux/ascend_toolkit_install.info",
    "*-linux/ascend_nnae_install.info",
    "version.cfg",
    "version.info",
    "toolkit/version.info",
    "compiler/version.info",
)
# Matches `version=8.0.0`, `Version=8.0.RC1` or `runtime_running_version=[7.6.0.1.220:8.0.0]`.
_VERSION = re.compile(
    r"^(?:\w+_)?version\s*=\s*\[?(?:[^:\]\s]+:)?([^\]\s]+)", re.IGNORECASE | re.MULTILINE
)
_CHIP_FILES = ("*-linux/data/platform_config/*.ini", "compiler/data/platform_config/*.ini")

# The version file of the NPU driver, in the default folder of its installer.
_DRIVER = Path("/usr/local/Ascend/driver/version.info")
_DRIVER_VERSION = re.compile(r"^Version=(\S+)", re.MULTILINE)

# These variables configure this program's Python, and would make another Python fail.
_OUR_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Cann:
    """An installation of CANN.

    Attributes:
        home: folder of the installation, such as `/usr/local/Ascend/ascend-toolkit/latest`.
        script: path of `set_env.sh`; None where the environment was set without it.
        version: version of the product, such as `8.0.0`; empty if unknown.
        chips: names of the chips that the compiler supports; empty if unknown.
        environment: environment variables for the tools, without those of this program's Python.
    """

    home: Path
    script: Path | None
    version: str
    chips: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version, such as (8, 0); (0, 0) if unknown."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def __str__(self) -> str:
        return f"CANN {self.version or 'of unknown version'} in {self.home}"


def find_cann() -> Cann | None:
    """Returns the installation to use; None if there is none.

    The installation that the environment names takes precedence over those in the usual folders.
    """
    for script in _scripts():
        environment = _sourced(script)
        if home := _home(environment):
            return Cann(home, script, _version(home), _chips(home), environment)
    if home := _home(os.environ):
        return Cann(home, None, _version(home), _chips(home), _without_our_python(home))
    return None


def npu_versions() -> dict[str, str]:
    """Returns the versions of CANN and of the NPU driver, as far as known."""
    cann = find_cann()
    found = {"cann": cann.version if cann else "", "npu-driver": _driver_version()}
    return {name: value for name, value in found.items() if value}


def output(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Returns the standard output of a command in an environment; empty if the command fails."""
    try:
        answer = subprocess.run(  # noqa: S603 - a list of arguments
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _scripts() -> Iterator[Path]:
    """Yields the paths of the scripts that can set the environment, best first."""
    folders = []
    for root in filter(None, map(os.environ.get, _HOMES)):
        # The script is in the folder, or next to the link `latest` that leads to the folder.
        folders += [Path(root), Path(root).parent]
    for root_folder in (Path("/usr/local/Ascend"), Path.home() / "Ascend"):
        for pattern in _FOLDERS:
            folders += sorted(root_folder.glob(pattern), reverse=True)
    yield from (script for folder in folders if (script := folder / _SET_ENV).is_file())


def _sourced(script: Path) -> dict[str, str]:
    """Returns the environment after sourcing a script; empty if the script fails."""
    command = ["bash", "-c", 'source "$1" >/dev/null 2>&1; env -0', "bash", str(script)]
    return dict(
        entry.split("=", 1)
        for entry in output(command, _without_our_python()).split("\0")
        if "=" in entry
    )


def _without_our_python(home: Path | None = None) -> dict[str, str]:
    """Returns this process's environment without the variables that configure its Python.

    Args:
        home: folder of a CANN installation, whose entries of PYTHONPATH are kept; None keeps none.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _OUR_PYTHON}
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if kept := [entry for entry in entries if home and entry.startswith(str(home))]:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def _driver_version() -> str:
    try:
        found = _DRIVER_VERSION.search(_DRIVER.read_text())
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def _home(environment: Mapping[str, str]) -> Path | None:
    named = filter(None, map(environment.get, _HOMES))
    return next((Path(root) for root in named if Path(root).is_dir()), None)


def _version(home: Path) -> str:
    for file in (found for pattern in _VERSION_FILES for found in sorted(home.glob(pattern))):
        try:
            match = _VERSION.search(file.read_text(errors="replace"))
        except OSError:
            continue
        if match:
            return match[1]
    return ""


def _chips(home: Path) -> tuple[str, ...]:
    names = {file.stem for pattern in _CHIP_FILES for file in home.glob(pattern)}
    return tuple(sorted(name for name in names if name.startswith("Ascend")))
