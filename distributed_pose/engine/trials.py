"""What is tried on a device before its first image: how fast batches are, and whether they mix.

Array legend: N images, H and W network input size in pixels, 3 the channels blue, green, red.
"""

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import (
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
    check_maps,
)
from distributed_pose.engine.device_queue import DeviceQueue
from distributed_pose.errors import PoseEvalError
from distributed_pose.metrics.throughput import best_batch_size
from distributed_pose.records import Geometry
from distributed_pose.vision.preprocess import InputArray, preprocess
from distributed_pose.vision.profiles import Profile

_LOG = logging.getLogger(__name__)

# Id of an input that is no image of the dataset.
NO_IMAGE = -1

# Relative difference of maps that shows the images of a batch to be mixed: none was measured in
# networks with frozen statistics, 260 % in the PAFs of one with statistics of the batch.
_MIXING_TOLERANCE = 0.05

# How long the sweep at the start of a run measures each batch size, and how often at least.
_QUICK_SWEEP_S = 0.5
_LEAST_BATCHES = 3


@dataclass(frozen=True)
class Sweep:
    """Batches of one size, as many under way at once as the device has slots.

    Attributes:
        times: of each batch.
        wall_ns: from the first batch's start to the last one's answer.
    """

    times: tuple[DeviceTimes, ...]
    wall_ns: int

    @property
    def compute_ns(self) -> tuple[int, ...]:
        """Execution of each batch, without copies."""
        return tuple(times.compute_ns for times in self.times)

    @property
    def latencies_ns(self) -> tuple[int, ...]:
        """Each batch with its copies."""
        return tuple(times.latency_ns for times in self.times)


class Trials:
    """Runs made-up batches on a device.

    Args:
        queue: of the device.
        slots: batches that it has under way at once.
        profile: of preprocessing.
    """

    def __init__(self, queue: DeviceQueue, slots: int, profile: Profile) -> None:
        self._queue = queue
        self._slots = slots
        self._profile = profile

    def infer(self, batch: InputBatch) -> NetworkOutput:
        """Returns the checked maps of a batch.

        Raises:
            ExecutionError: if the device fails or answers nonsense.
        """
        return check_maps(self._queue.submit(batch).result().maps, batch)

    def batch(self, count: int) -> InputBatch:
        """Returns a batch of noise and plain grey."""
        return _batch(self._inputs(count))

    def sweep(self, batch_size: int, least_s: float) -> Sweep:
        """Returns the times of batches of a size.

        Args:
            batch_size: images in each.
            least_s: how long to measure.

        Raises:
            ExecutionError: if the device fails.
        """
        batch = self.batch(batch_size)
        self._queue.prepare(batch)
        self.infer(batch)
        times: list[DeviceTimes] = []
        under_way = deque[Future[Inference]]()
        start = perf_counter_ns()
        while under_way or not times:
            is_enough = perf_counter_ns() - start >= least_s * 1e9 and (
                len(times) + len(under_way) >= _LEAST_BATCHES
            )
            # One more than there are slots, so that the next batch is there when one is free.
            while not is_enough and len(under_way) <= self._slots:
                under_way.append(self._queue.submit(batch))
            times.append(under_way.popleft().result().times)
        return Sweep(tuple(times), perf_counter_ns() - start)

    def best_batch_size(self, sizes: Sequence[int]) -> int:
        """Returns the batch size with the most images a second, compute only.

        Raises:
            ExecutionError: if the device fails with the smallest.
        """
        durations_ns: dict[int, tuple[int, ...]] = {}
        for size in sorted(sizes):
            try:
                durations_ns[size] = self.sweep(size, _QUICK_SWEEP_S).compute_ns
            except PoseEvalError as error:
                if not durations_ns:
                    raise
                # What does not fit into its memory is not the best, nor is what is larger.
                _LOG.warning("%s: batches of %d: %s", self._queue.name, size, error)
                break
        return best_batch_size(durations_ns)

    def mixes_images(self) -> bool:
        """Returns whether an image's maps depend on its neighbours in the batch.

        So they do in networks whose batch normalisation still computes statistics of the batch,
        as exports of a training graph have it. Their images must be inferred one by one.
        """
        inputs_N3HW = self._inputs(2)
        together = self.infer(_batch(inputs_N3HW))
        alone = self.infer(_batch(inputs_N3HW[:1]))
        return any(
            _norm(pair[0] - single[0]) > _MIXING_TOLERANCE * _norm(single[0])
            for pair, single in zip(together, alone, strict=True)
        )

    def _inputs(self, count: int) -> InputArray:
        """Returns noise first and plain grey after it, as unlike as two images can be."""
        profile = self._profile
        height, width = profile.nominal_input
        inputs_N3HW = np.full((count, 3, height, width), profile.padding, profile.input_dtype)
        noise_HW3 = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        preprocess(noise_HW3, profile, inputs_N3HW[0])
        return inputs_N3HW


def _batch(inputs_N3HW: InputArray) -> InputBatch:
    count, _, height, width = inputs_N3HW.shape
    geometry = Geometry(height, width, 0, 0, 0, 0)
    return InputBatch((NO_IMAGE,) * count, (geometry,) * count, inputs_N3HW)


def _norm(array: npt.NDArray[np.float32 | np.float16]) -> float:
    # A sum of squares soon leaves the range of halves.
    return float(np.linalg.norm(array.astype(np.float32)))
