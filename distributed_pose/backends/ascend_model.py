"""Loads an `.om` through pyACL, and allocates memory for its inputs and outputs.

Array legend: N images, H and W size in pixels, 3 the channels blue, green, red.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.backends.acl_calls import (
    Resources,
    call_handle,
    call_raw,
    call_value,
    check_call,
)
from distributed_pose.backends.om import OmInput, image_input, map_outputs, om_port
from distributed_pose.errors import SetupError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.models import ModelPort

_HUGE_PAGES_FIRST = 0
_DYNAMIC_BATCH_INPUT = "ascend_mbatch_shape_data"
_DTYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of the loaded model; `size_bytes` is for the largest batch."""

    index: int
    port: ModelPort
    size_bytes: int


@dataclass(frozen=True)
class AscendModel:
    """A loaded model.

    Attributes:
        handle: handle of the model in pyACL.
        input: image input, independent of the runtime.
        image: image input as a tensor of the model.
        batch: input that holds the size of a dynamic batch; None for a static model.
        outputs: all outputs of the model.
        maps: outputs with the heatmaps and the PAFs of the last stage.
    """

    handle: int
    input: OmInput
    image: Tensor
    batch: Tensor | None
    outputs: tuple[Tensor, ...]
    maps: tuple[Tensor, Tensor]


class Events(NamedTuple):
    """The handles of a slot's events.

    `copied` and `executed` make one stream wait for another. The others are pairs that time the
    copy of the inputs, the execution and the copy of the outputs, each pair on one stream.
    """

    copied: int
    executed: int
    copy_in: tuple[int, int]
    execution: tuple[int, int]
    copy_out: tuple[int, int]


@dataclass
class Slot:
    """Memory and events for one batch in flight, allocated once and used again.

    Attributes:
        inputs: handle of the dataset that the model reads.
        outputs: handle of the dataset that the model writes.
        device_input: address of the image input on the device.
        device_maps: addresses of the heatmaps and PAFs on the device.
        host_input: pinned array that is copied to the device, in the layout of the model's memory.
        host_maps: pinned arrays for the heatmaps and PAFs that are copied from the device.
        events: events of the slot's batch.
        batch: size that the slot's dynamic batch tensor holds; 0 before the first batch.
        armed: events that were recorded and for which no wait and reset is queued.
    """

    inputs: int
    outputs: int
    device_input: int
    device_maps: tuple[int, int]
    host_input: npt.NDArray[Any]
    host_maps: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    events: Events
    batch: int = 0
    armed: set[int] = field(default_factory=set)


def load_model(content: bytes, keypoints: KeypointSet, resources: Resources) -> AscendModel:
    """Loads a model into the device's memory and returns it.

    Args:
        content: bytes of the `.om`.
        keypoints: keypoint set of the model.
        resources: record of the resources to release, to which those of the model are added.

    Raises:
        AclError: if the model cannot be loaded.
        SetupError: if the content is empty or is not a pose network of supported types and sizes.
    """
    source = np.frombuffer(content, np.uint8)
    if not source.size:
        raise SetupError("the .om is empty", "compile it again")
    address = source.ctypes.data
    handle = resources.acquire("mdl.load_from_mem", address, source.size, release="mdl.unload")
    description = call_handle("mdl.create_desc")
    resources.release_by("mdl.destroy_desc", description)
    check_call("mdl.get_desc", description, handle)
    model = _described(handle, description, keypoints)
    for tensor, shape in (
        (model.image, model.input.image_shape),
        *((output, output.port.shape[1:]) for output in model.maps),
    ):
        _check_size(model, tensor, shape)
    return model


