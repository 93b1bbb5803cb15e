"""Which copy of this package a process runs, so that all processes of a run have one code."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

# Scripts that no process of a run imports. In a checkout the folder is a link, which patterns pass
# over, and in an installed package it is none.
_LAUNCHERS = _PACKAGE / "launch"


@dataclass(frozen=True)
class PackageIdentity:
    """The package that a process has imported.

    Attributes:
        version: of its distribution; `unknown` for a bare copy of the source.
        digest: of all its source files and their names, 16 hexadecimal digits.
        path: of its folder on its own node.
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
    return PackageIdentity(release, source_digest("**/*.py"), str(_PACKAGE))


def source_digest(*patterns: str) -> str:
    """Returns a digest of source files of this package, 16 hexadecimal digits.

    Args:
        patterns: of files, relative to the package.
    """
    digest = hashlib.sha256()
    found = {path for pattern in patterns for path in _PACKAGE.glob(pattern)}
    for path in sorted(path for path in found if path.parent != _LAUNCHERS):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_PACKAGE)} {len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def difference(other: object) -> str:
    """Returns how the package of another process differs from this one's; empty if it does not.

    Args:
        other: what that process says it is; older versions do not say.
    """
    mine = package_identity()
    if isinstance(other, PackageIdentity) and other.digest == mine.digest:
        return ""
    theirs = other if isinstance(other, PackageIdentity) else "another version"
    return f"it runs distributed_pose {theirs}, and the driver {mine}"
