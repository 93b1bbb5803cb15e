"""Writes the constraints of every target from what the package index has.

    python -m tests.vendor.constraints [--upgrade] [TARGET ...]

Versions that are in a file already stay as they are where they still fit, unless `--upgrade` is
given.
"""

import argparse

from tests.vendor.targets import FROM_NVIDIA, PYTHONS, REPOSITORY, TARGETS, Target, resolve

_HEAD = "# Written by `python -m tests.vendor.constraints`.\n"


def write(target: Target, *, upgrade: bool) -> None:
    """Writes the constraints of a target, for the oldest Python and the first of its platforms."""
    path = REPOSITORY / target.constraints
    known = path.read_text() if path.exists() else ""
    # Packages that do not depend on the device have the versions that the tests run with.
    common = (REPOSITORY / TARGETS[0].constraints).read_text()
    found = resolve(
        (target.name, *target.with_extras),
        python=PYTHONS[0],
        platform=target.platforms[0],
        beside=target.beside,
        preferred="" if upgrade else known or common,
    )
    use = f"# pip install -c {target.constraints} '.[{target.name}]'\n"
    path.write_text(f"{_HEAD}{use}{found}{_from_nvidia(found)}")


def _from_nvidia(found: str) -> str:
    pins = dict(line.split("==") for line in found.splitlines() if "==" in line)
    bindings = pins.get("tensorrt-cu13-bindings")
    return "".join(f"{name}=={bindings}\n" for name in FROM_NVIDIA) if bindings else ""


def main() -> None:
    """Writes the constraints that the command line names."""
    # Several targets share a file, which is written for the first of them.
    owners = {target.constraints: target for target in reversed(TARGETS)}
    targets = {target.name: target for target in reversed(owners.values())}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets)}")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    given = parser.parse_args()
    for name in given.targets or targets:
        write(targets[name], upgrade=given.upgrade)


if __name__ == "__main__":
    main()
