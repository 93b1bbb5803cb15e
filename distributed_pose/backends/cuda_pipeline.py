"""Runs batches on a CUDA device: copies in, execution and copies out, each on its own stream.

While one batch is executed, the next is copied in and the previous one is copied out.

Array legend: N images, H and W network input size in pixels.
"""

from collections import deque
from collections.abc import Sequence
from math import prod
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import DeviceTimes
from distributed_pose.backends.cuda_driver import CudaDriver, DeviceBuffer, PinnedBuffer
from distributed_pose.records.models import ModelPort

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

# Two slots let the device execute one batch while it copies another.
SLOTS = 2

# Cards raise their clocks under load. Execution for this long, or of this many batches, therefore
# precedes all measurements.
_CLOCKS_RISE_NS = 500_000_000
_MAX_WARMUP_BATCHES = 400


class DeviceArray(NamedTuple):
    """A C-contiguous array in the device's memory."""

    address: int
    shape: Shape
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        """Size of the array in bytes."""
        return prod(self.shape) * self.dtype.itemsize


class Program(Protocol):
    """A model on a CUDA device, whose work runs on the stream that it was made with.

    Attributes:
        input: input of the model.
        precision: precision that the model computes in.
    """

    input: ModelPort
    precision: str

    def prepare(self, slot: int, inputs_N3HW: DeviceArray) -> None:
        """Tunes the model for inputs of a shape at an address, so that `run` never does."""

    def run(self, slot: int, inputs_N3HW: DeviceArray) -> Sequence[DeviceArray]:
        """Starts the model and returns the outputs, which stay valid until the slot's next run."""

    def release(self) -> None:
        """Frees the resources that `prepare` made."""

    def close(self) -> None:
        """Frees everything; may be called again."""


class Answer(NamedTuple):
    """The outputs of one batch, in new arrays, and the times of the batch."""

    outputs: list[Array]
    times: DeviceTimes


class Streams(NamedTuple):
    """The handles of a pipeline's streams."""

    copy_in: int
    compute: int
    copy_out: int


class _Slot:
    """The buffers and events of one batch in flight."""

    def __init__(self, driver: CudaDriver) -> None:
        self.host_input = PinnedBuffer(driver)
        self.device_input = DeviceBuffer(driver)
        self.host_outputs = PinnedBuffer(driver)
        self.copy_in, self.compute, self.copy_out = (
            (driver.new_event(), driver.new_event()) for _ in range(3)
        )

    @property
    def events(self) -> list[int]:
        return [*self.copy_in, *self.compute, *self.copy_out]

    def free(self) -> None:
        for buffer in (self.host_input, self.device_input, self.host_outputs):
            buffer.free()


class _BatchInFlight(NamedTuple):
    slot: _Slot
    num_images: int
    pack_ns: int
    outputs: list[Array]


