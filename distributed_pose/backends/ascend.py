"""Runs models on an Ascend NPU through pyACL, which is part of CANN.

Array legend: N images, K heatmaps, P PAF channels, H and W size in pixels or cells, 3 the channels
blue, green, red.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.acl_calls import (
    AclError,
    Resources,
    call_handle,
    call_value,
    check_call,
    initialise,
)
from distributed_pose.backends.ascend_model import Slot, allocate_slot, load_model
from distributed_pose.backends.base import (
    Backend,
    BackendOptions,
    DeviceTimes,
    Inference,
    InputBatch,
    NetworkOutput,
    check_precision,
)
from distributed_pose.backends.om import Chunk, empty_maps
from distributed_pose.devices.ascend import check_precision_on
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.model.om_file import UNKNOWN, compiled_precision

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_NS_PER_MS = 1e6


@dataclass
class _Answer:
    """A batch in flight.

    Attributes:
        image_ids: ids of the images of the batch.
        arrays: heatmaps and PAFs, filled part by part.
        parts: number of parts that are not yet in the arrays.
        times_ns: float64 [3], nanoseconds of copy in, execution and copy out, summed over the parts
            that are in the arrays.
    """

    image_ids: tuple[int, ...]
    arrays: Sequence[npt.NDArray[Any]]
    parts: int
    times_ns: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A part of a batch that a slot has in flight."""

    answer: _Answer
    chunk: Chunk
    slot: Slot
    packing_ns: int


