"""Reads ONNX whose weights are in other files, and makes one model that holds them all.

Runtimes and the onnx package look for such files in the working directory when a model is given by
value, and each checks their names in its own way. This module reads them once, under one set of
rules.

Source: ONNX, docs/ExternalData.md.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import onnx
from onnx import TensorProto

from distributed_pose.errors import SetupError, shown
from distributed_pose.files.local import sha256_hex
from distributed_pose.model.onnx_graph import messages, parse, shortened

# A protocol buffer has fewer bytes than this.
_MAX_BYTES = int(onnx.checker.MAXIMUM_PROTOBUF)

# The bits per value of the types of which several values share a byte.
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}

_MAX_DIGITS = 19

_HINT = "keep the model's files together, as its exporter wrote them"


class _File(NamedTuple):
    """A file beside the model, after the check that it is a regular file; size in bytes."""

    path: Path
    size: int

    @property
    def name(self) -> str:
        return shown(str(self.path), 200)


class _Span(NamedTuple):
    """The bytes of a file that hold the values of a tensor; offset and length in bytes."""

    tensor: str
    file: _File
    offset: int
    length: int


def self_contained(path: Path, content: bytes) -> tuple[bytes, str]:
    """Returns a model that holds all of its weights, and the SHA-256 that identifies it.

    A model that already holds its weights is returned unchanged, with the SHA-256 of its file.
    Otherwise the SHA-256 is computed from the SHA-256 digests of the file and of each external
    tensor, in this order.

    Args:
        path: path of the ONNX file; the other files of the model are in the same folder.
        content: content of the ONNX file.

    Raises:
        SetupError: if the content is not ONNX, a location is not a file in the model's folder, a
            file is missing or too short, or the whole is too large for one model.
    """
    model = parse(content, str(path))
    tensors = [t for t in messages(model, TensorProto) if t.data_location == TensorProto.EXTERNAL]
    if not tensors:
        return content, sha256_hex(content)
    # All locations and sizes are checked first, so that an invalid one is found before any reading.
    files: dict[str, _File] = {}
    spans = [_span(path, tensor, files) for tensor in tensors]
    _check_size(path, len(content), spans)
    digest = hashlib.sha256(hashlib.sha256(content).digest())
    for tensor, span in zip(tensors, spans, strict=True):
        data = _read(span)
        digest.update(hashlib.sha256(data).digest())
        tensor.raw_data = data
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return model.SerializeToString(), digest.hexdigest()


def _span(path: Path, tensor: TensorProto, files: dict[str, _File]) -> _Span:
    """Returns the bytes of a file that hold a tensor, after checking that the file has them.

    Args:
        path: path of the model.
        tensor: tensor with external data.
        files: files that have been checked, by location; the tensor's file is added.
    """
    name = f"{path}: tensor {shortened(tensor.name)!r}"
    entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    length = _size_bytes(name, tensor)
    if "length" in entries and _number(name, "length", entries["length"]) != length:
        raise SetupError(
            f"{name} has {shortened(entries['length'])!r} bytes of external data, and its shape "
            f"and type take {length}",
            "export the model again",
        )
    location = entries.get("location", "")
    if location not in files:
        files[location] = _checked_file(name, _located(path, name, location))
    span = _Span(name, files[location], _number(name, "offset", entries.get("offset", "0")), length)
    if span.offset + length > span.file.size:
        raise _short(span, span.file.size)
    return span


def _located(path: Path, name: str, location: str) -> Path:
    """Returns the file of a location, after checking that it is in the model's folder.

    Neither a link nor a `..` may lead out of the folder.
    """
    relative = Path(location)
    outside = SetupError(
        f"{name} lies in {shortened(location)!r}, which is not a file in the model's folder", _HINT
    )
    if not location or relative.is_absolute() or ".." in relative.parts:
        raise outside
    try:
        file = (path.parent / relative).resolve()
        # The folder of the link's target is allowed, too: download caches have links to a model
        # and to its data, which are side by side.
        folders = (path.parent.resolve(), path.resolve().parent)
    # Loops of links and null bytes raise one of these, depending on Python's version.
    except (OSError, RuntimeError, ValueError):
        raise outside from None
    if not any(file.is_relative_to(folder) for folder in folders):
        raise outside
    return file


def _checked_file(name: str, path: Path) -> _File:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(name, _File(path, 0), error) from None
    file = _File(path, status.st_size)
    # Opening a pipe may wait forever, and reading a device may never end.
    if not S_ISREG(status.st_mode):
        raise SetupError(f"{name} lies in {file.name}, which is not a regular file", _HINT)
    return file


def _check_size(path: Path, graph_bytes: int, spans: Sequence[_Span]) -> None:
    total = graph_bytes + sum(span.length for span in spans)
    if total >= _MAX_BYTES:
        raise SetupError(
            f"{path} has {total} bytes with its external data, and a model that is sent to devices "
            f"by value has less than {_MAX_BYTES}",
            "export it in half precision",
        )


def _read(span: _Span) -> bytes:
    try:
        with span.file.path.open("rb") as stream:
            stream.seek(span.offset)
            data = stream.read(span.length)
    except OSError as error:
        raise _unreadable(span.tensor, span.file, error) from None
    if len(data) < span.length:
        raise _short(span, span.offset + len(data))
    return data


def _size_bytes(name: str, tensor: TensorProto) -> int:
    """Returns the number of bytes that the values of a tensor take, from its type and shape."""
    values = 1
    for size in tensor.dims:
        values *= size
    kind = tensor.data_type
    known = kind in TensorProto.DataType.values()
    kind_name = str(TensorProto.DataType.Name(kind)) if known else str(kind)
    if kind_name in {"UNDEFINED", "STRING", str(kind)} or any(size < 0 for size in tensor.dims):
        raise SetupError(
            f"{name} is {kind_name} {list(tensor.dims)[:8]}, which external data cannot be",
            "export the model again",
        )
    bits = _BITS.get(kind_name) or 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    return -(-values * int(bits) // 8)


def _number(name: str, key: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    raise SetupError(
        f"{name} has external data of {key} {shortened(text)!r}, which is not a number of bytes",
        "export the model again",
    )


def _unreadable(name: str, file: _File, error: OSError) -> SetupError:
    return SetupError(f"{name} lies in {file.name}, which cannot be read: {error.strerror}", _HINT)


def _short(span: _Span, size: int) -> SetupError:
    return SetupError(
        f"{span.tensor} is bytes {span.offset} to {span.offset + span.length} of "
        f"{span.file.name}, which has {size}",
        _HINT,
    )
