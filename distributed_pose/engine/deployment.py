"""Plans the worker of each device: its backend, precision, batch sizes and artifact."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from distributed_pose.backends.readiness import Readiness, examine
from distributed_pose.backends.registry import (
    AUTO,
    BACKENDS,
    compile_spec,
    entry,
    resolve_precision,
)
from distributed_pose.config.selection import Selection
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.host import num_cpus
from distributed_pose.devices.kinds import KINDS
from distributed_pose.devices.planning import Accelerator, Node, plan_devices
from distributed_pose.errors import ConfigError
from distributed_pose.packages import load
from distributed_pose.records.devices import DevicePlan, ImagesToRead, WorkerSpec
from distributed_pose.records.models import CompileSpec

_LOG = logging.getLogger(__name__)

# The worker of each device has threads and some ten megabytes of buffers.
_MAX_LOCAL_DEVICES = 256


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


def supported_kinds(selection: Selection, accelerators: Iterable[Accelerator]) -> tuple[str, ...]:
    """Returns the kinds of devices that `devices: auto` takes and that a known backend runs on.

    Other kinds of available devices are left out, with a warning.

    Args:
        selection: selection of the run.
        accelerators: accelerators of all nodes.
    """
    available = {device.kind for device in accelerators}
    kinds = []
    for kind in selection.auto_kinds:
        if kind not in available or selection.kinds[kind].candidates:
            kinds.append(kind)
        elif selection.devices == (AUTO,):
            _LOG.warning("%s devices are left out: no installed package has a backend", kind)
    return tuple(kinds)


def usable_here(selection: Selection, accelerators: Iterable[Accelerator]) -> tuple[str, ...]:
    """Returns the kinds of devices that `devices: auto` takes on this machine.

    Kinds of available devices without an installed backend are left out, with a warning. If the
    configuration names a backend with its variant, or devices, an error reports it instead.

    Args:
        selection: selection of the run.
        accelerators: accelerators of this machine.
    """
    here = [*accelerators]
    available = {device.kind for device in here}
    kinds = []
    for kind in supported_kinds(selection, here):
        settings = selection.kinds[kind]
        is_open = kind in available and settings.backend not in BACKENDS
        found = examine(settings.candidates) if is_open else ()
        if not found or any(not ready.lacks for ready in found):
            kinds.append(kind)
        elif selection.devices == (AUTO,):
            _LOG.warning(
                "%s devices are left out: %s; check `distributed-pose doctor`", kind, reasons(found)
            )
    return tuple(kinds)


def reasons(found: Iterable[Readiness]) -> str:
    """Returns the first missing part of each backend, as a part of a sentence."""
    return "; ".join(f"{ready.backend} lacks {ready.lacks[0].what}" for ready in found)


def local_devices(selection: Selection) -> tuple[DevicePlan, ...]:
    """Returns the devices of this machine that a run uses without a cluster.

    Raises:
        ConfigError: if there are more devices than the limit of one machine.
        SetupError: if a configured device is not available.
    """
    here = Node("", "", num_cpus(), accelerators=local_accelerators())
    planned = plan_devices(
        selection.devices,
        [here],
        usable_here(selection, here.accelerators),
        cpus=selection.cpus,
        workers=selection.workers_per_device,
    )
    if len(planned) > _MAX_LOCAL_DEVICES:
        raise ConfigError(
            f"devices: {len(planned)} of them on one machine, over the limit of "
            f"{_MAX_LOCAL_DEVICES}"
        )
    return planned


def plan_deployment(
    selection: Selection,
    plan: DevicePlan,
    backend: str,
    model_format: str = "",
    images: ImagesToRead | None = None,
) -> Deployment:
    """Returns the deployment of a device.

    Args:
        selection: selection of the run.
        plan: the device.
        backend: full name of the backend that is chosen for the device.
        model_format: format of the user's model; empty for any that is compiled for the device.
        images: images that the worker reads; None if shards contain the images.
    """
    settings = selection.kinds[plan.kind]
    # The precision of a compiled model is read from the model, so it is not resolved here.
    is_compiled = model_format == "om"
    precision = (
        settings.precision if is_compiled else resolve_precision(backend, settings.precision)
    )
    spec = WorkerSpec(
        plan=plan,
        backend=backend,
        precision=precision,
        profile=selection.profile,
        batch_sizes=settings.batch_sizes,
        maps_dtype=selection.maps_dtype,
        gather=selection.gather,
        images=images,
        simulation=selection.simulation,
        dump_folder=selection.dump_folder,
        damaged=selection.damaged,
        feeders=selection.feeders,
        input_size=selection.input_size,
        scales=selection.scales,
        keypoints=selection.keypoints,
    )
    target = _target(selection, plan, backend)
    return Deployment(
        spec,
        compile_spec(
            backend,
            precision,
            selection.profile,
            settings.batch_sizes,
            target,
            selection.input_size,
        ),
    )


def on_this_machine(deployment: Deployment) -> Deployment:
    """Returns a deployment for a process that sees all devices of its machine."""
    plan = deployment.spec.plan
    index = plan.number if KINDS[plan.kind].is_accelerator else 0
    order = replace(deployment.order, index=index)
    return replace(deployment, spec=replace(deployment.spec, index=index), order=order)


def fits(backend: str, selection: Selection, kind: str, model_format: str) -> bool:
    """Returns whether `auto` may choose a backend for a profile, a precision and a model.

    Args:
        backend: name of the backend in the registry.
        selection: selection of the run.
        kind: kind of the device.
        model_format: format of the user's model; empty for any.
    """
    found = entry(backend)
    if found.fixed_shapes and not _has_fixed_inputs(selection.profile):
        return False
    if selection.kinds[kind].precision not in {"auto", *found.precisions}:
        return False
    return not (model_format and found.runs_model) or model_format in found.model_formats


def _has_fixed_inputs(profile: str) -> bool:
    # The profiles import OpenCV, which a listing of CPUs does not need.
    from distributed_pose.vision.profiles import PROFILES

    return PROFILES[profile].is_fixed


def chip_of(selection: Selection, plan: DevicePlan) -> str:
    """Returns the name of a device's chip for compilers.

    The name is empty if the chip is unknown, and for kinds whose artifacts are bound to no chip.
    """
    namer = KINDS[plan.kind].chip_namer
    try:
        name: str = load(namer)(selection.soc or plan.model) if namer else ""
    # A node can report the name of a family of chips, or none.
    except ConfigError:
        return ""
    return name


def _target(selection: Selection, plan: DevicePlan, backend: str) -> str:
    """Returns the chip or GPU that an artifact is bound to; empty for portable artifacts."""
    bound_to = entry(backend).bound_to
    if bound_to == "chip":
        return chip_of(selection, plan)
    # Two cards of unknown model may differ, so each one gets an artifact of its own.
    return (plan.model or plan.name) if bound_to == "device" else ""
