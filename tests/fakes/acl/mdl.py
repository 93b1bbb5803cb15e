"""Models, what they say of themselves, and their execution."""

import ctypes
import threading
from dataclasses import dataclass, field
from math import prod
from typing import Any

import fake_om
import numpy as np

from . import fake
from .fake import Refused, Task, Thing, add, api, check_memory, find, remove

TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4}


@dataclass
class Model(Thing):
    om: Any = None
    batch: int = 0


@dataclass
class Description(Thing):
    om: Any = None


@dataclass
class Dataset(Thing):
    buffers: list[int] = field(default_factory=list)
    batch: int = 0


@api("value")
def load_from_mem(address: int, size: int) -> int:
    return _load(ctypes.string_at(address, size))


@api("value")
def load_from_file(path: str) -> int:
    with open(path, "rb") as stream:  # noqa: PTH123
        return _load(stream.read())


def _load(content: bytes) -> int:
    try:
        om = fake_om.load(content)
    except ValueError as error:
        raise Refused(500002, f"cannot load: {error}") from None
    if om.soc != fake.soc:
        raise Refused(500002, f"the model is for {om.soc} and this is {fake.soc}")
    return add(Model("model", om=om))


@api("code")
def unload(model: int) -> None:
    _own(find(model, "model"))
    remove(model, "model")


def _own(model: Model) -> Model:
    if model.context != fake.current[threading.get_ident()]:
        raise Refused(107004, "the model is of another context", violation=True)
    return model


@api("plain")
def create_desc() -> int:
    return add(Description("desc"))


@api("code")
def destroy_desc(desc: int) -> None:
    remove(desc, "desc")


@api("code")
def get_desc(desc: int, model: int) -> None:
    find(desc, "desc").om = find(model, "model").om


def _om(desc: int) -> Any:
    om = find(desc, "desc").om
    if om is None:
        raise Refused(100000, "nothing was described yet", violation=True)
    return om


@api("plain")
def get_num_inputs(desc: int) -> int:
    return len(_om(desc).inputs())


@api("plain")
def get_num_outputs(desc: int) -> int:
    return len(_om(desc).outputs())


@api("value", failed={})
def get_input_dims(desc: int, index: int) -> dict[str, Any]:
    return _dims(_om(desc).inputs()[index])


@api("value", failed={})
def get_output_dims(desc: int, index: int) -> dict[str, Any]:
    return _dims(_om(desc).outputs()[index])


def _dims(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dimCount": len(tensor.dims), "dims": list(tensor.dims)}


@api("plain")
def get_input_size_by_index(desc: int, index: int) -> int:
    return _om(desc).inputs()[index].size


@api("plain")
def get_output_size_by_index(desc: int, index: int) -> int:
    return _om(desc).outputs()[index].size


@api("plain", failed="")
def get_input_name_by_index(desc: int, index: int) -> str:
    return _om(desc).inputs()[index].name


@api("plain", failed="")
def get_output_name_by_index(desc: int, index: int) -> str:
    return _om(desc).outputs()[index].name


@api("plain", failed=-1)
def get_input_data_type(desc: int, index: int) -> int:
    return TYPES[_om(desc).inputs()[index].dtype]


@api("plain", failed=-1)
def get_output_data_type(desc: int, index: int) -> int:
    return TYPES[_om(desc).outputs()[index].dtype]


@api("value")
def get_input_index_by_name(desc: int, name: str) -> int:
    names = [tensor.name for tensor in _om(desc).inputs()]
    if name not in names:
        raise Refused(100000, f"there is no input {name}")
    return names.index(name)


@api("value", failed={})
def get_dynamic_batch(desc: int) -> dict[str, Any]:
    om = _om(desc)
    batches = list(om.batches) if om.dynamic else []
    return {"batchCount": len(batches), "batch": batches}


@api("plain")
def create_dataset() -> int:
    return add(Dataset("dataset"))


@api("code")
def destroy_dataset(dataset: int) -> None:
    remove(dataset, "dataset")


@api("value")
def add_dataset_buffer(dataset: int, buffer: int) -> int:
    find(buffer, "data buffer")
    find(dataset, "dataset").buffers.append(buffer)
    return dataset


@api("code")
def set_dynamic_batch_size(model: int, dataset: int, index: int, batch: int) -> None:
    om = _own(find(model, "model")).om
    if index != 1 or not om.dynamic:
        raise Refused(145011, f"input {index} does not tell the batch", violation=True)
    if batch not in om.batches:
        raise Refused(145013, f"batch {batch} is not of {om.batches}")
    if _executing(model):
        fake.violations.append("the batch of a running execution was changed")
    buffer = find(find(dataset, "dataset").buffers[index], "data buffer")
    check_memory(buffer.address, 4, "device memory")
    ctypes.c_int32.from_address(buffer.address).value = batch
    find(model, "model").batch = batch


def _executing(model: int) -> list[int]:
    return [
        handle
        for handle, thing in list(fake.things.items())
        if isinstance(thing, fake.Stream)
        and any(task.what == f"model {model}" for task in thing.pending)
    ]


@api("code")
def execute_async(model: int, inputs: int, outputs: int, stream: int) -> None:
    om = _own(find(model, "model")).om
    if set(_executing(model)) - {stream}:
        raise Refused(107005, "the model executes on another stream", violation=True)
    read = _buffers(inputs, om.inputs(), "input", 100017)
    written = _buffers(outputs, om.outputs(), "output", 100018)

    def work() -> None:
        batch = om.batches[0]
        if om.dynamic:
            batch = ctypes.c_int32.from_address(read[1].address).value
            if batch != find(model, "model").batch:
                raise Refused(145013, "the batch was not set for this execution", violation=True)
        images = _array(read[0], (batch, *om.image_in_memory), om.input_dtype)
        for buffer, answer in zip(written, om.run(images), strict=True):
            _array(buffer, answer.shape, om.output_dtype)[:] = answer

    fake.queue(stream, Task(f"model {model}", work, fake.execute_ms))


def _buffers(dataset: int, tensors: list[Any], what: str, code: int) -> list[Any]:
    buffers = [find(handle, "data buffer") for handle in find(dataset, "dataset").buffers]
    if [buffer.size for buffer in buffers] != [tensor.size for tensor in tensors]:
        raise Refused(code, f"the {what} buffers are not what the model needs", violation=True)
    return buffers


def _array(buffer: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = prod(shape) * np.dtype(dtype).itemsize
    check_memory(buffer.address, size, "device memory")
    memory = (ctypes.c_ubyte * size).from_address(buffer.address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
