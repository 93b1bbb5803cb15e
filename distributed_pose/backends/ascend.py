"""An Ascend NPU through pyACL, which comes with CANN.

Array legend: N images, K heatmaps, P PAF channels, H and W size in pixels or cells, 3 the channels
blue, green, red.
"""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.acl_calls import (
    AclError,
    Taken,
    done,
    initialise,
    something,
    taken,
    told,
)
from distributed_pose.backends.base import BackendOptions, InputBatch, Maps, SynchronousBackend
from distributed_pose.backends.om import Chunk, empty_maps, image_input, map_outputs, om_port
from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.records import ModelPort
from distributed_pose.soc import precision_on

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_HUGE_PAGES_FIRST = 0
_DYNAMIC_BATCH_INPUT = "ascend_mbatch_shape_data"
_DTYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64"}


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the loaded model; its size is that of the largest batch."""

    index: int
    port: ModelPort
    size_bytes: int


@dataclass(frozen=True)
class _Slot:
    """Memory for one batch on its way through the device.

    Attributes:
        inputs: the dataset that the model reads.
        outputs: the dataset that it writes.
        device_input: address on the device.
        device_outputs: addresses on the device, of heatmaps and PAFs.
        host_input: what is copied to the device, in the layout of the model's memory.
        host_outputs: what is copied from it, heatmaps and PAFs.
    """

    inputs: int
    outputs: int
    device_input: int
    device_outputs: tuple[int, int]
    host_input: npt.NDArray[Any]
    host_outputs: tuple[npt.NDArray[Any], npt.NDArray[Any]]


class AscendBackend(SynchronousBackend):
    """An `.om` on one NPU.

    A batch larger than the model's largest is run in parts: while the device executes one, the
    next is copied to it and the last one from it. Copies and executions are queued on two streams
    and waited for, which unlike `acl.mdl.execute` lets other threads of Python run meanwhile. One
    stream executes, because a model must not be executed on two at once.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        self._taken = Taken()
        self._slots: tuple[_Slot, ...] = ()
        self._limit = options.batch_size
        try:
            self._take_device(options.index)
            self.description: str = something("get_soc_name")
            self.precision = precision_on(self.description, options.precision)
            self._load(content)
            self._take_slots()
        # Also after Ctrl-C: what was taken outlives the object.
        except BaseException as error:
            with suppress(AclError):
                self._taken.give_back()
            if isinstance(error, AclError):
                raise SetupError(f"the NPU cannot run the model: {error}", error.hint) from None
            raise
        # Undone first: another backend of the thread can have made its own context current.
        self._taken.give_back_by("rt.set_context", self._context)

    def run(self, batch: InputBatch) -> Maps:
        if not self._slots:
            raise SetupError("the backend is closed")
        self._input.check(batch, self._limit)
        answers = empty_maps(len(batch.inputs_N3HW), (output.port for output in self._outputs))
        try:
            done("rt.set_context", self._context)
            self._run(batch.inputs_N3HW, answers)
        except BaseException as error:
            self._drain()
            if isinstance(error, AclError):
                raise ExecutionError(
                    f"the NPU cannot run the batch: {error}",
                    error.hint,
                    image_ids=batch.image_ids,
                ) from None
            raise
        return Maps(*answers)

    def close(self) -> None:
        # Before its memory goes: the arrays point into it.
        self._slots = ()
        try:
            self._taken.give_back()
        except AclError as error:
            raise ExecutionError(f"the NPU was not left clean: {error}", error.hint) from None

    def _take_device(self, index: int) -> None:
        initialise()
        done("rt.set_device", index)
        self._taken.give_back_by("rt.reset_device", index)
        self._context = self._take("rt.create_context", index, back="rt.destroy_context")
        self._copies = self._take("rt.create_stream", back="rt.destroy_stream")
        self._executions = self._take("rt.create_stream", back="rt.destroy_stream")

    def _take(self, call: str, *arguments: Any, back: str) -> int:
        handle: int = taken(call, *arguments)
        self._taken.give_back_by(back, handle)
        return handle

    def _load(self, content: bytes) -> None:
        held = np.frombuffer(content, np.uint8)
        if not held.size:
            raise SetupError("the .om is empty", "compile it again")
        address = held.ctypes.data
        self._model = self._take("mdl.load_from_mem", address, held.size, back="mdl.unload")
        self._describe()

    def _describe(self) -> None:
        """Reads what the model takes and gives."""
        description = something("mdl.create_desc")
        self._taken.give_back_by("mdl.destroy_desc", description)
        done("mdl.get_desc", description, self._model)
        batch_sizes = taken("mdl.get_dynamic_batch", description)["batch"]
        inputs = _tensors(description, "input")
        self._batch_tensor = None
        if batch_sizes:
            index = taken("mdl.get_input_index_by_name", description, _DYNAMIC_BATCH_INPUT)
            self._batch_tensor = inputs.pop(index)
        self._input = image_input([tensor.port for tensor in inputs], batch_sizes)
        self._all_outputs = _tensors(description, "output")
        heatmaps, pafs = map_outputs([tensor.port for tensor in self._all_outputs])
        self._outputs = (self._all_outputs[heatmaps], self._all_outputs[pafs])
        self._image = inputs[0]
        for tensor, shape in (
            (self._image, self._input.image_shape),
            *((output, output.port.shape[1:]) for output in self._outputs),
        ):
            self._check_size(tensor, shape)

    def _check_size(self, tensor: _Tensor, shape: Sequence[int | None]) -> None:
        values = self._input.batch_sizes[-1] * prod(n for n in shape if n)
        needed = values * np.dtype(tensor.port.dtype).itemsize
        if tensor.size_bytes < needed:
            raise SetupError(
                f"the .om's {tensor.port.name} has {tensor.size_bytes} bytes instead of {needed}",
                "compile it with the version of CANN that runs it",
            )

    def _take_slots(self) -> None:
        # With one part a batch, nothing is left to be copied during an execution.
        parts = 2 if self._limit > self._input.batch_sizes[-1] else 1
        self._slots = tuple(self._take_slot() for _ in range(parts))

    def _take_slot(self) -> _Slot:
        inputs, outputs = self._take_dataset(), self._take_dataset()
        extra = (self._batch_tensor,) if self._batch_tensor else ()
        order = sorted((self._image, *extra), key=lambda tensor: tensor.index)
        addresses = {t: self._take_buffer(inputs, t.size_bytes) for t in order}
        written = {t: self._take_buffer(outputs, t.size_bytes) for t in self._all_outputs}
        heatmaps, pafs = self._outputs
        return _Slot(
            inputs,
            outputs,
            addresses[self._image],
            (written[heatmaps], written[pafs]),
            self._take_array(self._image.port.dtype, self._input.image_shape),
            (self._take_maps(heatmaps), self._take_maps(pafs)),
        )

    def _take_dataset(self) -> int:
        dataset: int = something("mdl.create_dataset")
        self._taken.give_back_by("mdl.destroy_dataset", dataset)
        return dataset

    def _take_buffer(self, dataset: int, size_bytes: int) -> int:
        """Returns the address of new memory on the device, now the next buffer of a dataset."""
        address = self._take("rt.malloc", size_bytes, _HUGE_PAGES_FIRST, back="rt.free")
        buffer = something("create_data_buffer", address, size_bytes)
        self._taken.give_back_by("destroy_data_buffer", buffer)
        taken("mdl.add_dataset_buffer", dataset, buffer)
        return address

    def _take_maps(self, output: _Tensor) -> npt.NDArray[Any]:
        return self._take_array(output.port.dtype, [n for n in output.port.shape[1:] if n])

    def _take_array(self, dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Returns pinned memory of the host for the largest batch."""
        full = (self._input.batch_sizes[-1], *shape)
        size = prod(full) * np.dtype(dtype).itemsize
        address = self._take("rt.malloc_host", size, back="rt.free_host")
        memory = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address))
        return memory.view(dtype).reshape(full)

    def _run(
        self, images_N3HW: npt.NDArray[Any], answers: Sequence[npt.NDArray[np.float32]]
    ) -> None:
        before = None
        chunks = self._input.chunks(len(images_N3HW))
        for slot, chunk in zip(cycle(self._slots), chunks, strict=False):
            self._upload(slot, chunk, images_N3HW)
            if before:
                done("rt.synchronize_stream", self._executions)
            self._execute(slot, chunk)
            if before:
                self._download(*before, answers)
            before = slot, chunk
        done("rt.synchronize_stream", self._executions)
        if before:
            self._download(*before, answers)

    def _upload(self, slot: _Slot, chunk: Chunk, images_N3HW: npt.NDArray[Any]) -> None:
        sent = slot.host_input[: chunk.size]
        self._input.pack(images_N3HW[chunk.start : chunk.stop], sent)
        self._copy(slot.device_input, sent.ctypes.data, sent.nbytes, _HOST_TO_DEVICE)
        done("rt.synchronize_stream", self._copies)

    def _execute(self, slot: _Slot, chunk: Chunk) -> None:
        if self._batch_tensor:
            index = self._batch_tensor.index
            done("mdl.set_dynamic_batch_size", self._model, slot.inputs, index, chunk.size)
        done("mdl.execute_async", self._model, slot.inputs, slot.outputs, self._executions)

    def _download(
        self, slot: _Slot, chunk: Chunk, answers: Sequence[npt.NDArray[np.float32]]
    ) -> None:
        images = chunk.stop - chunk.start
        for address, array in zip(slot.device_outputs, slot.host_outputs, strict=True):
            wanted = array[:images]
            self._copy(wanted.ctypes.data, address, wanted.nbytes, _DEVICE_TO_HOST)
        done("rt.synchronize_stream", self._copies)
        for answer, array in zip(answers, slot.host_outputs, strict=True):
            answer[chunk.start : chunk.stop] = array[:images]

    def _copy(self, target: int, source: int, size_bytes: int, kind: int) -> None:
        done("rt.memcpy_async", target, size_bytes, source, size_bytes, kind, self._copies)

    def _drain(self) -> None:
        """Waits for what is under way, which would write into what comes next."""
        for stream in (self._copies, self._executions):
            with suppress(AclError):
                done("rt.synchronize_stream", stream)


def _tensors(description: int, what: str) -> list[_Tensor]:
    """Returns the inputs or outputs of a model, in its order."""
    return [
        _tensor(description, what, index)
        for index in range(something(f"mdl.get_num_{what}s", description))
    ]


def _tensor(description: int, what: str, index: int) -> _Tensor:
    size_bytes = something(f"mdl.get_{what}_size_by_index", description, index)
    name = something(f"mdl.get_{what}_name_by_index", description, index)
    dims = taken(f"mdl.get_{what}_dims", description, index)["dims"]
    code = told(f"mdl.get_{what}_data_type", description, index)
    if code not in _DTYPES:
        raise SetupError(
            f"the .om's {what} {name} has a type of values that is not known: {code}",
            "compile it from a model of float32 values",
        )
    return _Tensor(index, om_port(name, dims, _DTYPES[code]), size_bytes)