class CudaPipeline:
    """Runs a program on batches, with up to two of them in flight.

    Args:
        driver: driver of the device.
        streams: streams of the pipeline; the program was made with `compute`.
        program: program of the model.
    """

    def __init__(self, driver: CudaDriver, streams: Streams, program: Program) -> None:
        self._driver = driver
        self._streams = streams
        self._program = program
        self._dtype = np.dtype(program.input.dtype)
        self._slots = [_Slot(driver) for _ in range(SLOTS)]
        self._in_flight: deque[_BatchInFlight] = deque()
        self._next_slot = 0
        self._prepared: Shape = ()
        self._is_warm = False

    @property
    def num_in_flight(self) -> int:
        """Number of batches that were submitted and not yet collected."""
        return len(self._in_flight)

    def prepare(self, inputs_N3HW: Array) -> None:
        """Prepares for batches of a shape, and frees the preparation of earlier calls.

        Later batches of the same input size that are smaller are filled up to the prepared batch
        size, so that nothing is tuned for them.

        Args:
            inputs_N3HW: example of the network inputs, [N, 3, H, W].
        """
        self._program.release()
        self._prepared = ()
        shape = self._shape_for(inputs_N3HW.shape)
        for number, slot in enumerate(self._slots):
            device_input = DeviceArray(0, shape, self._dtype)
            address = slot.device_input.reserve(device_input.num_bytes)
            self._program.prepare(number, device_input._replace(address=address))
        # Preparation records no event of the slot, and must not overlap with the slot's next copy.
        self._driver.finish()
        self._prepared = shape
        self._warm_up(inputs_N3HW)

    def submit(self, inputs_N3HW: Array) -> None:
        """Starts a batch; at most `SLOTS` may be in flight.

        Args:
            inputs_N3HW: network inputs [N, 3, H, W] of a type that fits the model's; the array may
                change as soon as this method returns.
        """
        number, slot = self._next_slot, self._slots[self._next_slot]
        device_input, pack_ns = self._copy_in(slot, inputs_N3HW)
        driver, streams = self._driver, self._streams
        driver.wait(streams.compute, slot.copy_in[1])
        driver.record(slot.compute[0], streams.compute)
        device_outputs = self._program.run(number, device_input)
        driver.record(slot.compute[1], streams.compute)
        outputs = self._copy_out(slot, device_outputs)
        self._in_flight.append(_BatchInFlight(slot, len(inputs_N3HW), pack_ns, outputs))
        self._next_slot = (number + 1) % SLOTS

    def collect(self) -> Answer:
        """Waits for the answer to the oldest batch in flight and returns it."""
        slot, num_images, pack_ns, outputs = self._in_flight[0]
        driver = self._driver
        driver.synchronize(slot.copy_out[1])
        start = perf_counter_ns()
        # The outputs are copied, because the slot's next batch reuses its memory.
        answers = [np.array(output[:num_images]) for output in outputs]
        unpack_ns = perf_counter_ns() - start
        self._in_flight.popleft()
        times = DeviceTimes(
            driver.elapsed_ns(*slot.compute),
            pack_ns + driver.elapsed_ns(*slot.copy_in),
            driver.elapsed_ns(*slot.copy_out) + unpack_ns,
        )
        return Answer(answers, times)

    def abandon(self) -> None:
        """Forgets all batches in flight, after the device has stopped using their memory."""
        self._driver.finish()
        self._in_flight.clear()

    def close(self) -> None:
        """Frees the device."""
        self.abandon()
        self._program.close()
        for slot in self._slots:
            slot.free()
        events = [event for slot in self._slots for event in slot.events]
        self._driver.close(list(self._streams), events)

    def _warm_up(self, inputs_N3HW: Array) -> None:
        compute_ns, batches = 0, 0
        while batches < SLOTS or not self._is_warm:
            self.submit(inputs_N3HW)
            compute_ns += self.collect().times.compute_ns
            batches += 1
            is_enough = compute_ns >= _CLOCKS_RISE_NS or batches >= _MAX_WARMUP_BATCHES
            self._is_warm = self._is_warm or is_enough

    def _copy_in(self, slot: _Slot, inputs_N3HW: Array) -> tuple[DeviceArray, int]:
        """Starts the copy of a filled-up batch.

        Returns its array on the device, and the nanoseconds that packing took.

        The batch is filled with copies of its last image, so that a network that mixes the images
        of a batch gets no values that the image alone would not bring.
        """
        start = perf_counter_ns()
        num_images = len(inputs_N3HW)
        target = DeviceArray(0, self._shape_for(inputs_N3HW.shape), self._dtype)
        host = slot.host_input.reserve(target.num_bytes)
        packed_N3HW = host.view(self._dtype).reshape(target.shape)
        packed_N3HW[:num_images] = inputs_N3HW
        packed_N3HW[num_images:] = inputs_N3HW[-1]
        pack_ns = perf_counter_ns() - start
        address = slot.device_input.reserve(target.num_bytes)
        self._driver.record(slot.copy_in[0], self._streams.copy_in)
        self._driver.copy_in(address, host, self._streams.copy_in)
        self._driver.record(slot.copy_in[1], self._streams.copy_in)
        return target._replace(address=address), pack_ns

    def _copy_out(self, slot: _Slot, device_outputs: Sequence[DeviceArray]) -> list[Array]:
        """Starts the copies of a batch's outputs, and returns their target arrays."""
        stream = self._streams.copy_out
        host = slot.host_outputs.reserve(sum(output.num_bytes for output in device_outputs))
        self._driver.wait(stream, slot.compute[1])
        self._driver.record(slot.copy_out[0], stream)
        arrays, offset = [], 0
        for output in device_outputs:
            part = host[offset : offset + output.num_bytes]
            self._driver.copy_out(part, output.address, stream)
            arrays.append(part.view(output.dtype).reshape(output.shape))
            offset += output.num_bytes
        self._driver.record(slot.copy_out[1], stream)
        return arrays

    def _shape_for(self, shape: Shape) -> Shape:
        """Returns the shape that a batch is filled up to."""
        prepared = self._prepared
        if prepared and shape[1:] == prepared[1:] and shape[0] <= prepared[0]:
            return prepared
        # The input of a model with a fixed batch size has that size as its first dimension.
        return (self._program.input.shape[0] or shape[0], *shape[1:])
