"""The interface of every backend, and the checks of its answers.

Array legend: N images, K heatmaps, P PAF channels, H and W map size in cells, 8H and 8W network
input size in pixels.
"""

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.devices import Simulation
from distributed_pose.records.images import STRIDE, Geometry

# The precision of a model that does not state it.
_UNKNOWN = "unknown"

# The precisions that a configuration can request.
_ASKABLE = ("f32", "bf16", "f16", "int8")

# A half-precision number is not finite if and only if all of these bits are set.
_HALF_EXPONENT = 0x7C00


@dataclass(frozen=True)
class InputBatch:
    """Network inputs of one shape.

    Attributes:
        image_ids: N COCO ids of the images.
        geometries: N geometries of the images; only fakes that draw their answer read them.
        inputs_N3HW: network inputs [N, 3, 8H, 8W], C-contiguous; float32, or uint8 for a model that
            normalises by itself. At scales above 1, the height need not be a multiple of 8.
        scales: number of each input's scale in the run's list, from 0; empty in batches that are
            made without images, to warm up. At several scales, an image can be in a batch more
            than once.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    inputs_N3HW: npt.NDArray[np.float32 | np.uint8]
    scales: tuple[int, ...] = ()


class NetworkOutput(NamedTuple):
    """Last-stage heatmaps [N, K, H, W] and PAFs [N, P, H, W], with the channels of a keypoint set.

    Both are float32, or float16 if the model's output is. Only the decoder converts float16 to
    float32, which is exact.
    """

    heatmaps_NKHW: npt.NDArray[np.float32 | np.float16]
    pafs_NPHW: npt.NDArray[np.float32 | np.float16]


class DeviceTimes(NamedTuple):
    """Times of one batch on its device, in nanoseconds.

    Attributes:
        compute_ns: time of the model's execution alone, by the device's own clock if it has one.
            Data sheets, `trtexec` and `ais_bench` call it compute time.
        copy_in_ns: time of the copy of the inputs to the device's memory, including packing on the
            host; 0 where the model reads the host's memory.
        copy_out_ns: time of the copy of the outputs from the device's memory, including unpacking.
    """

    compute_ns: int
    copy_in_ns: int = 0
    copy_out_ns: int = 0

    @property
    def by_stage(self) -> tuple[int, int, int]:
        """The times in the order of `records.stages.DEVICE_STAGES`."""
        return self.copy_in_ns, self.compute_ns, self.copy_out_ns

    @property
    def latency_ns(self) -> int:
        """The batch's time including its copies; `trtexec` calls it latency."""
        return sum(self.by_stage)


class Inference(NamedTuple):
    """The answer to one batch.

    Attributes:
        maps: heatmaps and PAFs.
        times: times of the batch on its device.
        started_ns: time at which the device queue submitted the batch, in nanoseconds of the
            monotonic clock. Backends leave it out.
        answered_ns: time at which the device queue collected the answer; left out as well.
    """

    maps: NetworkOutput
    times: DeviceTimes
    started_ns: int = 0
    answered_ns: int = 0


class Backend(ABC):
    """A compiled model on one device.

    One thread creates, uses and closes a backend. Batches are submitted and collected in the same
    order; a device with several slots copies one batch while it executes another.

    Attributes:
        precision: precision that the compiled model really computes in, such as `bf16`.
        description: the device's own name, such as the processor's.
        slots: number of batches that may be submitted and not yet collected.
    """

    precision: str
    description: str
    slots: int = 1

    def prepare(self, batch: InputBatch) -> None:
        """Prepares the backend for many batches of one size and shape.

        All tuning, compilation and capture for the shape ends before this method returns, so that
        no later batch of this size or a smaller one is delayed by it. Frees the preparation of an
        earlier call. It must be called while no batch is in flight. Raises the errors of `infer`.

        Args:
            batch: example of the batches to come.
        """
        self.infer(batch)

    @abstractmethod
    def submit(self, batch: InputBatch) -> None:
        """Starts a batch of any size and shape that the model takes.

        At most `slots` batches may be in flight. The batch's arrays must stay unchanged until the
        batch is collected. After an error no batch is in flight.

        Raises:
            ExecutionError: if the batch cannot be run.
            SetupError: if the backend is closed.
        """

    @abstractmethod
    def collect(self) -> Inference:
        """Waits for the answer to the oldest batch in flight and returns it.

        The caller owns the answer's arrays: no later batch changes them. Their values are not
        checked. After an error no batch is in flight: the other submitted batches have no answer.

        Raises:
            ExecutionError: if the device fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the device; may be called more than once."""

    def infer(self, batch: InputBatch) -> NetworkOutput:
        """Returns the maps of a batch, which must be the only one in flight.

        Raises the errors of `submit` and `collect`.
        """
        self.submit(batch)
        return self.collect().maps


