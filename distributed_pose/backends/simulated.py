"""A simulated device with the speed of a published one, which answers from the ground truth.

It allows measurements of dispatch, transfer and grouping for fast devices on a machine without
them.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
)
from distributed_pose.backends.oracle import OracleBackend
from distributed_pose.devices.published import PUBLISHED, relative_time
from distributed_pose.errors import ConfigError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.devices import Simulation
from distributed_pose.records.images import STRIDE, Geometry, InputSize

# The cache has room for the drawn values of 30 to 4,000 images.
_KEPT_BYTES = 2**26


@dataclass(frozen=True)
class DeviceModel:
    """The compute time of a device for batches of inputs of one size.

    Attributes:
        rates: pairs of a batch size, ascending from 1, and the rate in images/s at that size. A
            single rate holds for all sizes. Between two sizes the time of a batch is interpolated,
            and beyond the last size its rate holds.
        overhead_s: additional seconds for a batch of any size; published rates contain it.

    Source: `devices.published`.
    """

    rates: tuple[tuple[int, float], ...]
    overhead_s: float = 0.0

    def batch_s(self, num_images: int, relative_time: float = 1.0) -> float:
        """Returns the seconds that a batch computes.

        Args:
            num_images: number of images of the batch.
            relative_time: time for an input of the batch, relative to one that the rates hold for.
        """
        return self.overhead_s + relative_time * self._rated_s(num_images)

    def _rated_s(self, num_images: int) -> float:
        sizes, times_s = zip(*((size, size / rate) for size, rate in self.rates), strict=True)
        last_size, last_rate = self.rates[-1]
        if num_images > last_size:
            return num_images / last_rate
        return float(np.interp(num_images, sizes, times_s))


DEVICES: Mapping[str, DeviceModel] = MappingProxyType(
    {key: DeviceModel(published.rates) for key, published in PUBLISHED.items()}
)
_DEFAULT = "t4"


class _Part(NamedTuple):
    """The values of an image's heatmaps or PAFs that differ from those of an empty image."""

    at: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32 | np.float16]


_Drawn = tuple[_Part, _Part]


class _Engines:
    """The engines of a card: copies to it, execution, and copies from it, which run in parallel.

    Each engine runs one batch at a time, in the order of submission.
    """

    def __init__(self) -> None:
        self._free_at_s = [0.0, 0.0, 0.0]

    def run(self, now_s: float, times_s: Sequence[float]) -> float:
        """Returns the time at which a batch that is submitted now leaves the last engine.

        Args:
            now_s: current time in seconds on any monotonic clock.
            times_s: seconds that the batch takes in each engine.
        """
        done_at_s = now_s
        for engine, time_s in enumerate(times_s):
            done_at_s = max(done_at_s, self._free_at_s[engine]) + time_s
            self._free_at_s[engine] = done_at_s
        return done_at_s


class _Submitted(NamedTuple):
    """A batch in flight: its answer, and the time in seconds at which the answer is available."""

    answer: Inference
    done_at_s: float


