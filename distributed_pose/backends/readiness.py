"""Which backends can start where: the answers that `devices`, `doctor` and `auto` share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from distributed_pose.backends.needs import AscendCompiler
from distributed_pose.backends.registry import entry
from distributed_pose.backends.requirements import lacks
from distributed_pose.devices.lacks import Lack
from distributed_pose.records import DevicePlan


@dataclass(frozen=True)
class Readiness:
    """Whether a backend can start on a machine.

    Attributes:
        backend: name in the registry, or a fake's variant.
        lacks: what it needs and the machine does not have; empty if it can start.
        compiler_lacks: what is missing beside that to compile a model for it.
    """

    backend: str
    lacks: tuple[Lack, ...] = ()
    compiler_lacks: tuple[Lack, ...] = ()

    def missing(self, model_format: str) -> tuple[Lack, ...]:
        """Returns what is missing to run a model of a format, each thing once."""
        needed = () if model_format == "om" else self.compiler_lacks
        return tuple(dict.fromkeys((*self.lacks, *needed)))


@dataclass(frozen=True)
class DeviceSurvey:
    """A device and its backends.

    Attributes:
        plan: the device.
        backends: all that are for its kind, and those that are configured, best first.
        takes: the backend that a run with this configuration takes; empty if none can start.
        is_spare: whether a run uses it only where there is no accelerator.
    """

    plan: DevicePlan
    backends: tuple[Readiness, ...]
    takes: str
    is_spare: bool = False


@dataclass(frozen=True)
class NodeSurvey:
    """What a node says of itself.

    Attributes:
        address: as the cluster knows it; empty for this machine without a cluster.
        backends: of its devices by their names.
        lacks: what is missing whatever the backend, such as the driver of a card.
    """

    address: str
    backends: Mapping[str, tuple[Readiness, ...]]
    lacks: tuple[Lack, ...]


@dataclass(frozen=True)
class Survey:
    """The devices of a configuration and what they can run.

    Attributes:
        devices: in the order of a run.
        nodes: in the order of their first devices.
        model_format: that the answers hold for; empty for any.
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


def examine(names: Iterable[str], soc: str = "") -> tuple[Readiness, ...]:
    """Returns whether backends can start on this machine, in the order of their names.

    No vendor's SDK is loaded into this process.

    Args:
        names: in the registry, or fakes' variants.
        soc: name of the Ascend chip that models are compiled for; empty for any.
    """
    return tuple(_examined(name, soc) for name in names)


def _examined(name: str, soc: str) -> Readiness:
    found = entry(name)
    # Which chip it is matters to a compiler alone.
    compiler_needs = [
        replace(need, soc=soc) if isinstance(need, AscendCompiler) else need
        for need in found.compiler_needs
    ]
    return Readiness(name, lacks(found.needs), lacks(compiler_needs))
