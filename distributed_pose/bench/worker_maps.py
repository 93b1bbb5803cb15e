"""Computes the maps of images with one worker of this machine, without an engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from distributed_pose.data.shards import ImageMaps, read_shards, unpack_maps
from distributed_pose.data.sources import ImageSource
from distributed_pose.engine.deployment import Deployment, on_this_machine
from distributed_pose.engine.single_device import start_here
from distributed_pose.engine.worker import Worker
from distributed_pose.errors import BackendError, ExecutionError
from distributed_pose.model.compile import compile_model, portable
from distributed_pose.records.devices import DevicePlan, DeviceReady
from distributed_pose.records.images import ImageRecord
from distributed_pose.run.inputs import RunInputs


@contextmanager
def started_worker(inputs: RunInputs, plan: DevicePlan) -> Iterator[tuple[Worker, DeviceReady]]:
    """Yields a worker with its model loaded, and its ready device; closes the worker afterwards.

    The worker returns float32 maps, or float16 if the model's output is, whatever `gather`,
    `maps_dtype` and `dump_maps` say.

    Args:
        inputs: inputs of the run that the worker stands for.
        plan: the device.

    Raises:
        ConfigError: if the backend does not run on the device.
        SetupError: if no backend can start.
    """

    def start(deployment: Deployment) -> tuple[Worker, DeviceReady]:
        here = on_this_machine(deployment)
        model = compile_model(portable(inputs.model, here.order), here.order, inputs.calibration)
        spec = replace(here.spec, gather="maps", maps_dtype="f32", dump_folder="")
        worker = Worker(spec, model.content)
        try:
            return worker, worker.start()
        except BackendError:
            worker.close()
            raise

    worker, ready = start_here(inputs.selection, plan, inputs.model.format, start)
    try:
        yield worker, ready
    finally:
        worker.close()


def infer_images(
    worker: Worker, images: Sequence[ImageRecord], source: ImageSource, shard_size: int
) -> Iterator[ImageMaps]:
    """Yields the maps of images, batch by batch.

    Args:
        worker: a started worker.
        images: images to infer.
        source: place to read the images from.
        shard_size: number of images that are given to the worker at once.

    Raises:
        ExecutionError: if an image cannot be read, or the device fails.
    """
    for shard in read_shards(images, source, shard_size):
        batches, report = worker.infer(shard.images)
        if failures := shard.failures + report.failures:
            raise ExecutionError(failures[0].reason, image_ids=(failures[0].image_id,))
        yield from map(unpack_maps, batches)
