"""Reads checkpoint files in each of their formats: `torch.save`, safetensors and ONNX."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from onnx import TensorProto, numpy_helper

from distributed_pose.errors import SetupError, shown
from distributed_pose.model.formats import is_onnx_checkpoint, is_safetensors
from distributed_pose.model.onnx_graph import parse
from distributed_pose.model.state_dict import StoredTensor
from distributed_pose.packages import require

_COPY_AGAIN = "download or copy it again"

# NumPy's types of weights by their names in the safetensors format. NumPy has no bfloat16, which is
# converted separately.
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_BFLOAT16 = "BF16"


def read_file(content: bytes, path: str) -> Any:
    """Returns the content of a checkpoint: stored tensors and plain containers.

    Args:
        content: content of the file.
        path: path of the file, for messages.

    Raises:
        SetupError: if the file is not a checkpoint, is damaged, or holds values of another type,
            which the message names. Also if it is a file of PyTorch, and PyTorch is not installed.
    """
    if is_safetensors(content):
        return _read_safetensors(content, path)
    if is_onnx_checkpoint(content):
        return _read_onnx(content, path)
    require("torch", extra="torch", purpose=f"reading the PyTorch file {path}")
    from distributed_pose.model.torch_file import read_torch_file

    return read_torch_file(content, path)


def _read_safetensors(content: bytes, path: str) -> dict[str, StoredTensor]:
    try:
        entries = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        reason = shown(str(error))
        raise SetupError(f"{path} is a damaged safetensors file: {reason}", _COPY_AGAIN) from None
    return {name: _of_safetensors(entry) for name, entry in entries}


def _of_safetensors(entry: Mapping[str, Any]) -> StoredTensor:
    shape, kind = tuple(entry["shape"]), str(entry["dtype"])
    read = partial(_float32, entry["data"], kind, shape)
    return StoredTensor(shape, kind, kind in {*_FLOATS, _BFLOAT16}, read)


def _float32(data: bytes, kind: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if kind == _BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        upper = np.frombuffer(data, "<u2").astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(shape)
    return _rounded(np.frombuffer(data, _FLOATS[kind]).reshape(shape))


def _read_onnx(content: bytes, path: str) -> dict[str, StoredTensor]:
    try:
        return {tensor.name: _of_onnx(tensor) for tensor in parse(content, path).graph.initializer}
    # On a damaged tensor, the reader raises more exceptions than it documents.
    except (ValueError, TypeError, KeyError) as error:
        reason = shown(str(error))
        raise SetupError(f"{path} is a damaged checkpoint: {reason}", _COPY_AGAIN) from None


def _of_onnx(tensor: TensorProto) -> StoredTensor:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ValueError(f"{tensor.name} is in another file")
    array = numpy_helper.to_array(tensor)
    holds_weights = np.issubdtype(array.dtype, np.floating)
    return StoredTensor(array.shape, str(array.dtype), holds_weights, partial(_rounded, array))


def _rounded(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    # Values out of the range of float32 become infinite without a warning; the check for finite
    # weights finds them.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
