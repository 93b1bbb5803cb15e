"""Reads files of `torch.save`, in the zip or the legacy format. Needs PyTorch.

Only tensors and plain containers are read, so that a file cannot run code. Sizes and counts are
limited, so that a small file cannot take much memory or time.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distributed_pose.errors import SetupError, shown
from distributed_pose.model.state_dict import StoredTensor

# A snapshot of three stages with Adam's moments takes 84 MiB.
_MAX_UNPACKED_BYTES = 256 * 2**20

# Instructions of a pickle take up to 200 times their size in memory, and a microsecond each. The
# pickle of a snapshot of three stages has 131 KiB and takes 76,500 reads.
_MAX_PICKLE_BYTES = 2 * 2**20
_MAX_READS = 2_000_000

# A file of `torch.save` has one member per tensor; that of a snapshot of three stages has 1,233.
_MAX_MEMBERS = 20_000
_MEMBER = b"PK\x01\x02"
_PICKLE = "data.pkl"

# PyTorch allows a pickle to call this function, which allocates any number of bytes.
_GROWING = b"\nbytearray\n"

# A file holds a mapping of tensors by name, or a mapping of such mappings: two levels at most.
_MAPPINGS = 2

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_SAVE = "torch.save(network.state_dict(), 'weights.pth')"
_HINT = f"save the weights alone where the file was made: {_SAVE}"

_COPY_AGAIN = "download or copy it again"

# PyTorch's reader names a type that it does not allow in one of these ways.
_MET = re.compile(r"(?:Unsupported global:|unsupported) GLOBAL (\S+)|but got <class '([^']+)'>")

# Other messages of PyTorch's reader and their meaning for a user. All further messages are due to
# damage.
_MEANINGS = (
    ("Invalid magic number", "is a pickle, and not a file of torch.save"),
    ("Unsupported operand", "is damaged, or has a pickle protocol other than 2, torch.save's own"),
    ("legacy .tar format", "is in the format of PyTorch before 0.1.10"),
    ("allocate memory", "claims more memory than is available"),
    ("too many reads", "has a pickle of millions of instructions, which no checkpoint needs"),
)


def read_torch_file(content: bytes, path: str) -> Any:
    """Returns the content of a file of `torch.save`: stored tensors and plain containers.

    Args:
        content: content of the file.
        path: path of the file, for messages.

    Raises:
        SetupError: if the file is not one of `torch.save`, is damaged, is too large, or holds
            values of another type; the message names the type.
    """
    pickled = _archived_pickle(content, path) if content.startswith(b"PK") else content
    if _GROWING in pickled:
        raise _of_type("bytearray", path)
    try:
        # PyTorch warns of values that are refused or read here regardless of its warning.
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(_Limited(content), map_location="cpu", weights_only=True)
    # torch.load documents no exceptions: a damaged file can raise an exception of any type.
    except Exception as error:  # noqa: BLE001
        raise _refused(error, content, path) from None
    return _stored(loaded, _MAPPINGS)


def _stored(value: Any, mappings: int) -> Any:
    """Returns a value with its tensors as stored tensors, in up to so many levels of mappings."""
    if isinstance(value, torch.Tensor):
        return StoredTensor(
            tuple(value.shape), _kind(value), _holds_weights(value), partial(_float32, value)
        )
    if isinstance(value, dict) and mappings:
        # The method is called on its class, since a pickle can give a dictionary attributes that
        # hide its methods.
        return {name: _stored(inner, mappings - 1) for name, inner in dict.items(value)}
    return value


def _holds_weights(tensor: torch.Tensor) -> bool:
    if type(tensor) not in {torch.Tensor, torch.nn.Parameter} or tensor.is_nested:
        return False
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return is_dense and tensor.dtype in _FLOATS


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}, {tensor.layout}, {tensor.device}".replace("torch.", "")


def _float32(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    # The methods are called on their class, since a pickle can give a tensor attributes that hide
    # its methods.
    array: npt.NDArray[np.float32] = torch.Tensor.numpy(
        torch.Tensor.detach(tensor).to(torch.float32).contiguous()
    )
    return array


class _Limited(io.BytesIO):
    """A file with a limit of reads: a pickle takes one or two reads per instruction."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many reads")
        return super().read(size)


def _archived_pickle(content: bytes, path: str) -> bytes:
    """Returns the pickle in a zip archive of `torch.save`, after checking the members' sizes."""
    if content.count(_MEMBER) > _MAX_MEMBERS:
        raise SetupError(f"{path} has over {_MAX_MEMBERS} members, which no checkpoint needs")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            total = sum(info.file_size for info in archive.infolist())
            _check_members({name: m.file_size for name, m in members.items()}, total, path)
            return archive.read(members[_PICKLE])
    except SetupError:
        raise
    # On a damaged archive, zipfile raises more exceptions than it documents.
    except Exception as error:  # noqa: BLE001
        reason = shown(str(error))
        raise SetupError(
            f"{path} is a zip archive that is damaged or cut off: {reason}", _COPY_AGAIN
        ) from None


def _check_members(sizes: Mapping[str, int], total: int, path: str) -> None:
    if "constants.pkl" in sizes:
        hint = f"load it with torch.jit.load and save its weights: {_SAVE}"
        raise SetupError(f"{path} is a TorchScript program, not a checkpoint", hint)
    if "archive_format" in sizes or "serialized_exported_program.json" in sizes:
        raise SetupError(f"{path} is a program of torch.export, not a checkpoint", _HINT)
    if _PICKLE not in sizes:
        hint = "if a checkpoint is in it, unpack that"
        raise SetupError(f"{path} is a zip archive that torch.save did not write", hint)
    if total > _MAX_UNPACKED_BYTES or sizes[_PICKLE] > _MAX_PICKLE_BYTES:
        raise SetupError(f"{path} unpacks to {total} bytes, which no checkpoint needs", _HINT)


def _refused(error: Exception, content: bytes, path: str) -> SetupError:
    """Returns PyTorch's refusal as an error of one sentence, without its advice to trust the file.

    Args:
        error: exception that PyTorch has raised.
        content: content of the file.
        path: path of the file, for the message.
    """
    text = str(error)
    met = _MET.search(text)
    name = (met[1] or met[2]) if met else ""
    # In a file that is cut off, the reader ends a name's line at the last character, so a name at
    # the end of the file may be incomplete.
    end = name.rpartition(".")[2].encode()
    if name and not content.endswith(end, 0, len(content) - 1):
        return _of_type(name, path)
    for said, meaning in _MEANINGS:
        if said in text:
            return SetupError(f"{path} {meaning}", _HINT)
    return SetupError(f"{path} is damaged or cut off: PyTorch cannot read it", _COPY_AGAIN)


def _of_type(name: str, path: str) -> SetupError:
    problem = f"holds a value of type {shown(name)}"
    return SetupError(f"{path} {problem}, and only tensors and plain values are read", _HINT)
