"""Optional packages, each named with the extra of this package that installs it."""

from importlib.util import find_spec

from distributed_pose.errors import SetupError


def is_installed(module: str) -> bool:
    """Returns whether a top-level module can be imported; nothing is loaded for it."""
    return find_spec(module) is not None


def require(module: str, *, extra: str, purpose: str) -> None:
    """Checks that an optional package is there, without loading it.

    Args:
        module: that it is imported as.
        extra: of this package that installs it.
        purpose: what it is needed for, as the subject of the message.

    Raises:
        SetupError: if it is not installed; names the command that installs it.
    """
    if not is_installed(module):
        raise missing(module, extra=extra, purpose=purpose)


def missing(module: str, *, extra: str, purpose: str) -> SetupError:
    """Returns the error that names a missing package and the command that installs it."""
    return SetupError(f"{purpose} needs {module}, which is not installed", install_hint(extra))


def install_hint(*extras: str) -> str:
    """Returns the command that installs any one of some extras into an environment of ours."""
    return " or ".join(f"pip install 'distributed-pose[{extra}]'" for extra in extras)
