"""Finds which backends can start on which devices, for `devices`, `doctor` and `auto`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from distributed_pose.backends.needs import AscendCompiler
from distributed_pose.backends.registry import entry
from distributed_pose.backends.requirements import lacks
from distributed_pose.devices.lacks import Lack
from distributed_pose.records.devices import DevicePlan


@dataclass(frozen=True)
class Readiness:
    """Whether a backend can start on a machine.

    Attributes:
        backend: name in the registry, or a fake's name with its variant.
        lacks: requirements of the backend that the machine does not meet; empty if it can start.
        compiler_lacks: requirements of the backend's compiler that the machine does not meet.
    """

    backend: str
    lacks: tuple[Lack, ...] = ()
    compiler_lacks: tuple[Lack, ...] = ()

    def missing(self, model_format: str) -> tuple[Lack, ...]:
        """Returns the unmet requirements to run a model of a format, without duplicates."""
        needed = () if model_format == "om" else self.compiler_lacks
        return tuple(dict.fromkeys((*self.lacks, *needed)))


@dataclass(frozen=True)
class DeviceSurvey:
    """A device and its backends.

    Attributes:
        plan: plan of the device.
        backends: readiness of the backends for the device's kind and of the configured backends,
            best first.
        takes: name of the backend that a run with this configuration uses; empty if none can start.
        is_spare: whether a run uses the device only if no accelerator is available.
    """

    plan: DevicePlan
    backends: tuple[Readiness, ...]
    takes: str
    is_spare: bool = False


@dataclass(frozen=True)
class NodeSurvey:
    """The state of a node as it reports it.

    Attributes:
        address: address of the node in the cluster; empty for this machine without a cluster.
        backends: readiness of the backends, by device name.
        lacks: missing requirements of all backends, such as the driver of a card.
    """

    address: str
    backends: Mapping[str, tuple[Readiness, ...]]
    lacks: tuple[Lack, ...]


@dataclass(frozen=True)
class Survey:
    """The devices of a configuration and the backends that they can run.

    Attributes:
        devices: surveys of the devices, in the order of a run.
        nodes: surveys of the nodes, in the order of their first devices.
        model_format: format of the model that the answers hold for; empty for any.
    """

    devices: tuple[DeviceSurvey, ...]
    nodes: tuple[NodeSurvey, ...]
    model_format: str

    @property
    def used(self) -> tuple[DeviceSurvey, ...]:
        """The devices without the spare ones."""
        return tuple(device for device in self.devices if not device.is_spare)

    @property
    def is_ready(self) -> bool:
        """Whether there are devices to use, each has a backend, and no card lacks its driver."""
        if not self.used or any(node.lacks for node in self.nodes):
            return False
        return all(device.takes for device in self.used)


def examine(names: Iterable[str], soc: str | None = None) -> tuple[Readiness, ...]:
    """Returns the readiness of backends on this machine, in the order of `names`.

    No vendor's SDK is loaded into this process.

    Args:
        names: names in the registry, or names of fakes with their variants.
        soc: name of the chip that models are compiled for; empty if it is unknown, and None for
            any chip.
    """
    return tuple(_examined(name, soc) for name in names)


def _examined(name: str, soc: str | None) -> Readiness:
    found = entry(name)
    # Only a compiler depends on the type of the chip.
    compiler_needs = [
        replace(need, soc=soc) if isinstance(need, AscendCompiler) else need
        for need in found.compiler_needs
    ]
    return Readiness(name, lacks(found.needs), lacks(compiler_needs))