def allocate_slot(model: AscendModel, resources: Resources) -> Slot:
    """Allocates a slot for a model and returns it.

    Raises:
        AclError: if the host or the device lacks the memory.
    """
    inputs, outputs = _dataset(resources), _dataset(resources)
    extra = (model.batch,) if model.batch else ()
    order = sorted((model.image, *extra), key=lambda tensor: tensor.index)
    read = {tensor: _buffer(inputs, tensor.size_bytes, resources) for tensor in order}
    written = {tensor: _buffer(outputs, tensor.size_bytes, resources) for tensor in model.outputs}
    heatmaps, pafs = model.maps
    return Slot(
        inputs,
        outputs,
        read[model.image],
        (written[heatmaps], written[pafs]),
        _pinned(model, model.image, model.input.image_shape, resources),
        (
            _pinned(model, heatmaps, heatmaps.port.shape[1:], resources),
            _pinned(model, pafs, pafs.port.shape[1:], resources),
        ),
        Events(
            _event(resources),
            _event(resources),
            *((_event(resources), _event(resources)) for _ in range(3)),
        ),
    )


def _described(handle: int, description: int, keypoints: KeypointSet) -> AscendModel:
    batch_sizes = call_value("mdl.get_dynamic_batch", description)["batch"]
    inputs = _tensors(description, "input")
    batch = None
    if batch_sizes:
        index = call_value("mdl.get_input_index_by_name", description, _DYNAMIC_BATCH_INPUT)
        batch = inputs.pop(index)
    taking = image_input([tensor.port for tensor in inputs], batch_sizes)
    outputs = _tensors(description, "output")
    heatmaps, pafs = map_outputs([tensor.port for tensor in outputs], keypoints)
    maps = outputs[heatmaps], outputs[pafs]
    return AscendModel(handle, taking, inputs[0], batch, tuple(outputs), maps)


def _check_size(model: AscendModel, tensor: Tensor, shape: Sequence[int | None]) -> None:
    values = model.input.batch_sizes[-1] * prod(n for n in shape if n)
    needed = values * np.dtype(tensor.port.dtype).itemsize
    if tensor.size_bytes < needed:
        raise SetupError(
            f"the .om's {tensor.port.name} has {tensor.size_bytes} bytes instead of {needed}",
            "compile it with the version of CANN that runs it",
        )


def _dataset(resources: Resources) -> int:
    dataset: int = call_handle("mdl.create_dataset")
    resources.release_by("mdl.destroy_dataset", dataset)
    return dataset


def _buffer(dataset: int, size_bytes: int, resources: Resources) -> int:
    """Allocates memory on the device as the next buffer of a dataset, and returns its address."""
    address = resources.acquire("rt.malloc", size_bytes, _HUGE_PAGES_FIRST, release="rt.free")
    buffer = call_handle("create_data_buffer", address, size_bytes)
    resources.release_by("destroy_data_buffer", buffer)
    call_value("mdl.add_dataset_buffer", dataset, buffer)
    return address


def _event(resources: Resources) -> int:
    return resources.acquire("rt.create_event", release="rt.destroy_event")


def _pinned(
    model: AscendModel, tensor: Tensor, shape: Sequence[int | None], resources: Resources
) -> npt.NDArray[Any]:
    """Allocates pinned memory of the host for the largest batch, and returns it as an array."""
    full = (model.input.batch_sizes[-1], *(n for n in shape if n))
    size = prod(full) * np.dtype(tensor.port.dtype).itemsize
    address = resources.acquire("rt.malloc_host", size, release="rt.free_host")
    memory = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address))
    return memory.view(tensor.port.dtype).reshape(full)


def _tensors(description: int, what: str) -> list[Tensor]:
    """Returns the inputs or outputs of a model, in the model's order."""
    return [
        _tensor(description, what, index)
        for index in range(call_handle(f"mdl.get_num_{what}s", description))
    ]


def _tensor(description: int, what: str, index: int) -> Tensor:
    size_bytes = call_handle(f"mdl.get_{what}_size_by_index", description, index)
    name = call_handle(f"mdl.get_{what}_name_by_index", description, index)
    dims = call_value(f"mdl.get_{what}_dims", description, index)["dims"]
    code = call_raw(f"mdl.get_{what}_data_type", description, index)
    if code not in _DTYPES:
        raise SetupError(
            f"the .om's {what} {name} has a type of values that is not known: {code}",
            "compile it from a model of float32 values",
        )
    return Tensor(index, om_port(name, dims, _DTYPES[code]), size_bytes)
