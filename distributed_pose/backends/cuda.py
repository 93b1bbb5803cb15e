"""The parts that backends on CUDA devices share, for any runtime.

Array legend: N images, H and W network input size in pixels.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import (
    Backend,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
)
from distributed_pose.backends.cuda_driver import CudaDriver, CudaError
from distributed_pose.backends.cuda_pipeline import (
    SLOTS,
    Answer,
    CudaPipeline,
    Program,
    Streams,
)
from distributed_pose.backends.ports import check_fits
from distributed_pose.errors import ExecutionError, SetupError, first_line

# The function makes the model's program on a stream of a device, given by its handle.
MakeProgram = Callable[[CudaDriver, int], Program]


@dataclass
class _Batch:
    """A batch in flight, split into parts if the model has a fixed batch size."""

    image_ids: tuple[int, ...]
    num_parts: int
    answers: list[Answer] = field(default_factory=list)


class CudaBackend(Backend):
    """A model on a CUDA device, with up to two batches in flight.

    Compute time is the device's own time between events around the execution.

    Args:
        runtime: name of the runtime in messages.
        driver: driver of the device.
        make: function that makes the program.
    """

    slots = SLOTS

    def __init__(self, runtime: str, driver: CudaDriver, make: MakeProgram) -> None:
        self._runtime = runtime
        streams = Streams(driver.new_stream(), driver.new_stream(), driver.new_stream())
        try:
            program = make(driver, streams.compute)
        except SetupError:
            driver.close(list(streams), [])
            raise
        self._part_size = program.input.shape[0]
        self._input = replace(program.input, shape=(None, *program.input.shape[1:]))
        self.precision = program.precision
        self._pipeline: CudaPipeline | None = CudaPipeline(driver, streams, program)
        self._batches: deque[_Batch] = deque()

    def prepare(self, batch: InputBatch) -> None:
        pipeline = self._checked(batch)
        try:
            pipeline.prepare(batch.inputs_N3HW[: self._part_size])
        except Exception as error:  # noqa: BLE001
            raise self._failed(pipeline, error, batch.image_ids) from None

    def submit(self, batch: InputBatch) -> None:
        pipeline = self._checked(batch)
        inputs_N3HW = batch.inputs_N3HW
        size = self._part_size or len(inputs_N3HW)
        starts = range(0, len(inputs_N3HW), size)
        self._batches.append(_Batch(batch.image_ids, len(starts)))
        try:
            for start in starts:
                if pipeline.num_in_flight == SLOTS:
                    self._take(pipeline)
                pipeline.submit(inputs_N3HW[start : start + size])
        except Exception as error:  # noqa: BLE001
            raise self._failed(pipeline, error, batch.image_ids) from None

    def collect(self) -> Inference:
        if self._pipeline is None:
            raise SetupError("the backend is closed")
        batch = self._batches[0]
        try:
            while len(batch.answers) < batch.num_parts:
                self._take(self._pipeline)
        except Exception as error:  # noqa: BLE001
            raise self._failed(self._pipeline, error, batch.image_ids) from None
        self._batches.popleft()
        return _joined(batch.answers)

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline:
            pipeline.close()

    def _take(self, pipeline: CudaPipeline) -> None:
        """Waits for the oldest answer and adds it to its batch."""
        answer = pipeline.collect()
        batch = next(b for b in self._batches if len(b.answers) < b.num_parts)
        batch.answers.append(answer)

    def _checked(self, batch: InputBatch) -> CudaPipeline:
        if self._pipeline is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        return self._pipeline

    def _failed(
        self, pipeline: CudaPipeline, error: Exception, image_ids: tuple[int, ...]
    ) -> ExecutionError:
        """Abandons all batches in flight, and returns the error to raise."""
        pipeline.abandon()
        self._batches.clear()
        return ExecutionError(
            f"{self._runtime} cannot run the model: {first_line(error)}", image_ids=image_ids
        )


def open_driver(index: int) -> CudaDriver:
    """Returns the driver of a CUDA device.

    Args:
        index: index of the device among those that the process sees.

    Raises:
        SetupError: if the driver is not installed or the device does not exist.
    """
    try:
        return CudaDriver(index)
    except (OSError, AttributeError, CudaError) as error:
        raise SetupError(
            f"there is no CUDA device {index}: {first_line(error)}",
            "check that `nvidia-smi` lists the card",
        ) from None


def _joined(answers: list[Answer]) -> Inference:
    parts = zip(*(answer.outputs for answer in answers), strict=True)
    times = zip(*(answer.times for answer in answers), strict=True)
    return Inference(NetworkOutput(*map(_concatenated, parts)), DeviceTimes(*map(sum, times)))


def _concatenated(parts: tuple[npt.NDArray[Any], ...]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
