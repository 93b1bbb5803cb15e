"""Trials on a device before its first image: the speed of batches, and whether images mix.

Array legend: N images, H and W network input size in pixels, 3 the channels blue, green, red.
"""

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distributed_pose.backends.base import (
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.data.shards import IMAGES
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.engine.preparation import Preparation
from distributed_pose.errors import PoseEvalError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.throughput import best_batch_size
from distributed_pose.records.images import Geometry
from distributed_pose.vision.preprocess import InputArray, preprocess
from distributed_pose.vision.profiles import Profile

_LOG = logging.getLogger(__name__)

# Image id of an input that is not an image of the dataset.
NO_IMAGE = -1

# A relative difference of maps above this shows that the images of a batch mix. No difference was
# measured in networks with frozen statistics, and 260 % in the PAFs of a network with statistics of
# the batch.
_MIXING_TOLERANCE = 0.05

# The sweep at the start of a run measures each batch size for this time, and at least this often.
_QUICK_SWEEP_S = 0.5

# The preparation of an image is timed this often.
_TIMED_IMAGES = 5

# Height and width in pixels of most images of COCO.
_TYPICAL_SIZE = (480, 640)
_LEAST_BATCHES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The times of batches of one size, with as many in flight as the device has slots.

    Attributes:
        times: times of each batch on the device.
        wall_ns: nanoseconds from the start of the first batch to the answer to the last one.
    """

    times: tuple[DeviceTimes, ...]
    wall_ns: int

    @property
    def compute_ns(self) -> tuple[int, ...]:
        """Execution time of each batch in nanoseconds, without copies."""
        return tuple(times.compute_ns for times in self.times)

    @property
    def latencies_ns(self) -> tuple[int, ...]:
        """Time of each batch in nanoseconds, copies included."""
        return tuple(times.latency_ns for times in self.times)


class Trials:
    """Runs synthetic batches on a device.

    Args:
        queue: queue of the device.
        slots: number of batches that the device has in flight at once.
        profile: preprocessing profile, which fixes size and type of the inputs.
        keypoints: keypoint set of the model.
        scales: scale factors; each image has one input per scale.
    """

    def __init__(
        self,
        queue: DeviceQueue,
        slots: int,
        profile: Profile,
        keypoints: KeypointSet,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        self._queue = queue
        self._slots = slots
        self._keypoints = keypoints
        # A backend keeps its preparation of the last shape, so the largest comes last.
        self._profiles = profile.at_scales(sorted(scales))

    def infer(self, batch: InputBatch) -> NetworkOutput:
        """Returns the checked maps of a batch.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        return check_maps(self._queue.submit(batch).result().maps, batch, self._keypoints)

    def compute_ns(self, batches: Sequence[InputBatch]) -> int:
        """Returns the nanoseconds that the device executes batches.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        answers = [self._queue.submit(batch) for batch in batches]
        for batch, answer in zip(batches, answers, strict=True):
            check_maps(answer.result().maps, batch, self._keypoints)
        return sum(answer.result().times.compute_ns for answer in answers)

    def batches(self, count: int) -> list[InputBatch]:
        """Returns the inputs of `count` images, a batch per scale: noise first, then plain grey."""
        return [_batch(_inputs(profile, count)) for profile in self._profiles]

    def prepare(self, batches: Sequence[InputBatch]) -> None:
        """Makes the device ready for batches like these.

        Raises:
            ExecutionError: if a batch cannot be run.
        """
        for batch in batches:
            self._queue.prepare(batch)

    def sweep(self, batch_size: int, least_s: float) -> Sweep:
        """Measures batches of one size and returns their times.

        At several scales, a time is that of the batches of all scales together.

        Args:
            batch_size: number of images per batch.
            least_s: shortest duration of the measurement in seconds.

        Raises:
            ExecutionError: if the device fails.
        """
        batches = self.batches(batch_size)
        self.prepare(batches)
        for batch in batches:
            self.infer(batch)
        times: list[DeviceTimes] = []
        under_way = deque[list[Future[Inference]]]()
        start = perf_counter_ns()
        while under_way or not times:
            is_enough = perf_counter_ns() - start >= least_s * 1e9 and (
                len(times) + len(under_way) >= _LEAST_BATCHES
            )
            # One batch more than slots is in flight, so that a free slot gets the next one at once.
            while not is_enough and len(under_way) <= self._slots:
                under_way.append([self._queue.submit(batch) for batch in batches])
            times.append(_sum([answer.result().times for answer in under_way.popleft()]))
        return Sweep(times=tuple(times), wall_ns=perf_counter_ns() - start)

    def best_batch_size(self, sizes: Sequence[int]) -> int:
        """Returns the batch size with the most images per second, by execution time without copies.

        Args:
            sizes: batch sizes to measure, in any order.

        Raises:
            ExecutionError: if the device fails with the smallest batch size.
        """
        durations_ns: dict[int, tuple[int, ...]] = {}
        for size in sorted(sizes):
            try:
                durations_ns[size] = self.sweep(size, _QUICK_SWEEP_S).compute_ns
            except PoseEvalError as error:
                if not durations_ns:
                    raise
                # A batch that does not fit into the memory rules out its size and larger ones.
                _LOG.warning("%s: batches of %d: %s", self._queue.name, size, error)
                break
        return best_batch_size(durations_ns)

    def mixes_images(self) -> bool:
        """Returns whether an image's maps depend on its neighbours in the batch.

        They do in networks whose batch normalisation still computes statistics of the batch, as in
        exports of a training graph. The images of such networks must be inferred one by one.

        Raises:
            ExecutionError: if the device fails or returns invalid maps.
        """
        inputs_N3HW = _inputs(self._profiles[0], 2)
        together = self.infer(_batch(inputs_N3HW))
        alone = self.infer(_batch(inputs_N3HW[:1]))
        return any(
            _norm(pair[0] - single[0]) > _MIXING_TOLERANCE * _norm(single[0])
            for pair, single in zip(together, alone, strict=True)
        )


def preparation_s(preparation: Preparation, sample: str) -> float:
    """Returns the seconds that a thread takes to read and prepare a typical image.

    Args:
        preparation: preparation of the worker.
        sample: file name of an image that the worker can read; empty if it reads none.
    """
    height, width = _TYPICAL_SIZE
    coarse_HW3 = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    _, encoded = cv2.imencode(".jpg", cv2.resize(coarse_HW3, (width, height)))
    row = [[NO_IMAGE], [""], [height], [width], [encoded.tobytes()]]
    images = pa.record_batch(row, schema=IMAGES)
    times_s = []
    for _ in range(_TIMED_IMAGES):
        start = perf_counter_ns()
        preparation.prepare(images, 1)
        if sample:
            preparation.read(sample)
        times_s.append((perf_counter_ns() - start) / 1e9)
    # The first image loads code and fills caches, and other processes delay some.
    return median(times_s)


def _inputs(profile: Profile, count: int) -> InputArray:
    """Returns inputs that differ as much as two images can: noise first, then plain grey."""
    height, width = profile.nominal_input
    inputs_N3HW = np.full((count, 3, height, width), profile.padding, profile.input_dtype)
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    preprocess(noise_HW3, profile, inputs_N3HW[0])
    return inputs_N3HW


def _sum(times: Sequence[DeviceTimes]) -> DeviceTimes:
    return DeviceTimes(*(sum(stage_ns) for stage_ns in zip(*times, strict=True)))


def _batch(inputs_N3HW: InputArray) -> InputBatch:
    count, _, height, width = inputs_N3HW.shape
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch((NO_IMAGE,) * count, (geometry,) * count, inputs_N3HW)


def _norm(array: npt.NDArray[np.float32 | np.float16]) -> float:
    # A sum of squares easily exceeds the range of float16.
    return float(np.linalg.norm(array.astype(np.float32)))
