"""Measures the processor time per image of each stage on the host, on one core.

Poses are checked before any time is reported: the reference decoder must find the same poses in the
same maps.
"""

import importlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import thread_time_ns

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import InputBatch, NetworkOutput, check_maps
from distributed_pose.bench.worker_maps import infer_images, started_worker
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import check_one_scale, select
from distributed_pose.data.shards import ImageMaps, narrowed, pack_maps, unpack_maps
from distributed_pose.devices.host import cpu_name, keep_freed_memory, num_cpus
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.planning import Node, plan_devices
from distributed_pose.engine.steps import Progress
from distributed_pose.errors import ExecutionError
from distributed_pose.pose.decode import Decoder
from distributed_pose.records.images import ImageRecord
from distributed_pose.records.stages import DECODE_STAGES
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
        input: size of the network inputs, `HEIGHTxWIDTH` in pixels.
        num_images: number of measured images.
        poses: number of poses in all images.
        stages: cost of each stage, by name.
        decode: cost of peaks, limbs and assembly together.
        host: cost of all stages together.
        plain_decode: cost of the reference decoder on the same maps.
        speedup: time of the reference decoder divided by that of the decoder, median over images.
    """

    processor: str
    profile: str
    input: str
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
        ConfigError: if other scales than 1 are configured.
        ExecutionError: if an image cannot be read, or if the poses of the decoder and the
            reference decoder differ.
    """
    check_one_scale(select(config), "bench host")
    inputs = read_inputs(config)
    records = {image.image_id: image for image in inputs.index.images}
    batches = _infer(inputs)
    # The actors of a run have the same settings.
    cv2.setNumThreads(1)
    keep_freed_memory()
    bench = _HostBench(config, inputs)
    found = done = 0
    for batch in batches:
        images = [records[image_id] for image_id in batch.image_ids]
        for poses in bench.measure(images, batch, repeat):
            found += poses
            done += 1
            on_progress(len(records), done)
    return bench.report(found)


def _infer(inputs: RunInputs) -> list[ImageMaps]:
    """Returns the maps of all images, in the batches and the type that the worker computes."""
    (plan,) = plan_devices((CPU,), [Node("", "", num_cpus())])
    with started_worker(inputs, plan) as (worker, ready):
        return [*infer_images(worker, inputs.index.images, inputs.images, ready.shard_size)]


class _HostBench:
    def __init__(self, config: RunConfig, inputs: RunInputs) -> None:
        self._profile = PROFILES[config.profile].sized(inputs.selection.input_size)
        self._keypoints = inputs.selection.keypoints
        self._images = inputs.images
        self._keypoints = inputs.selection.keypoints
        self._decoder = Decoder(self._keypoints, thread_time_ns)
        self._decoder.warm_up()
        # The reference decoder is not part of any run, so it is imported by name.
        self._reference = importlib.import_module(
            "distributed_pose.pose.reference"
        ).reference_decode
        self._costs_ns: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "reference")}
        self._is_half = config.maps_dtype == "f16"

    def measure(self, images: Sequence[ImageRecord], maps: ImageMaps, repeat: int) -> Iterator[int]:
        """Measures the images of a batch and yields the number of poses in each of them."""
        transfers = [self._transfer(maps) for _ in range(repeat)]
        transfer_ns = float(np.median([time_ns for time_ns, _ in transfers])) / len(images)
        received = transfers[-1][1]
        for row, image in enumerate(images):
            computed, arrived = (_single(batch, row) for batch in (maps, received))
            number = self._check(image, arrived)
            runs = [self._run(image, computed, arrived) for _ in range(repeat)]
            costs_ns = [*np.median(runs, axis=0)]
            costs_ns.insert(STAGES.index("transfer"), transfer_ns)
            for stage, cost_ns in zip(STAGES, costs_ns, strict=True):
                self._costs_ns[stage].append(float(cost_ns))
            yield number

    def _transfer(self, maps: ImageMaps) -> tuple[int, ImageMaps]:
        """Returns the time to send a batch to a reducer, and the batch as it arrives."""
        start = thread_time_ns()
        received = _through_store(pack_maps(narrowed(maps) if self._is_half else maps))
        return thread_time_ns() - start, received

    def _check(self, image: ImageRecord, maps: ImageMaps) -> int:
        arguments = (
            maps.heatmaps_NKHW[0].astype(np.float32),
            maps.pafs_NPHW[0].astype(np.float32),
            maps.geometries[0],
        )
        start = thread_time_ns()
        expected = self._reference(*arguments, self._keypoints)
        self._costs_ns["reference"].append(thread_time_ns() - start)
        found = self._decoder.decode(*arguments)
        if not np.array_equal(found.keypoints_PV, expected.keypoints_PV):
            raise ExecutionError(
                "the decoder's poses are not the reference decoder's", image_ids=(image.image_id,)
            )
        return len(found.scores_P)

    def _run(self, image: ImageRecord, maps: ImageMaps, received: ImageMaps) -> list[int]:
        """Returns the times of all stages but `transfer`, which is measured by batch."""
        times = [thread_time_ns()]
        encoded = self._images.read(image.file_name)
        times.append(thread_time_ns())
        image_HW3, _ = decode_image(encoded, image.height, image.width)
        times.append(thread_time_ns())
        input_3HW, geometry = preprocess(image_HW3, self._profile)
        times.append(thread_time_ns())
        batch = InputBatch((image.image_id,), (geometry,), input_3HW[None])
        check_maps(NetworkOutput(maps.heatmaps_NKHW, maps.pafs_NPHW), batch, self._keypoints)
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
            input=str(self._profile.size),
            num_images=len(costs["reference"]),
            poses=poses,
            stages={stage: _cost(costs[stage]) for stage in STAGES},
            decode=_cost(decode),
            host=_cost(host),
            plain_decode=_cost(costs["reference"]),
            speedup=float(np.median(costs["reference"] / decode)),
        )


def _single(maps: ImageMaps, row: int) -> ImageMaps:
    one = slice(row, row + 1)
    return ImageMaps(
        maps.image_ids[one], maps.geometries[one], maps.heatmaps_NKHW[one], maps.pafs_NPHW[one]
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