class SimulatedBackend(Backend):
    """Returns the oracle's maps after the time that a published device would take.

    In the options, the variant names the device, the simulation says how it differs from the
    published one, and the index seeds the jitter, which does not change the mean rates. Published
    rates are scaled by the number of input pixels; a configured rate holds for any size. The time
    to draw the maps is part of the modelled time while it is shorter. Images with the same people
    in the same place are drawn once, so that a dataset that lists few images many times needs
    almost no processor time.

    Args:
        content: bytes of a COCO annotation file.
        options: options of the backend.
        clock: function that returns the time in seconds.
        sleep: function that waits for a number of seconds.

    Raises:
        ConfigError: if no simulated device has the name.
    """

    precision = "f32"

    def __init__(
        self,
        content: bytes,
        options: BackendOptions,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        name = options.variant or _DEFAULT
        if name not in DEVICES:
            raise ConfigError(
                f"backend: there is no simulated device {name}",
                f"available: {', '.join(f'simulated:{known}' for known in DEVICES)}",
            )
        self._oracle = OracleBackend(content, options)
        self._keypoints = options.keypoints
        self._simulation = options.simulation
        rate = self._simulation.images_per_s
        self.description = f"simulated, {rate:g} images/s" if rate else f"simulated {name}"
        self.slots = self._simulation.slots
        self._model = _model(DEVICES[name], self._simulation)
        self._jitter = np.random.default_rng(options.index)
        self._clock, self._sleep = clock, sleep
        self._engines = _Engines()
        self._under_way: deque[_Submitted] = deque()
        self._kept: dict[object, _Drawn] = {}
        self._kept_bytes = 0

    def submit(self, batch: InputBatch) -> None:
        start_s = self._clock()
        try:
            maps = self._answer(batch)
        except BaseException:
            self._under_way.clear()
            raise
        copy_in_s, compute_s, copy_out_s = times_s = self._times_s(batch)
        times = DeviceTimes(_ns(compute_s), _ns(copy_in_s), _ns(copy_out_s))
        done_at_s = self._engines.run(start_s, times_s)
        self._under_way.append(_Submitted(Inference(maps, times), done_at_s))

    def collect(self) -> Inference:
        oldest = self._under_way.popleft()
        remaining_s = oldest.done_at_s - self._clock()
        if remaining_s > 0:
            self._sleep(remaining_s)
        return oldest.answer

    def close(self) -> None:
        self._oracle.close()
        self._under_way.clear()
        self._kept.clear()

    def _times_s(self, batch: InputBatch) -> tuple[float, float, float]:
        """Returns the seconds that a batch takes to be copied in, executed and copied out."""
        simulation, num_images = self._simulation, len(batch.image_ids)
        size = InputSize(*batch.inputs_N3HW.shape[2:])
        relative = 1.0 if simulation.images_per_s else relative_time(size)
        factor = self._jitter.uniform(1 - simulation.jitter, 1 + simulation.jitter)
        return (
            num_images * simulation.copy_in_s,
            factor * self._model.batch_s(num_images, relative),
            num_images * simulation.copy_out_s,
        )

    def _answer(self, batch: InputBatch) -> NetworkOutput:
        height, width = (size // STRIDE for size in batch.inputs_N3HW.shape[2:])
        maps = _empty(self._keypoints, len(batch.image_ids), (height, width))
        for index, (image_id, geometry) in enumerate(
            zip(batch.image_ids, batch.geometries, strict=True)
        ):
            drawn = self._drawn(image_id, geometry, batch.inputs_N3HW[:1])
            for array, part in zip(maps, drawn, strict=True):
                array[index].reshape(-1)[part.at] = part.values
        return maps

    def _drawn(
        self, image_id: int, geometry: Geometry, any_input: npt.NDArray[np.float32 | np.uint8]
    ) -> _Drawn:
        people = tuple(map(tuple, self._oracle.people(image_id)))
        key = people, geometry, any_input.shape
        if key in self._kept:
            return self._kept[key]
        maps = self._oracle.run(InputBatch((image_id,), (geometry,), any_input))
        drawn = _parts(maps, self._keypoints)
        size_bytes = sum(array.nbytes for part in drawn for array in part)
        # Entries are never evicted: repeated passes over a dataset larger than the cache would
        # miss at every image if the oldest entry went first.
        if self._kept_bytes + size_bytes <= _KEPT_BYTES:
            self._kept[key] = drawn
            self._kept_bytes += size_bytes
        return drawn


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _model(published: DeviceModel, simulation: Simulation) -> DeviceModel:
    rates = published.rates
    if simulation.images_per_s:
        rates = ((1, simulation.images_per_s),)
    return DeviceModel(rates, published.overhead_s + simulation.overhead_s)


def _empty(keypoints: KeypointSet, num_images: int, grid_hw: tuple[int, int]) -> NetworkOutput:
    heatmaps_NKHW = np.zeros((num_images, keypoints.num_heatmaps, *grid_hw), np.float32)
    heatmaps_NKHW[:, -1] = 1
    pafs_NPHW = np.zeros((num_images, keypoints.num_pafs, *grid_hw), np.float32)
    return NetworkOutput(heatmaps_NKHW, pafs_NPHW)


def _parts(maps: NetworkOutput, keypoints: KeypointSet) -> _Drawn:
    """Returns the values of one image's maps that differ from those of an empty image."""
    empty = _empty(keypoints, 1, maps.pafs_NPHW.shape[2:])
    return (
        _part(maps.heatmaps_NKHW, empty.heatmaps_NKHW),
        _part(maps.pafs_NPHW, empty.pafs_NPHW),
    )


def _part(
    array: npt.NDArray[np.float32 | np.float16], empty: npt.NDArray[np.float32 | np.float16]
) -> _Part:
    at = np.flatnonzero(array != empty).astype(np.int32)
    return _Part(at, array.reshape(-1)[at])
