"""Identifies the copy of this package that a process runs; all processes of a run need the same."""

import hashlib
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

# No process of a run imports these scripts. The folder is a link in a checkout, where patterns skip
# it, and a real folder in an installed package.
_LAUNCHERS = _PACKAGE / "launch"

_GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class PackageIdentity:
    """The package that a process has imported.

    Attributes:
        version: version of the distribution; `unknown` for a copy of the source alone.
        digest: digest of all source files and their names, 16 hexadecimal digits.
        path: path of the package's folder on the process's node.
    """

    version: str
    digest: str
    path: str

    def __str__(self) -> str:
        return f"{self.version} ({self.digest}) in {self.path}"


@cache
def package_identity() -> PackageIdentity:
    """Returns the identity of the package that this process has imported."""
    try:
        release = version("distributed-pose")
    except PackageNotFoundError:
        release = "unknown"
    return PackageIdentity(release, source_digest(), str(_PACKAGE))


@cache
def package_commit() -> str:
    """Returns the commit of the checkout that this process runs, as `git describe` names it.

    It ends in `-dirty` if files differ from the commit. It is empty if the package is not in a
    checkout of its own, or git cannot read the checkout.
    """
    # A repository may contain the virtual environment that an installed package is in.
    if not (_PACKAGE.parent / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--dirty", "--tags", "--abbrev=40"]
    # In a hook of git, variables name the repository of the hook.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command,
            cwd=_PACKAGE,
            env={**own, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def source_digest(*, without: Collection[str] = ()) -> str:
    """Returns a digest of the source files of this package, 16 hexadecimal digits.

    Args:
        without: names of folders and files in the package's folder that are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.parent == _LAUNCHERS or path.relative_to(_PACKAGE).parts[0] in without:
            continue
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_PACKAGE)} {len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def difference(other: object) -> str:
    """Returns how the package of another process differs from this one's; empty if it does not.

    Args:
        other: identity that the other process reports; older versions report another object.
    """
    mine = package_identity()
    if isinstance(other, PackageIdentity) and other.digest == mine.digest:
        return ""
    theirs = other if isinstance(other, PackageIdentity) else "another version"
    return f"it runs distributed_pose {theirs}, and the driver {mine}"
