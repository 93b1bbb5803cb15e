"""Optional packages: those that extras install, and those that register entries of their own."""

import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from distributed_pose.errors import SetupError, first_line

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

# OpenVINO's import sends its version and the operating system to Google Analytics through this
# package. Without the package it sends nothing.
_TELEMETRY = "openvino_telemetry"


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


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Returns the versions of the distributions that are installed, by name."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Keeps OpenVINO, if the block imports it, from reporting its use to its makers.

    Their command `opt_in_out --opt_out` does so by a file in the user's home folder.
    """
    if _TELEMETRY in sys.modules:
        # Another package has loaded it on behalf of the user.
        yield
        return
    # Python does not import a module that is marked with None.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def load(location: str) -> Any:
    """Returns the object at a location such as `package.module:attribute`.

    Raises:
        Exception: any exception of importing the module, or AttributeError.
    """
    module, _, attribute = location.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Mapping[str, _T], Generic[_T]):
    """A table by name: the entries of this package, then those that other distributions register.

    A distribution registers an entry by an entry point of the table's group, so that every process
    of every node where the distribution is installed has it. Names are read from the metadata of
    distributions; the object of an entry point is loaded when it is looked up.

    Args:
        group: group of the entry points.
        kind: class of the entries.
        own: entries of this package.
        names: pattern that the name of an entry must match.
        reserved: further names that a distribution may not register.
    """

    def __init__(
        self,
        group: str,
        kind: type[_T],
        own: Mapping[str, _T],
        names: str,
        reserved: Collection[str] = (),
    ) -> None:
        self._group = group
        self._kind = kind
        self._own = own
        self._pattern = re.compile(names)
        self._reserved = {*own, *reserved}
        self._loaded: dict[str, _T] = {}
        self._broken: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._points

    def __len__(self) -> int:
        return len(self._own) + len(self._points)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._points

    def __getitem__(self, name: str) -> _T:
        """Returns an entry.

        Raises:
            KeyError: if no entry has the name.
            SetupError: if the distribution that registers the entry is broken.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._points[name])
        return self._loaded[name]

    def working(self) -> dict[str, _T]:
        """Returns the entries by name, with a warning of those that cannot be loaded."""
        found = {}
        for name in self:
            if name in self._broken:
                continue
            try:
                found[name] = self[name]
            except SetupError as error:
                self._broken.add(name)
                _LOG.warning("%s", error)
        return found

    def distribution(self, name: str) -> tuple[str, str] | None:
        """Returns name and version of the distribution of an entry; None for this package's."""
        point = self._points.get(name)
        return (point.dist.name, point.dist.version) if point and point.dist else None

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._group):
            is_free = point.name not in self._reserved and point.name not in points
            if is_free and self._pattern.fullmatch(point.name):
                points[point.name] = point
            else:
                reason = "is not a valid name" if is_free else "is taken already"
                _LOG.warning("entry point %s is left out: the name %s", _shown(point), reason)
        return points

    def _load(self, point: EntryPoint) -> _T:
        try:
            found = point.load()
        # Other packages can raise any exception.
        except Exception as error:  # noqa: BLE001
            reason = f"cannot be loaded: {first_line(error)}"
        else:
            if isinstance(found, self._kind):
                return found
            reason = f"is {type(found).__name__}, and must be {self._kind.__name__}"
        raise SetupError(
            f"entry point {_shown(point)} {reason}", "repair or uninstall the package that has it"
        )


def _shown(point: EntryPoint) -> str:
    owner = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.group}: {point.name} = {point.value}{owner}"
