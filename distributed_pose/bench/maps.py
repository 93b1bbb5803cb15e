"""Computes the maps of stored runs again for some images, and compares them output by output.

Array legend: M all channels of heatmaps and PAFs, H and W map size in cells.
"""

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
from distributed_pose.report.stored_run import StoredRun
from distributed_pose.run.inputs import RunInputs, read_inputs


@dataclass(frozen=True)
class _Rerun:
    """A stored run whose configuration, model and data are available on this machine."""

    run: StoredRun
    inputs: RunInputs


def compare_maps(
    runs: Sequence[StoredRun], count: int, on_progress: Progress
) -> tuple[MapComparison, ...]:
    """Returns the maps of runs compared with those of the first run.

    Each run's model is loaded with the backend and the precision of the run's first device, on a
    device of the same kind of this machine. All runs get the same images: those that every run has
    evaluated, evenly spread over the dataset, read from where the first run read them.

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
    reruns = [_open(run) for run in runs]
    images = _spread(_common(reruns), count)
    source, index = reruns[0].inputs.images, reruns[0].inputs.index
    names = [(index.listed_id(image.image_id), image.file_name) for image in images]
    keypoints = _common_set(reruns)
    total = len(reruns) * len(images)
    done = count_from(1)
    computed = (
        _maps(rerun, images, source, lambda: on_progress(total, next(done))) for rerun in reruns
    )
    first, first_maps = next(computed)
    return tuple(
        MapComparison(
            images=len(images),
            first=first,
            second=second,
            outputs=map_differences(names, first_maps, maps, keypoints),
        )
        for second, maps in computed
    )


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


def _open(run: StoredRun) -> _Rerun:
    """Returns a run with the inputs that its report and its configuration name."""
    with _named(run):
        if not run.report.devices:
            raise SetupError("its report names no device")
        config = _config(run)
        selection = select(config)
        check_one_scale(selection, "--maps")
        if not selection.runs_model:
            raise ConfigError(f"backend {run.report.backend} runs no model", "leave --maps out")
        inputs = read_inputs(config)
        if inputs.model.sha256 != run.report.model.sha256:
            raise SetupError(f"{inputs.model.path} is not the model file of the run any more")
        return _Rerun(run, inputs)


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


def _config(run: StoredRun) -> RunConfig:
    """Returns the configuration of a run for one device, with the paths of its report."""
    report, device = run.report, run.report.devices[0]
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


def _maps(
    rerun: _Rerun,
    images: Sequence[ImageRecord],
    source: ImageSource,
    on_image: Callable[[], object],
) -> tuple[MapRun, list[Maps]]:
    """Returns the device that stands for a run, and its maps [M, H, W] of each image."""
    device = rerun.run.report.devices[0]
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
