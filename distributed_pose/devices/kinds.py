"""Defines the kinds of devices: one entry per kind, with everything that differs between kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """The properties of a kind of device.

    Attributes:
        resource: Ray's name of the resource that a worker reserves.
        labels: names of the Ray node labels that hold the model name of the devices, best first.
        variable: environment variable that hides devices of the kind from a process; empty for
            CPUs.
        lister: `module:function` that returns the devices of this machine as a sequence of
            `devices.planning.Accelerator`, without loading an SDK; empty for CPUs.
    """

    resource: str
    labels: tuple[str, ...] = ()
    variable: str = ""
    lister: str = ""

    @property
    def is_accelerator(self) -> bool:
        """Whether the devices of the kind are cards or chips, rather than the CPUs of a node."""
        return bool(self.variable)


CPU, CUDA, NPU = "cpu", "cuda", "npu"

# Ray asks the driver for the names of GPUs, and of Ascend chips where `ray start` runs in CANN's
# environment.
_RAYS_LABEL = "ray.io/accelerator-type"

_DISCOVERY = "distributed_pose.devices.discovery"

# The order of the kinds is the order in which devices are listed and numbered.
KINDS: Mapping[str, DeviceKind] = MappingProxyType(
    {
        CPU: DeviceKind(resource="CPU"),
        NPU: DeviceKind(
            resource="NPU",
            # Users set `ray start --labels soc=310P3` where Ray does not know the chip.
            labels=(_RAYS_LABEL, "soc"),
            variable="ASCEND_RT_VISIBLE_DEVICES",
            lister=f"{_DISCOVERY}:list_npus",
        ),
        CUDA: DeviceKind(
            resource="GPU",
            labels=(_RAYS_LABEL,),
            variable="CUDA_VISIBLE_DEVICES",
            lister=f"{_DISCOVERY}:list_gpus",
        ),
    }
)


def accelerators() -> tuple[str, ...]:
    """Returns the names of the kinds that are accelerators, in the order of the table."""
    return tuple(name for name, kind in KINDS.items() if kind.is_accelerator)