class AscendBackend(Backend):
    """An `.om` on one NPU.

    `submit` queues all work of a batch: the copy to the device, the execution and the copy back,
    each on its own stream. The streams wait for each other by events, so that the device executes
    one batch while the next is copied in and the previous one copied out. Only one stream executes,
    because a model must not be executed on two streams at once. A batch larger than the model's
    largest batch size runs in parts.

    Times are measured by the device's own events, and the times of the copies include packing and
    unpacking on the host.
    """

    slots = 3

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        self._resources = Resources()
        self._free: Iterator[Slot] = iter(())
        self._slots: tuple[Slot, ...] = ()
        self._answers: deque[_Answer] = deque()
        self._parts: deque[_Part] = deque()
        # The size set last is kept, because setting a dynamic batch waits for queued executions.
        self._batch = 0
        self._limit = options.batch_size
        try:
            self._take_device(options.index)
            self.description: str = call_handle("get_soc_name")
            check_precision_on(self.description, options.precision)
            self._model = load_model(content, options.keypoints, self._resources)
            dtypes = [output.port.dtype for output in self._model.maps]
            self.precision = compiled_precision(content, dtypes)
            if self.precision != UNKNOWN:
                check_precision(options.precision, self.precision)
            self._slots = tuple(
                allocate_slot(self._model, self._resources) for _ in range(self.slots)
            )
            self._free = cycle(self._slots)
        # Also catches Ctrl-C, because the device's resources outlive the object.
        except BaseException as error:
            with suppress(AclError):
                self._resources.release()
            if isinstance(error, AclError):
                raise SetupError(f"the NPU cannot run the model: {error}", error.hint) from None
            raise
        # This call runs first, because another backend of the thread may have set its own context.
        self._resources.release_by("rt.set_context", self._context)

    def submit(self, batch: InputBatch) -> None:
        if not self._slots:
            raise SetupError("the backend is closed")
        images_N3HW = batch.inputs_N3HW
        arrays = empty_maps(len(images_N3HW), (output.port for output in self._model.maps))
        with self._failing(batch.image_ids):
            check_call("rt.set_context", self._context)
            self._model.input.check(batch, self._limit)
            chunks = self._model.input.chunks(len(images_N3HW))
            answer = _Answer(batch.image_ids, arrays, len(chunks), np.zeros(3))
            for chunk in chunks:
                if len(self._parts) == len(self._slots):
                    self._finish(self._parts.popleft())
                self._queue(answer, chunk, images_N3HW[chunk.start : chunk.stop])
            self._answers.append(answer)

    def collect(self) -> Inference:
        answer = self._answers.popleft()
        with self._failing(answer.image_ids):
            check_call("rt.set_context", self._context)
            while answer.parts:
                self._finish(self._parts.popleft())
        copy_in_ns, compute_ns, copy_out_ns = map(int, answer.times_ns)
        return Inference(
            NetworkOutput(*answer.arrays), DeviceTimes(compute_ns, copy_in_ns, copy_out_ns)
        )

    def close(self) -> None:
        if self._parts:
            with suppress(AclError):
                check_call("rt.set_context", self._context)
            self._drain()
        # The slots go before their memory is freed, because their arrays point into it.
        self._slots, self._free = (), iter(())
        try:
            self._resources.release()
        except AclError as error:
            raise ExecutionError(
                f"the NPU's resources are not all released: {error}", error.hint
            ) from None

    def _take_device(self, index: int) -> None:
        initialise()
        check_call("rt.set_device", index)
        self._resources.release_by("rt.reset_device", index)
        acquire = self._resources.acquire
        self._context = acquire("rt.create_context", index, release="rt.destroy_context")
        self._copies_in = acquire("rt.create_stream", release="rt.destroy_stream")
        self._executions = acquire("rt.create_stream", release="rt.destroy_stream")
        self._copies_out = acquire("rt.create_stream", release="rt.destroy_stream")

    @contextmanager
    def _failing(self, image_ids: tuple[int, ...]) -> Iterator[None]:
        """Turns an error of pyACL into one of these images, and drains the device on any error."""
        try:
            yield
        except BaseException as error:
            self._drain()
            if isinstance(error, AclError):
                raise ExecutionError(
                    f"the NPU cannot run the batch: {error}", error.hint, image_ids=image_ids
                ) from None
            raise

    def _queue(self, answer: _Answer, chunk: Chunk, images_N3HW: npt.NDArray[Any]) -> None:
        """Packs a part into a free slot, and queues its copies and its execution."""
        slot = next(self._free)
        sent = slot.host_input[: chunk.size]
        start_ns = perf_counter_ns()
        self._model.input.pack(images_N3HW, sent)
        packing_ns = perf_counter_ns() - start_ns
        with _timed(slot.events.copy_in, self._copies_in):
            _copy(
                slot.device_input, sent.ctypes.data, sent.nbytes, _HOST_TO_DEVICE, self._copies_in
            )
        _follow(slot, slot.events.copied, self._copies_in, self._executions)
        self._set_batch(slot, chunk.size)
        with _timed(slot.events.execution, self._executions):
            model = self._model.handle
            check_call("mdl.execute_async", model, slot.inputs, slot.outputs, self._executions)
        _follow(slot, slot.events.executed, self._executions, self._copies_out)
        with _timed(slot.events.copy_out, self._copies_out):
            for address, array in zip(slot.device_maps, slot.host_maps, strict=True):
                wanted = array[: len(images_N3HW)]
                target = wanted.ctypes.data
                _copy(target, address, wanted.nbytes, _DEVICE_TO_HOST, self._copies_out)
        self._parts.append(_Part(answer, chunk, slot, packing_ns))

    def _set_batch(self, slot: Slot, size: int) -> None:
        """Sets the size of a dynamic batch if it has changed."""
        if self._model.batch is None or (slot.batch == size and self._batch == size):
            return
        # The size belongs to the model, and queued executions read it.
        check_call("rt.synchronize_stream", self._executions)
        slot.batch = self._batch = 0
        index = self._model.batch.index
        check_call("mdl.set_dynamic_batch_size", self._model.handle, slot.inputs, index, size)
        slot.batch = self._batch = size

    def _finish(self, part: _Part) -> None:
        """Waits for a part, and adds its maps and times to its answer."""
        answer, chunk, events = part.answer, part.chunk, part.slot.events
        check_call("rt.synchronize_event", events.copy_out[1])
        pairs = (events.copy_in, events.execution, events.copy_out)
        times_ns = [_NS_PER_MS * call_value("rt.event_elapsed_time", *pair) for pair in pairs]
        start_ns = perf_counter_ns()
        images = chunk.stop - chunk.start
        for array, found in zip(answer.arrays, part.slot.host_maps, strict=True):
            array[chunk.start : chunk.stop] = found[:images]
        unpacking_ns = perf_counter_ns() - start_ns
        answer.times_ns += times_ns + np.array([part.packing_ns, 0, unpacking_ns])
        answer.parts -= 1

    def _drain(self) -> None:
        """Waits for all work in flight, which could overwrite later batches, and forgets it."""
        self._answers.clear()
        self._parts.clear()
        # A failed batch may have taken a slot without using it, so that the order starts again.
        self._free = cycle(self._slots)
        self._wait_for_streams()
        for slot in self._slots:
            for event in slot.armed:
                with suppress(AclError):
                    check_call("rt.reset_event", event, self._executions)
            slot.armed.clear()
        self._wait_for_streams()

    def _wait_for_streams(self) -> None:
        for stream in (self._copies_in, self._executions, self._copies_out):
            with suppress(AclError):
                check_call("rt.synchronize_stream", stream)


@contextmanager
def _timed(events: tuple[int, int], stream: int) -> Iterator[None]:
    """Records a pair of events on a stream around the work that the block queues."""
    start, end = events
    check_call("rt.record_event", start, stream)
    yield
    check_call("rt.record_event", end, stream)


def _follow(slot: Slot, event: int, first: int, second: int) -> None:
    """Makes later work on the second stream wait for all work queued so far on the first.

    The stream that waited resets the event, as the reference requires for events used again.
    """
    check_call("rt.record_event", event, first)
    slot.armed.add(event)
    check_call("rt.stream_wait_event", second, event)
    check_call("rt.reset_event", event, second)
    slot.armed.discard(event)


def _copy(target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
    check_call("rt.memcpy_async", target, size_bytes, source, size_bytes, kind, stream)
