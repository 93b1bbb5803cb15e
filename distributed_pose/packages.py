"""Optional packages, each named with the extra of this package that installs it."""

from importlib.util import find_spec

from distributed_pose.errors import SetupError


def is_installed(module: str) -> bool:
    """Returns whether a top-level module can be imported, without loading it."""
    return find_spec(module) is not None


def require(module: str, *, extra: str, purpose: str) -> None:
    """Checks that an optional package is installed, without loading it.

    Args:
        module: name of the package in imports.
        extra: extra of `distributed-pose` that installs the package.
        purpose: purpose of the package, as the subject of the message.

    Raises:
        SetupError: if the package is missing; names the command that installs it.
    """
    if not is_installed(module):
        raise missing(module, extra=extra, purpose=purpose)


def missing(module: str, *, extra: str, purpose: str) -> SetupError:
    """Returns the error that names a missing package and the command that installs it."""
    return SetupError(f"{purpose} needs {module}, which is not installed", install_hint(extra))


def install_hint(*extras: str) -> str:
    """Returns the command that installs one of the named extras."""
    return " or ".join(f"pip install 'distributed-pose[{extra}]'" for extra in extras)
