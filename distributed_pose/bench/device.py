"""Measures the compute-only time of batches of each size on each device, and the best size."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import check_computes, select
from distributed_pose.devices.kinds import KINDS
from distributed_pose.engine.steps import Progress
from distributed_pose.engine.trials import Sweep
from distributed_pose.errors import PoseEvalError
from distributed_pose.evaluation import open_engine
from distributed_pose.metrics.throughput import (
    LatencyFigures,
    best_batch_size,
    latency_figures,
)
from distributed_pose.records.devices import DeviceReady
from distributed_pose.run.inputs import read_model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSweep:
    """The figures of one device for each batch size.

    Attributes:
        name: name of the device, such as `npu:0`.
        description: name that the device reports.
        node: address of the node of the device.
        backend: backend that ran the model.
        precision: precision that the compiled model computes in.
        profile: preprocessing profile.
        input: size of the network inputs, `HEIGHTxWIDTH` in pixels.
        scales: scale factors; the figures are those of the inputs of all scales together.
        batches: figures for each batch size, in ascending order.
        best_batch_size: batch size with the most images per second, compute only.
    """

    name: str
    description: str
    node: str
    backend: str
    precision: str
    profile: str
    input: str
    scales: tuple[float, ...]
    batches: tuple[LatencyFigures, ...]
    best_batch_size: int


def bench_device(
    config: RunConfig, batch_sizes: Sequence[int], least_s: float, on_progress: Progress
) -> tuple[DeviceSweep, ...]:
    """Returns the sweep of each device of a configuration, one device at a time.

    The model is compiled and loaded again for each batch size, so that the figures are those of a
    run with that `batch_size`. The first size that fails and all larger sizes are skipped with a
    warning.

    Args:
        config: configuration that gives model, backend and devices.
        batch_sizes: batch sizes to measure.
        least_s: least time for which each batch size is measured, in seconds.
        on_progress: callback that is called after each batch size.

    Raises:
        SetupError: if a device cannot run the model with the smallest batch size.
    """
    selection = select(config)
    check_computes(selection)
    selection, _, _ = read_model(config, selection)
    config = config.model_copy(update={"input": str(selection.input_size)})
    devices: dict[str, DeviceReady] = {}
    sweeps: dict[str, dict[int, Sweep]] = {}
    sizes = sorted(set(batch_sizes))
    with ExitStack() as stack:
        # An open engine keeps Ray alive. Otherwise each batch size would start it.
        stack.enter_context(open_engine(config))
        for done, size in enumerate(sizes):
            try:
                for device, sweep in _sweep(_with_batch_size(config, size), size, least_s):
                    devices[device.plan.name] = device
                    sweeps.setdefault(device.plan.name, {})[size] = sweep
                config = _with_backends(config, devices.values())
            except PoseEvalError as error:
                if not devices:
                    raise
                # The usual reason is too little memory, and larger batches need more of it.
                _LOG.warning("batches of %d and more are left out: %s", size, error)
                break
            on_progress(len(sizes), done + 1)
    return tuple(_figures(config, device, sweeps[name]) for name, device in devices.items())


def _sweep(config: RunConfig, size: int, least_s: float) -> Iterator[tuple[DeviceReady, Sweep]]:
    selection, source, calibration = read_model(config, select(config))
    with open_engine(config) as engine:
        for device in engine.start(selection, source, calibration):
            yield device, engine.sweep(device.plan.name, size, least_s)


def _with_batch_size(config: RunConfig, size: int) -> RunConfig:
    # A kind of devices can have a batch size of its own, which would take precedence.
    own = {kind: config.section(kind).model_copy(update={"batch_size": None}) for kind in KINDS}
    return config.model_copy(update={"batch_size": size, **own})


def _with_backends(config: RunConfig, devices: Iterable[DeviceReady]) -> RunConfig:
    """Returns a configuration that names the backend of each kind of devices.

    With `auto`, a batch size that does not fit could select another backend, and the figures of two
    backends would be mixed.
    """
    backends: dict[str, set[str]] = {}
    for device in devices:
        backends.setdefault(device.plan.kind, set()).add(device.backend)
    own = {
        kind: config.section(kind).model_copy(update={"backend": min(names)})
        for kind, names in backends.items()
        if len(names) == 1
    }
    return config.model_copy(update=own)


def _figures(config: RunConfig, device: DeviceReady, sweeps: dict[int, Sweep]) -> DeviceSweep:
    return DeviceSweep(
        name=device.plan.name,
        description=device.description,
        node=device.plan.node,
        backend=device.backend,
        precision=device.precision,
        profile=config.profile,
        input=config.input,
        scales=config.scales,
        batches=tuple(
            latency_figures(size, sweep.compute_ns, sweep.latencies_ns, sweep.wall_ns)
            for size, sweep in sweeps.items()
        ),
        best_batch_size=best_batch_size({size: sweep.compute_ns for size, sweep in sweeps.items()}),
    )
