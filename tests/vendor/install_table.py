"""Prints a row of docs/howto/install.md for each target: versions, size, seconds and proof.

    python -m tests.vendor.install_table [TARGET ...]

Each is installed into an empty environment that is then removed. Without names it is those that
take less than a gigabyte; `gpu` and `tensorrt` download 2 GB each, and `torch` as much on a machine
whose index has only builds for CUDA.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vendor.targets import REPOSITORY, TARGETS, Target, resolve

_USUAL = ("cpu", "cann", "ascend", "int8", "cluster", "plots")


@dataclass(frozen=True)
class Installed:
    """Measurements of an environment.

    Attributes:
        megabytes: size on disk in 10^6 bytes, including the environment's Python.
        cpu_seconds: processor time of all processes of the installation, which other work on the
            machine does not change.
    """

    megabytes: float
    cpu_seconds: float


def install(target: Target) -> Installed:
    """Returns measurements of the installation of a target into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        environment, source = Path(folder, "env"), _copy(Path(folder, "source"))
        before = os.times()
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        pip = [str(environment / "bin/pip"), "install", "--quiet", "--no-compile"]
        pinned = ["-c", str(REPOSITORY / target.constraints), f"{source}[{target.name}]"]
        subprocess.run([*pip, *pinned], check=True, stderr=subprocess.DEVNULL)
        after = os.times()
        used = after.children_user + after.children_system
        used -= before.children_user + before.children_system
        return Installed(_megabytes(environment), used)


def row(target: Target, found: Installed | None) -> str:
    """Returns a target's row in Markdown.

    Args:
        target: target of the row.
        found: measurements; None if the target was not installed.
    """
    pins = resolve(
        (target.name,),
        python=target.pythons[0],
        platform=target.platforms[0],
        constraints=REPOSITORY / target.constraints,
        beside=target.beside,
    )
    versions = dict(line.partition(" ;")[0].split("==") for line in pins.splitlines())
    shown = ", ".join(f"{name} {versions[name]}" for name in target.shown)
    size = f"{found.megabytes:,.0f} MB" if found else "not installed"
    seconds = f"{found.cpu_seconds:.0f}" if found else "not installed"
    pythons = f"{target.pythons[0]} to {target.pythons[-1]}"
    machines = ", ".join(platform.partition("-")[0] for platform in target.platforms)
    cells = (f"`[{target.name}]`", shown, pythons, machines, size, seconds, target.proof)
    return f"| {' | '.join(cells)} |"


def _copy(folder: Path) -> Path:
    # A build writes files into the folder that it reads.
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "tests", "__pycache__")
    return Path(shutil.copytree(REPOSITORY, folder, ignore=ignored))


def _megabytes(folder: Path) -> float:
    used = subprocess.run(["du", "-sk", folder], capture_output=True, text=True, check=True)
    return int(used.stdout.split()[0]) * 1024 / 1e6


def main() -> None:
    """Prints the rows of the targets on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", default=_USUAL)
    given = parser.parse_args()
    for target in TARGETS:
        found = install(target) if target.name in given.targets else None
        print(row(target, found), flush=True)  # noqa: T201 - the output of the command


if __name__ == "__main__":
    main()
