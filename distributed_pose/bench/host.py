"""Measures the processor time per image of each stage on the host, on one core.

Poses are checked before any time is reported: the plain decoder must find the same poses in the
same maps.
"""

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import thread_time_ns

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import InputBatch, NetworkOutput, check_maps
from distributed_pose.config.schema import RunConfig
from distributed_pose.data.shards import ImageMaps, pack_maps, read_shards, unpack_maps
from distributed_pose.data.sources import ImageSource
from distributed_pose.devices.host import cpu_name, keep_freed_memory, num_cpus
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.planning import Node, plan_devices
from distributed_pose.engine.deployment import Deployment
from distributed_pose.engine.single_device import start_here
from distributed_pose.engine.worker import Worker
from distributed_pose.errors import BackendError, ExecutionError
from distributed_pose.evaluation import Progress
from distributed_pose.model.compile import compile_model, portable
from distributed_pose.pose.decode import Decoder
from distributed_pose.records import DECODE_STAGES, ImageRecord
from distributed_pose.run.inputs import RunInputs, read_inputs
from distributed_pose.vision.decode import decode_image
from distributed_pose.vision.preprocess import preprocess
from distributed_pose.vision.profiles import PROFILES

STAGES = ("read", "decode_jpeg", "preprocess", "check", "transfer", *DECODE_STAGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Processor time per image, in microseconds."""

    median_us: float
    p90_us: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HostReport:
    """The costs per image on the host.

    Attributes:
        processor: name of the measured processor.
        profile: name of the preprocessing profile.
        num_images: number of measured images.
        poses: number of poses in all images.
        stages: cost of each stage, by name.
        decode: cost of peaks, limbs and assembly together.
        host: cost of all stages together.
        plain_decode: cost of the plain decoder on the same maps.
        speedup: time of the plain decoder divided by that of the decoder, median over the images.
    """

    processor: str
    profile: str
    num_images: int
    poses: int
    stages: Mapping[str, Cost]
    decode: Cost
    host: Cost
    plain_decode: Cost
    speedup: float


def bench_host(config: RunConfig, repeat: int, on_progress: Progress) -> HostReport:
    """Returns the costs per image of a configuration on this machine.

    Args:
        config: configuration that gives data, model, backend and profile; its engine and devices
            are ignored.
        repeat: number of measurements per image, of which the median counts.
        on_progress: callback that is called after each image.

    Raises:
        ExecutionError: if an image cannot be read, or if the poses of the decoder and the plain
            decoder differ.
    """
    inputs = read_inputs(config)
    images = inputs.index.images
    maps = _infer(inputs)
    # The actors of a run have the same settings.
    cv2.setNumThreads(1)
    keep_freed_memory()
    bench = _HostBench(config, inputs.images)
    found = 0
    for done, image in enumerate(images):
        found += bench.measure(image, maps[image.image_id], repeat)
        on_progress(len(images), done + 1)
    return bench.report(found)


def _infer(inputs: RunInputs) -> dict[int, ImageMaps]:
    """Returns the maps of each image, by image id."""
    (plan,) = plan_devices((CPU,), [Node("", "", num_cpus())])

    def start(deployment: Deployment) -> tuple[Worker, int]:
        order = deployment.order
        model = compile_model(portable(inputs.model, order), order, inputs.calibration)
        worker = Worker(replace(deployment.spec, gather="maps"), model.content)
        try:
            return worker, worker.start().shard_size
        except BackendError:
            worker.close()
            raise

    worker, shard_size = start_here(inputs.selection, plan, inputs.model.format, start)
    maps = {}
    for shard in read_shards(inputs.index.images, inputs.images, shard_size):
        batches, report = worker.infer(shard.images)
        if failures := shard.failures + report.failures:
            raise ExecutionError(failures[0].reason, image_ids=(failures[0].image_id,))
        for batch in batches:
            for row in range(batch.num_rows):
                single = unpack_maps(batch.slice(row, 1))
                maps[single.image_ids[0]] = single
    worker.close()
    return maps


class _HostBench:
    def __init__(self, config: RunConfig, images: ImageSource) -> None:
        self._profile = PROFILES[config.profile]
        self._images = images
        self._decoder = Decoder(thread_time_ns)
        self._decoder.warm_up()
        # The plain decoder is not part of any run, so it is imported by name.
        self._plain_decode = importlib.import_module("distributed_pose.pose.reference").plain_decode
        self._costs_ns: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "plain")}

    def measure(self, image: ImageRecord, maps: ImageMaps, repeat: int) -> int:
        """Measures one image and returns its number of poses."""
        number = self._check(image, maps)
        runs = [self._run(image, maps) for _ in range(repeat)]
        for stage, cost_ns in zip(STAGES, np.median(runs, axis=0), strict=True):
            self._costs_ns[stage].append(float(cost_ns))
        return number

    def _check(self, image: ImageRecord, maps: ImageMaps) -> int:
        arguments = (
            maps.heatmaps_NKHW[0].astype(np.float32),
            maps.pafs_NPHW[0].astype(np.float32),
            maps.geometries[0],
        )
        start = thread_time_ns()
        expected = self._plain_decode(*arguments)
        self._costs_ns["plain"].append(thread_time_ns() - start)
        found = self._decoder.decode(*arguments)
        if not np.array_equal(found.keypoints_P51, expected.keypoints_P51):
            raise ExecutionError(
                "the decoder's poses are not the plain decoder's", image_ids=(image.image_id,)
            )
        return len(found.scores_P)

    def _run(self, image: ImageRecord, maps: ImageMaps) -> list[int]:
        times = [thread_time_ns()]
        encoded = self._images.read(image.file_name)
        times.append(thread_time_ns())
        image_HW3, _ = decode_image(encoded, image.height, image.width)
        times.append(thread_time_ns())
        input_3HW, geometry = preprocess(image_HW3, self._profile)
        times.append(thread_time_ns())
        batch = InputBatch((image.image_id,), (geometry,), input_3HW[None])
        check_maps(NetworkOutput(maps.heatmaps_NKHW, maps.pafs_NPHW), batch)
        times.append(thread_time_ns())
        received = _through_store(pack_maps(maps))
        times.append(thread_time_ns())
        decoded = self._decoder.decode_batch(
            received.heatmaps_NKHW, received.pafs_NPHW, received.geometries
        )
        return [*np.diff(times).tolist(), *decoded.durations_ns_N3[0].tolist()]

    def report(self, poses: int) -> HostReport:
        costs = {stage: np.array(ns) for stage, ns in self._costs_ns.items()}
        decode = np.sum([costs[stage] for stage in DECODE_STAGES], axis=0)
        host = np.sum([costs[stage] for stage in STAGES], axis=0)
        return HostReport(
            processor=cpu_name(),
            profile=self._profile.name,
            num_images=len(costs["plain"]),
            poses=poses,
            stages={stage: _cost(costs[stage]) for stage in STAGES},
            decode=_cost(decode),
            host=_cost(host),
            plain_decode=_cost(costs["plain"]),
            speedup=float(np.median(costs["plain"] / decode)),
        )


def _through_store(batch: pa.RecordBatch) -> ImageMaps:
    """Returns maps after the steps of Ray's object store: they are pickled, and copied once."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
    stored = [bytes(buffer.raw()) for buffer in buffers]
    return unpack_maps(pickle.loads(pickled, buffers=stored))  # noqa: S301, just pickled above


def _cost(ns: npt.NDArray[np.float64]) -> Cost:
    median, p90 = np.percentile(ns / 1e3, (50, 90))
    return Cost(median_us=float(median), p90_us=float(p90))
