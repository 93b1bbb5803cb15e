"""Plans the worker of each device: its backend, precision, batch sizes and artifact."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from distributed_pose.backends.readiness import Readiness, examine
from distributed_pose.backends.registry import (
    BACKENDS,
    candidates,
    compile_spec,
    entry,
    resolve_precision,
)
from distributed_pose.config.schema import CudaConfig, NpuConfig, RunConfig
from distributed_pose.config.selection import auto_kinds
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.host import num_cpus
from distributed_pose.devices.kinds import KINDS
from distributed_pose.devices.planning import Accelerator, Node, plan_devices
from distributed_pose.errors import ConfigError
from distributed_pose.packages import load
from distributed_pose.records import CompileSpec, DevicePlan, ImagesToRead, WorkerSpec

_LOG = logging.getLogger(__name__)

# The worker of each device has threads and some ten megabytes of buffers.
_MAX_LOCAL_DEVICES = 256


# Batch sizes that a sweep measures.
SWEPT = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Deployment:
    """A worker, and the artifact to compile for it.

    Attributes:
        spec: specification of the worker.
        order: specification of the artifact to compile.
        passed_over: one line per backend that `auto` prefers and the device does not take, with the
            reason.
    """

    spec: WorkerSpec
    order: CompileSpec
    passed_over: tuple[str, ...] = ()


def usable_here(config: RunConfig, accelerators: Iterable[Accelerator]) -> tuple[str, ...]:
    """Returns the kinds of devices that `devices: auto` takes on this machine.

    Kinds of available devices without an installed backend are left out, with a warning. If the
    configuration names a backend with its variant, or devices, an error reports it instead.

    Args:
        config: configuration of the run.
        accelerators: accelerators of this machine.
    """
    kinds = []
    there = {device.kind for device in accelerators}
    for kind in auto_kinds(config):
        name = config.on(kind).backend
        found = examine(candidates(name, kind)) if kind in there and name not in BACKENDS else ()
        if not found or any(not ready.lacks for ready in found):
            kinds.append(kind)
        elif config.devices == ("auto",):
            _LOG.warning(
                "%s devices are left out: %s; see `distributed-pose doctor`", kind, reasons(found)
            )
    return tuple(kinds)


def reasons(found: Iterable[Readiness]) -> str:
    """Returns the first missing part of each backend, as a part of a sentence."""
    return "; ".join(f"{ready.backend} lacks {ready.lacks[0].what}" for ready in found)


def local_devices(config: RunConfig) -> tuple[DevicePlan, ...]:
    """Returns the devices of this machine that a run uses without a cluster.

    Raises:
        ConfigError: if there are more devices than the limit of one machine.
        SetupError: if a configured device is not available.
    """
    here = Node("", "", num_cpus(), accelerators=local_accelerators())
    kinds = usable_here(config, here.accelerators)
    planned = plan_devices(
        config.devices, [here], kinds, cpus=config.cpu.cpus, workers=workers_per_device(config)
    )
    if len(planned) > _MAX_LOCAL_DEVICES:
        raise ConfigError(
            f"devices: {len(planned)} of them on one machine, over the limit of "
            f"{_MAX_LOCAL_DEVICES}"
        )
    return planned


def plan_deployment(
    config: RunConfig,
    plan: DevicePlan,
    backend: str,
    model_format: str = "",
    images: ImagesToRead | None = None,
) -> Deployment:
    """Returns the deployment of a device.

    Args:
        config: configuration of the run.
        plan: the device.
        backend: full name of the backend that is chosen for the device.
        model_format: format of the user's model; empty for any that is compiled for the device.
        images: images that the worker reads; None if shards contain the images.
    """
    settings = config.on(plan.kind)
    # The precision of a compiled model is read from the model, so it is not resolved here.
    is_compiled = model_format == "om"
    precision = (
        settings.precision if is_compiled else resolve_precision(backend, settings.precision)
    )
    sizes = SWEPT if settings.batch_size == "auto" else (settings.batch_size,)
    # The path is absolute, because workers have other working directories.
    dump_folder = str(config.dump_maps.absolute()) if config.dump_maps else ""
    spec = WorkerSpec(
        plan,
        backend,
        precision,
        config.profile,
        sizes,
        config.maps_dtype,
        config.gather,
        images=images,
        simulation=config.simulated.simulation,
        dump_folder=dump_folder,
        damaged=config.data.damaged,
    )
    target = _target(config, plan, backend)
    return Deployment(spec, compile_spec(backend, precision, config.profile, sizes, target))


def on_this_machine(deployment: Deployment) -> Deployment:
    """Returns a deployment for a process that sees all devices of its machine."""
    plan = deployment.spec.plan
    index = plan.number if KINDS[plan.kind].is_accelerator else 0
    order = replace(deployment.order, index=index)
    return replace(deployment, spec=replace(deployment.spec, index=index), order=order)


def fits(backend: str, config: RunConfig, kind: str, model_format: str) -> bool:
    """Returns whether `auto` may choose a backend for a profile, a precision and a model.

    Args:
        backend: name of the backend in the registry.
        config: configuration of the run.
        kind: kind of the device.
        model_format: format of the user's model; empty for any.
    """
    found = entry(backend)
    if found.fixed_shapes and not _has_fixed_inputs(config.profile):
        return False
    if config.on(kind).precision not in {"auto", *found.precisions}:
        return False
    return not (model_format and found.runs_model) or model_format in found.model_formats


def _has_fixed_inputs(profile: str) -> bool:
    # The profiles import OpenCV, which a listing of CPUs does not need.
    from distributed_pose.vision.profiles import PROFILES

    return PROFILES[profile].fixed_width is not None


def chip_of(config: RunConfig, plan: DevicePlan) -> str:
    """Returns the name of a device's chip for compilers.

    The name is empty if the chip is unknown, and for kinds whose artifacts are bound to no chip.
    """
    section, namer = config.section(plan.kind), KINDS[plan.kind].chip_namer
    configured = section.soc if isinstance(section, NpuConfig) else None
    try:
        name: str = load(namer)(configured or plan.model) if namer else ""
    # A node can report the name of a family of chips, or none.
    except ConfigError:
        return ""
    return name


def workers_per_device(config: RunConfig) -> dict[str, int]:
    """Returns the number of workers per device, for each kind that may have several."""
    sections = {kind: config.section(kind) for kind in KINDS}
    return {
        kind: section.workers_per_device
        for kind, section in sections.items()
        if isinstance(section, CudaConfig)
    }


def _target(config: RunConfig, plan: DevicePlan, backend: str) -> str:
    """Returns the chip or GPU that an artifact is bound to; empty for portable artifacts."""
    bound_to = entry(backend).bound_to
    if bound_to == "chip":
        return chip_of(config, plan)
    # Two cards of unknown model may differ, so each one gets an artifact of its own.
    return (plan.model or plan.name) if bound_to == "device" else ""
