"""Defines the kinds of devices: one entry per kind, with everything that differs between kinds."""

import re
from dataclasses import dataclass

from distributed_pose.packages import Registry


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """The properties of a kind of device.

    Functions are given by their location, `module:function`, and are loaded on first use.

    Attributes:
        resource: Ray's name of the resource that a worker reserves.
        labels: names of the Ray node labels that hold the model name of the devices, best first.
        variable: environment variable that hides devices of the kind from a process; empty for
            CPUs.
        lister: function that returns the devices of this machine as a sequence of
            `devices.planning.Accelerator`, without loading an SDK; empty for CPUs.
        id_reader: function that returns the ids in a value of `variable` as the vendor's runtime
            reads them; empty if they are separated by commas.
        model_reader: function that returns the model name in the value of a label, or an empty
            string if the value names no device of the kind; empty if the value is the model name.
        chip_namer: function that returns the name that compilers use for a chip, from its model
            name, and raises ConfigError for other names; empty if no artifact is bound to a chip.
        versions: function that returns the versions of drivers and toolkits by name; empty if
            there are none.
        meter: function that returns the `devices.metering.Meter` of a device, from the id by which
            its node knows the device, or None where the driver cannot be asked; empty if there is
            none.
    """

    resource: str
    labels: tuple[str, ...] = ()
    variable: str = ""
    lister: str = ""
    id_reader: str = ""
    model_reader: str = ""
    chip_namer: str = ""
    versions: str = ""
    meter: str = ""

    @property
    def is_accelerator(self) -> bool:
        """Whether the devices of the kind are cards or chips, rather than the CPUs of a node."""
        return bool(self.variable)


CPU, CUDA, NPU = "cpu", "cuda", "npu"

# Ray asks the driver for the names of GPUs, and of Ascend chips where `ray start` runs in CANN's
# environment.
_RAYS_LABEL = "ray.io/accelerator-type"

_ROOM = "distributed_pose.devices"

_KIND_NAME = "[a-z][a-z0-9]{0,15}"

# The names of devices in a run, such as `cuda:2`, and `cuda:2.1` for a further worker of a device.
DEVICE_NAME = re.compile(rf"{_KIND_NAME}:[0-9]{{1,9}}(\.[0-9]{{1,9}})?")

# The order of the kinds is the order in which devices are listed and numbered. The kinds of other
# distributions follow; the name of a kind is also a section of the configuration.
KINDS: Registry[DeviceKind] = Registry(
    "distributed_pose.device_kinds",
    DeviceKind,
    {
        CPU: DeviceKind(resource="CPU"),
        NPU: DeviceKind(
            resource="NPU",
            # Users set `ray start --labels soc=310P3` where Ray does not know the chip.
            labels=(_RAYS_LABEL, "soc"),
            variable="ASCEND_RT_VISIBLE_DEVICES",
            lister=f"{_ROOM}.discovery:list_npus",
            id_reader=f"{_ROOM}.discovery:npu_ids",
            model_reader=f"{_ROOM}.ascend:model_of_label",
            chip_namer=f"{_ROOM}.ascend:soc_version",
            versions=f"{_ROOM}.cann:npu_versions",
            meter=f"{_ROOM}.npu_meter:npu_meter",
        ),
        CUDA: DeviceKind(
            resource="GPU",
            labels=(_RAYS_LABEL,),
            variable="CUDA_VISIBLE_DEVICES",
            lister=f"{_ROOM}.discovery:list_gpus",
            versions=f"{_ROOM}.nvidia:cuda_versions",
            meter=f"{_ROOM}.nvml:nvml_meter",
        ),
    },
    names=_KIND_NAME,
)


def accelerators() -> tuple[str, ...]:
    """Returns the names of the kinds that are accelerators, in the order of the table."""
    return tuple(name for name, kind in KINDS.working().items() if kind.is_accelerator)
