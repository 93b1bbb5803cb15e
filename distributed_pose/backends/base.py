"""What every backend does, and what is checked of its answers.

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
from distributed_pose.pose.skeleton import NUM_HEATMAPS, NUM_PAFS, STRIDE
from distributed_pose.records import Geometry, Simulation

# What a configuration can ask for.
_ASKABLE = ("f32", "bf16", "f16", "int8")

# All of these bits are set in halves that are not finite, and in no others.
_HALF_EXPONENT = 0x7C00


@dataclass(frozen=True)
class InputBatch:
    """Network inputs of one shape.

    Attributes:
        image_ids: N ids.
        geometries: N geometries; only fakes that draw their answer look at them.
        inputs_N3HW: [N, 3, 8H, 8W], C-contiguous; float32, or uint8 for a model that normalises
            by itself.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    inputs_N3HW: npt.NDArray[np.float32 | np.uint8]


class NetworkOutput(NamedTuple):
    """Last-stage output: [N, 19, H, W] and [N, 38, H, W], float32, or float16 if the model's is.

    Nothing widens halves before the decoder, which does so exactly.
    """

    heatmaps_NKHW: npt.NDArray[np.float32 | np.float16]
    pafs_NPHW: npt.NDArray[np.float32 | np.float16]


class DeviceTimes(NamedTuple):
    """Times of one batch on its device, in nanoseconds.

    Attributes:
        compute_ns: execution of the model alone, by the device's own clock where it has one. It is
            what data sheets, `trtexec` and `ais_bench` call compute time.
        copy_in_ns: copy of the inputs to the device's memory, packing on the host included; 0 where
            the model reads the host's memory.
        copy_out_ns: copy of the outputs from the device's memory, unpacking included.
    """

    compute_ns: int
    copy_in_ns: int = 0
    copy_out_ns: int = 0

    @property
    def by_stage(self) -> tuple[int, int, int]:
        """The times in the order of `records.DEVICE_STAGES`."""
        return self.copy_in_ns, self.compute_ns, self.copy_out_ns

    @property
    def latency_ns(self) -> int:
        """The batch's time with its copies, which is what `trtexec` calls latency."""
        return sum(self.by_stage)


class Inference(NamedTuple):
    """The answer to one batch."""

    maps: NetworkOutput
    times: DeviceTimes


class Backend(ABC):
    """A compiled model on one device.

    It is made, used and closed by one thread. Batches are submitted and collected in the same
    order; a device with several slots copies one batch while it executes another.

    Attributes:
        precision: what the compiled model really computes in, such as `bf16`.
        description: the device's own name, such as the processor's.
        slots: number of batches that may be submitted and not yet collected.
    """

    precision: str
    description: str
    slots: int = 1

    def prepare(self, batch: InputBatch) -> None:
        """Gets ready for batches of a size and shape, of which many are to come.

        Whatever is tuned, compiled or captured for it is done before this returns, so that no later
        batch of this size or a smaller one pays for it, and what an earlier call got ready is
        freed. It is called while no batch is under way. Errors are those of `infer`.

        Args:
            batch: an example.
        """
        self.infer(batch)

    @abstractmethod
    def submit(self, batch: InputBatch) -> None:
        """Starts a batch of any size and shape that the model takes.

        At most `slots` batches are under way. The batch's arrays must stay unchanged until it is
        collected. After an error nothing is under way.

        Raises:
            ExecutionError: if the batch cannot be run.
            SetupError: if the backend is closed.
        """

    @abstractmethod
    def collect(self) -> Inference:
        """Returns the answer to the oldest batch under way, when it is there.

        Its arrays are the caller's: no later batch changes them. Their values are unchecked. After
        an error nothing is under way: what else was submitted has no answer.

        Raises:
            ExecutionError: if the device fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the device; may be called again."""

    def infer(self, batch: InputBatch) -> NetworkOutput:
        """Returns the maps of a batch while no other is under way; errors are those of both."""
        self.submit(batch)
        return self.collect().maps


class SynchronousBackend(Backend):
    """A backend that runs a batch when it is submitted, such as one on the CPU."""

    def __init__(self) -> None:
        self._answers: deque[Inference] = deque()

    def prepare(self, batch: InputBatch) -> None:
        """Does nothing: what is made for a size is made at its first batch."""

    @abstractmethod
    def run(self, batch: InputBatch) -> NetworkOutput:
        """Returns the maps of a batch; errors are those of `submit`."""

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
        precision: asked for; `auto` is the backend's choice.
        threads: of the processor that it may use.
        batch_size: most images in a batch.
        index: of the device among those of its kind that the process sees; 0 where it is pinned.
        variant: what stands behind the colon of the backend's name, such as a provider.
        simulation: for simulated devices.
    """

    precision: str = "auto"
    threads: int = 1
    batch_size: int = 1
    index: int = 0
    variant: str = ""
    simulation: Simulation = field(default_factory=Simulation)


class BackendFactory(Protocol):
    """Makes a backend from an artifact by value; what the registry's strings lead to."""

    def __call__(self, content: bytes, options: BackendOptions) -> Backend:
        """Returns the backend.

        Raises:
            SetupError: if the device lacks the precision, or the model cannot run on it.
        """


def check_precision(asked: str, found: str) -> None:
    """Checks that a compiled model computes in the precision that it was asked for.

    Raises:
        SetupError: if it does not; tells what it computes in.
    """
    if asked not in {"auto", found}:
        raise SetupError(
            f"the compiled model has precision {found}, not {asked}",
            "set precision=auto" + f" or precision={found}" * (found in _ASKABLE),
        )


def check_maps(maps: NetworkOutput, batch: InputBatch) -> NetworkOutput:
    """Returns the maps as they are, if they are a possible answer to the batch.

    Raises:
        ExecutionError: if a shape is wrong or a value is not finite.
    """
    images, _, height, width = batch.inputs_N3HW.shape
    for array, channels in ((maps.heatmaps_NKHW, NUM_HEATMAPS), (maps.pafs_NPHW, NUM_PAFS)):
        expected = (images, channels, height // STRIDE, width // STRIDE)
        if array.shape != expected:
            raise ExecutionError(
                f"the model answered {list(array.shape)} instead of {list(expected)}",
                image_ids=batch.image_ids,
            )
        if not _is_finite(array):
            raise ExecutionError(
                "the model's output has values that are not finite", image_ids=batch.image_ids
            )
    return maps


def _is_finite(array: npt.NDArray[np.float32 | np.float16]) -> bool:
    if array.dtype == np.float16:
        # NumPy looks at halves one by one, which takes forty times as long as a look at their bits.
        return int((array.view(np.uint16) & _HALF_EXPONENT).max()) < _HALF_EXPONENT
    return bool(np.isfinite(array).all())
