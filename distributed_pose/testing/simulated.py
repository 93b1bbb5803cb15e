"""A device that takes as long as a published one, and answers from the ground truth.

With it dispatch, transfer and grouping are measured as they are in front of fast devices, on a
machine that has none.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import BackendOptions, InputBatch, Maps
from distributed_pose.errors import ConfigError, SetupError
from distributed_pose.pose.skeleton import NUM_HEATMAPS, NUM_PAFS, STRIDE
from distributed_pose.records import Geometry, Simulation
from distributed_pose.report.published import PUBLISHED
from distributed_pose.testing.oracle import OracleBackend

# 30 to 4,000 images of the drawn maps' nonzero values.
_KEPT_BYTES = 2**26


@dataclass(frozen=True)
class DeviceModel:
    """How long a device takes for a batch of 368x640, compute only.

    Attributes:
        rates: batch size, from 1 up, and images/s at that size. A single rate holds for all sizes;
            between two the time of a batch is interpolated; beyond the last its rate holds.
        overhead_s: time that a batch of any size takes on top. Published rates contain it.

    Source: `report.published`.
    """

    rates: tuple[tuple[int, float], ...]
    overhead_s: float = 0.0

    def batch_s(self, num_images: int) -> float:
        """Returns the seconds that a batch takes."""
        sizes, times_s = zip(*((size, size / rate) for size, rate in self.rates), strict=True)
        last_size, last_rate = self.rates[-1]
        if num_images > last_size:
            return self.overhead_s + num_images / last_rate
        return self.overhead_s + float(np.interp(num_images, sizes, times_s))


DEVICES: Mapping[str, DeviceModel] = MappingProxyType(
    {key: DeviceModel(published.rates) for key, published in PUBLISHED.items()}
)
_DEFAULT = "t4"


class _Part(NamedTuple):
    """The values of an image's heatmaps or PAFs that are not those of an empty image."""

    at: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32 | np.float16]


_Drawn = tuple[_Part, _Part]


class SimulatedBackend(OracleBackend):
    """The oracle's maps after the time of a published device.

    The variant in the options names the device, its simulation what is different, and the index
    seeds its jitter, whose mean keeps the rates. Drawing is part of the
    modelled time as long as it is shorter. Images with the same people in the same place are drawn
    once, so that a dataset that lists few images many times costs next to no processor time.

    Args:
        content: of a COCO annotation file.
        options: see `BackendOptions`.
        clock: gives seconds.
        sleep: waits for so many of them.

    Raises:
        ConfigError: if there is no such device.
    """

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
        super().__init__(content, options)
        rate = options.simulation.images_per_s
        self.description = f"simulated, {rate:g} images/s" if rate else f"simulated {name}"
        self._model = _model(DEVICES[name], options.simulation)
        self._spread = options.simulation.jitter
        self._jitter = np.random.default_rng(options.index)
        self._clock, self._sleep = clock, sleep
        self._kept: dict[object, _Drawn] = {}
        self._kept_bytes = 0

    def run(self, batch: InputBatch) -> Maps:
        start_s = self._clock()
        maps = self._answer(batch)
        factor = self._jitter.uniform(1 - self._spread, 1 + self._spread)
        duration_s = factor * self._model.batch_s(len(batch.image_ids))
        remaining_s = start_s + duration_s - self._clock()
        if remaining_s > 0:
            self._sleep(remaining_s)
        return maps

    def close(self) -> None:
        super().close()
        self._kept.clear()

    def _answer(self, batch: InputBatch) -> Maps:
        height, width = (size // STRIDE for size in batch.inputs_N3HW.shape[2:])
        maps = _empty(len(batch.image_ids), height, width)
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
        if self._people is None:
            raise SetupError("the backend is closed")
        people = tuple(map(tuple, self._people.get(image_id, [])))
        key = people, geometry, any_input.shape
        if key in self._kept:
            return self._kept[key]
        drawn = _parts(super().run(InputBatch((image_id,), (geometry,), any_input)))
        size_bytes = sum(array.nbytes for part in drawn for array in part)
        # What is kept stays: a dataset larger than the room, gone through again and again, would
        # find nothing of itself if the oldest went first.
        if self._kept_bytes + size_bytes <= _KEPT_BYTES:
            self._kept[key] = drawn
            self._kept_bytes += size_bytes
        return drawn


def _model(published: DeviceModel, simulation: Simulation) -> DeviceModel:
    rates = published.rates
    if simulation.images_per_s:
        rates = ((1, simulation.images_per_s),)
    return DeviceModel(rates, published.overhead_s + simulation.overhead_s)


def _empty(num_images: int, height: int, width: int) -> Maps:
    heatmaps_NKHW = np.zeros((num_images, NUM_HEATMAPS, height, width), np.float32)
    heatmaps_NKHW[:, -1] = 1
    return Maps(heatmaps_NKHW, np.zeros((num_images, NUM_PAFS, height, width), np.float32))


def _parts(maps: Maps) -> _Drawn:
    """Returns what is in the maps of one image, exactly."""
    empty = _empty(1, *maps.pafs_NPHW.shape[2:])
    return (
        _part(maps.heatmaps_NKHW, empty.heatmaps_NKHW),
        _part(maps.pafs_NPHW, empty.pafs_NPHW),
    )


def _part(
    array: npt.NDArray[np.float32 | np.float16], empty: npt.NDArray[np.float32 | np.float16]
) -> _Part:
    at = np.flatnonzero(array != empty).astype(np.int32)
    return _Part(at, array.reshape(-1)[at])
