"""The versions of the software that computes on a node, as a worker finds them."""

import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from distributed_pose.backends.registry import entry, owners
from distributed_pose.devices.kinds import KINDS
from distributed_pose.files.package_identity import package_identity
from distributed_pose.packages import installed_versions, load
from distributed_pose.records.devices import DeviceReady

# Every worker reports these distributions, which decode images and poses. The entry of its backend
# names those that run models, and the entry of its kind of device the versions of drivers.
_ALWAYS = ("simplejpeg", "numba")


def versions(backend: str, kind: str) -> dict[str, str]:
    """Returns the versions of the software that computes in this process, by its name.

    Args:
        backend: name of the backend in the registry.
        kind: kind of the device.
    """
    spec = entry(backend)
    found = {
        "distributed-pose": f"{package_identity().version} {package_identity().digest}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        **installed_versions((*_ALWAYS, *spec.distributions)),
    }
    # Packages of the system can provide these libraries, so their own version is read.
    for location in filter(None, (KINDS[kind].versions, spec.versions)):
        found |= load(location)()
    return found | dict(owners((backend,), kind))


def differences(devices: Sequence[DeviceReady]) -> Iterator[str]:
    """Yields a line for each software whose version differs between the devices of a run."""
    devices_by_version: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for device in devices:
        for name, value in device.versions:
            devices_by_version[name][value].append(_where(device))
    for name, found in sorted(devices_by_version.items()):
        if len(found) > 1:
            where = ", ".join(f"{value} on {names[0]}" for value, names in sorted(found.items()))
            yield f"{name} is not the same on all nodes: {where}"


def _where(device: DeviceReady) -> str:
    place = device.plan.node or device.host
    return f"{device.plan.name} ({place})" if place else device.plan.name
