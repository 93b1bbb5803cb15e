"""Computes the maps of stored runs again for some images, and compares them output by output.

Array legend: M all channels of heatmaps and PAFs, H and W map size in cells.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count as count_from
from pathlib import Path
from typing import Any

import numpy as np

from distributed_pose.backends.registry import entry
from distributed_pose.bench.worker_maps import infer_images, started_worker
from distributed_pose.config.loading import parse_config
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import check_one_scale, select
from distributed_pose.data.sources import ImageSource
from distributed_pose.devices.kinds import CPU
from distributed_pose.engine.deployment import local_devices
from distributed_pose.engine.steps import Progress
from distributed_pose.engine.worker import Worker
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.files.local import one_line
from distributed_pose.files.yaml_values import parse_yaml
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.locations import Location
from distributed_pose.records.devices import DeviceReady
from distributed_pose.records.images import ImageRecord
from distributed_pose.report.map_differences import MapComparison, MapRun, Maps, map_differences
from distributed_pose.report.run_report import DeviceReport
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.run.inputs import RunInputs, read_inputs

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rerun:
    """Devices of a stored run, whose configuration, model and data are available on this machine.

    Attributes:
        run: the stored run.
        number: number of the run, from 0.
        devices: devices of one kind with the same backend and precision, which give the same maps.
        inputs: inputs for one device of the kind.
    """

    run: StoredRun
    number: int
    devices: tuple[DeviceReport, ...]
    inputs: RunInputs

    @property
    def is_needed(self) -> bool:
        """Whether the devices include the first one of the run."""
        return self.devices[0] is self.run.report.devices[0]


def compare_maps(
    runs: Sequence[StoredRun], count: int, on_progress: Progress
) -> list[list[MapComparison]]:
    """Returns the maps of runs compared with those of the first device of the first run.

    Each run's model is loaded once for each kind, backend and precision of its devices, on a device
    of the same kind of this machine. Where that is impossible for other devices than the first one
    of a run, a warning names them. All runs get the same images: those that every run has
    evaluated, evenly spread over the dataset, read from where the first run read them.

    Returns a list for each further run. That of the second run begins with the other devices of the
    first run.

    Args:
        runs: two or more stored runs of one model, profile and input size.
        count: largest number of images.
        on_progress: called with the number of inferences in total, and of those done.

    Raises:
        ConfigError: if the runs differ in model, profile or input size, a run executes no model or
            averages several scales, or the runs have no image in common.
        SetupError: if a run's configuration, model or data is not available on this machine, or
            no device computes in the precision of the run.
        ExecutionError: if an image cannot be read, or a device fails.
    """
    _check_alike(runs)
    reruns = [one for number, run in enumerate(runs) for one in _open(run, number)]
    images = _spread(_common(reruns), count)
    source, index = reruns[0].inputs.images, reruns[0].inputs.index
    names = [(index.listed_id(image.image_id), image.file_name) for image in images]
    keypoints = _common_set(reruns)
    total = len(reruns) * len(images)
    done = count_from(1)
    computed = _computed(reruns, images, source, lambda: on_progress(total, next(done)))
    _, first, first_maps = next(computed)
    found: list[list[MapComparison]] = [[] for _ in runs[1:]]
    for rerun, second, maps in computed:
        compared = MapComparison(
            images=len(images),
            first=first,
            second=second,
            outputs=map_differences(names, first_maps, maps, keypoints),
        )
        found[max(0, rerun.number - 1)].append(compared)
    return found


def _check_alike(runs: Sequence[StoredRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.report.model.sha256 != first.report.model.sha256:
            raise ConfigError(
                f"{first.location} and {run.location} are runs of different models",
                "--maps compares backends or precisions of one model file",
            )
        if run.report.preprocessing != first.report.preprocessing:
            raise ConfigError(
                f"{first.location} has {first.report.preprocessing}, and {run.location} "
                f"{run.report.preprocessing}",
                "--maps compares runs of one profile and input size",
            )


def _open(run: StoredRun, number: int) -> list[_Rerun]:
    """Returns the devices of a run by kind, backend and precision, with their inputs."""
    with _named(run):
        if not run.report.devices:
            raise SetupError("its report names no device")
    alike: dict[tuple[str, str, str], list[DeviceReport]] = {}
    for device in run.report.devices:
        alike.setdefault((device.kind, device.backend, device.precision), []).append(device)
    return [_Rerun(run, number, (*some,), _inputs(run, some[0])) for some in alike.values()]


def _inputs(run: StoredRun, device: DeviceReport) -> RunInputs:
    """Returns the inputs that the report and the configuration of a run name, for one device."""
    with _named(run):
        config = _config(run, device)
        selection = select(config)
        check_one_scale(selection, "--maps")
        if not selection.runs_model:
            raise ConfigError(f"backend {run.report.backend} runs no model", "leave --maps out")
        inputs = read_inputs(config)
        if inputs.model.sha256 != run.report.model.sha256:
            raise SetupError(f"{inputs.model.path} is not the model file of the run any more")
        return inputs


def _common_set(reruns: Sequence[_Rerun]) -> KeypointSet:
    """Returns the keypoint set of all runs.

    Raises:
        ConfigError: if they have different ones.
    """
    first = reruns[0].inputs.selection.keypoints
    for rerun in reruns[1:]:
        if rerun.inputs.selection.keypoints != first:
            raise ConfigError(
                f"{reruns[0].run.location} and {rerun.run.location} have different keypoint sets",
                "--maps compares runs of one set",
            )
    return first


def _config(run: StoredRun, device: DeviceReport) -> RunConfig:
    """Returns the configuration of a run for one device, with the paths of its report."""
    report = run.report
    config = _stored_config(run)
    # A compiled model can have a precision that cannot be requested.
    is_askable = device.precision in entry(device.backend).precisions
    own: dict[str, Any] = {
        "backend": device.backend,
        "precision": device.precision if is_askable else "auto",
        "batch_size": device.batch_size,
    }
    own |= {"cpus": None} if device.kind == CPU else {}
    data = {
        "images": Location(report.data.images),
        "annotations": Location(report.data.annotations),
    }
    return config.model_copy(
        update={
            "devices": (CPU if device.kind == CPU else f"{device.kind}:0",),
            device.kind: config.section(device.kind).model_copy(update=own),
            "data": config.data.model_copy(update=data),
            "model": config.model.model_copy(update={"path": Path(report.model.path)}),
        }
    )


def _stored_config(run: StoredRun) -> RunConfig:
    try:
        values = parse_yaml(run.config)
    except ValueError as error:
        raise SetupError(f"its configuration is not YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise SetupError("its configuration is missing or unreadable")
    return parse_config(values)


def _common(reruns: Sequence[_Rerun]) -> list[ImageRecord]:
    """Returns the images, each file once, that all runs have evaluated.

    Raises:
        ConfigError: if there are none.
    """
    evaluated = [
        {image.file_name for image in rerun.inputs.index.images}
        - {failure.file_name for failure in rerun.run.report.failures}
        for rerun in reruns
    ]
    names = set.intersection(*evaluated)
    by_name = {image.file_name: image for image in reversed(reruns[0].inputs.index.images)}
    common = [image for name, image in reversed(by_name.items()) if name in names]
    if not common:
        raise ConfigError("the runs have no image in common", "leave --maps out")
    return common


def _spread(images: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Returns at most `count` images, evenly spread: int8 is calibrated with the first ones."""
    count = min(count, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def _computed(
    reruns: Sequence[_Rerun],
    images: Sequence[ImageRecord],
    source: ImageSource,
    on_image: Callable[[], object],
) -> Iterator[tuple[_Rerun, MapRun, list[Maps]]]:
    """Yields the maps of each run's devices, but for further devices that this machine lacks."""
    for rerun in reruns:
        try:
            described, maps = _maps(rerun, images, source, on_image)
        except SetupError as error:
            if rerun.is_needed:
                raise
            _LOG.warning("%s is not compared: %s", _listed(rerun.devices), error.message)
        else:
            yield rerun, described, maps


def _listed(devices: Sequence[DeviceReport]) -> str:
    return ", ".join(device.name for device in devices)


def _maps(
    rerun: _Rerun,
    images: Sequence[ImageRecord],
    source: ImageSource,
    on_image: Callable[[], object],
) -> tuple[MapRun, list[Maps]]:
    """Returns the device that stands for those of a run, and its maps [M, H, W] of each image."""
    device = rerun.devices[0]
    maps = []
    with _named(rerun.run), _worker(rerun.inputs) as (worker, ready):
        if ready.precision != device.precision:
            raise SetupError(
                f"{ready.backend} computes in {ready.precision} here, and in the run in "
                f"{device.precision}"
            )
        # One image per shard, so that maps come in the order of the images, whatever their sizes.
        for batch in infer_images(worker, images, source, 1):
            parts = batch.heatmaps_NKHW[0], batch.pafs_NPHW[0]
            maps.append(np.concatenate(parts).astype(np.float32))
            on_image()
    described = MapRun(
        folder=str(rerun.run.location),
        names=tuple(device.name for device in rerun.devices),
        device=ready.description,
        backend=ready.backend,
        precision=ready.precision,
    )
    return described, maps


def _worker(inputs: RunInputs) -> AbstractContextManager[tuple[Worker, DeviceReady]]:
    return started_worker(inputs, local_devices(inputs.selection)[0])


@contextmanager
def _named(run: StoredRun) -> Iterator[None]:
    """Adds the folder of a run to the errors about its configuration, model, data and device."""
    try:
        yield
    except (ConfigError, SetupError) as error:
        error.message = f"{run.location} cannot be run here for --maps: {error.message}"
        raise