class SynchronousBackend(Backend):
    """A backend that runs a batch when it is submitted, such as one on the CPU.

    The whole time of `run` counts as `compute`. A backend that copies inputs and outputs between
    the host and a card overrides `submit` and `collect`, and reports the copies as `copy_in_ns` and
    `copy_out_ns`; otherwise its figures of compute only include them.
    """

    def __init__(self) -> None:
        self._answers: deque[Inference] = deque()

    def prepare(self, batch: InputBatch) -> None:
        """Does nothing: the backend allocates for a batch size at the first batch of that size."""

    @abstractmethod
    def run(self, batch: InputBatch) -> NetworkOutput:
        """Returns the maps of a batch; raises the errors of `submit`."""

    def submit(self, batch: InputBatch) -> None:
        start = perf_counter_ns()
        maps = self.run(batch)
        self._answers.append(Inference(maps, DeviceTimes(perf_counter_ns() - start)))

    def collect(self) -> Inference:
        return self._answers.popleft()


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs its model.

    Attributes:
        precision: requested precision; `auto` leaves the choice to the backend.
        threads: number of processor threads that the backend may use.
        batch_size: largest number of images in a batch.
        index: index of the device among those of its kind that the process sees; 0 where the
            process is pinned to one device.
        variant: part of the backend's name after the colon, such as a provider.
        simulation: settings of a simulated device.
        keypoints: keypoints and limbs of the network, which name the channels of its maps.
    """

    precision: str = "auto"
    threads: int = 1
    batch_size: int = 1
    index: int = 0
    variant: str = ""
    simulation: Simulation = field(default_factory=Simulation)
    keypoints: KeypointSet = field(default_factory=coco_body)


class BackendFactory(Protocol):
    """Makes a backend from the bytes of an artifact; the registry's strings name such factories."""

    def __call__(self, content: bytes, options: BackendOptions) -> Backend:
        """Returns the backend.

        Raises:
            SetupError: if the device lacks the precision, or the model cannot run on it.
        """


def check_precision(asked: str, found: str) -> None:
    """Checks that a compiled model computes in the requested precision.

    Raises:
        SetupError: if it does not; says which precision it computes in.
    """
    if asked not in {"auto", found}:
        raise SetupError(
            f"the compiled model has precision {found}, not {asked}",
            "set precision=auto" + f" or precision={found}" * (found in _ASKABLE),
        )


def checked_backend(backend: Backend, asked: str) -> Backend:
    """Returns a backend unchanged if it computes in the requested precision; otherwise closes it.

    A model whose precision is `unknown` is accepted.

    Raises:
        SetupError: if it does not; says which precision it computes in.
    """
    if backend.precision != _UNKNOWN:
        try:
            check_precision(asked, backend.precision)
        except SetupError:
            backend.close()
            raise
    return backend


def check_maps(maps: NetworkOutput, batch: InputBatch, keypoints: KeypointSet) -> NetworkOutput:
    """Returns the maps unchanged if they are a possible answer to the batch.

    Args:
        maps: answer of a backend.
        batch: network inputs.
        keypoints: keypoint set of the model.

    Raises:
        ExecutionError: if a shape is wrong or a value is not finite.
    """
    images, _, height, width = batch.inputs_N3HW.shape
    found = (maps.heatmaps_NKHW, keypoints.num_heatmaps), (maps.pafs_NPHW, keypoints.num_pafs)
    for array, channels in found:
        expected = (images, channels, -(-height // STRIDE), -(-width // STRIDE))
        if array.shape != expected:
            raise ExecutionError(
                f"the model returned {list(array.shape)} instead of {list(expected)}",
                image_ids=batch.image_ids,
            )
        if not _is_finite(array):
            raise ExecutionError(
                "the model's output has values that are not finite", image_ids=batch.image_ids
            )
    return maps


def _is_finite(array: npt.NDArray[np.float32 | np.float16]) -> bool:
    if array.dtype == np.float16:
        # NumPy tests halves one by one, which takes forty times as long as a test of their bits.
        return int((array.view(np.uint16) & _HALF_EXPONENT).max()) < _HALF_EXPONENT
    return bool(np.isfinite(array).all())
