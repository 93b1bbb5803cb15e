"""Recognises the format of a model file by its first bytes."""

from pathlib import PurePath

from distributed_pose.errors import SetupError

# The number of bytes of a file that `format_of` needs.
HEAD_BYTES = 512

_HINT = "model.path must be an ONNX file, a checkpoint of Lightweight OpenPose, or an .om"

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_OM = b"IMOD"

# ModelProto's first field is its IR version, a number. Every writer puts it first, and another
# field of ModelProto follows. Source: onnx.proto3.
_ONNX_IR_VERSION = 0x08
_ONNX_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca")

# The producer's name in ONNX files that hold a checkpoint's tensors by their published names. It
# follows the IR version.
ONNX_CHECKPOINT = "Lightweight OpenPose checkpoint"
_PRODUCER = b"\x12" + bytes([len(ONNX_CHECKPOINT)]) + ONNX_CHECKPOINT.encode()

# The length in bytes of the longest header that the safetensors format allows.
_MAX_SAFETENSORS_HEADER = 100_000_000

# Files that are often given by mistake: their first bytes, their description and a hint.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"<", "a web page or other markup", "download the file again, or give the original model"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
)
_TAR_MAGIC = (257, b"ustar")

_SUFFIXES = {".onnx": "onnx", ".om": "om"}


def format_of(head: bytes, name: str) -> str:
    """Returns the format of a model file: `onnx`, `pth` (a checkpoint of any format) or `om`.

    The ending of the name, `.onnx` or `.om`, decides only if the bytes do not.

    Args:
        head: first `HEAD_BYTES` bytes of the file.
        name: name of the file.

    Raises:
        SetupError: if the file has another format; the message names it where it is known.
    """
    is_torch = head.startswith((_ZIP, *_PICKLES))
    if is_torch or is_safetensors(head) or is_onnx_checkpoint(head):
        return "pth"
    if head.startswith(_OM):
        return "om"
    if len(head) > 2 and head[0] == _ONNX_IR_VERSION and head[2] in _ONNX_TAGS:
        return "onnx"
    if found := _SUFFIXES.get(PurePath(name).suffix.lower()):
        return found
    raise _unknown(head, name)


def is_safetensors(head: bytes) -> bool:
    """Returns whether a file is in the safetensors format: a length, and a header in JSON."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= _MAX_SAFETENSORS_HEADER


def is_onnx_checkpoint(head: bytes) -> bool:
    """Returns whether a file is ONNX that holds a checkpoint's tensors by their published names."""
    return head[:1] == bytes([_ONNX_IR_VERSION]) and head[2:].startswith(_PRODUCER)


def _unknown(head: bytes, name: str) -> SetupError:
    if not head:
        return SetupError(f"{name} is empty", _HINT)
    for start, what, hint in _MISTAKEN:
        if head.lstrip().startswith(start):
            return SetupError(f"{name} is not a model: it is {what}", hint)
    offset, magic = _TAR_MAGIC
    if head[offset:].startswith(magic):
        return SetupError(f"{name} is not a model: it is a tar archive", "unpack it with tar -x")
    return SetupError(f"{name} is not a model file of a known format", _HINT)
