"""What kind of model a file holds, told by its first bytes."""

from pathlib import PurePath

from distributed_pose.errors import SetupError

# How much of a file `format_of` looks at.
HEAD_BYTES = 512

_HINT = "model.path must be an ONNX file, a checkpoint of Lightweight OpenPose, or an .om"

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_OM = b"IMOD"

# ModelProto's first field is its IR version, a number; every writer puts it first, and a field of
# the same message follows. Source: onnx.proto3.
_ONNX_IR_VERSION = 0x08
_ONNX_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca")

# Names the producer of ONNX files that hold a checkpoint's tensors by their published names. It
# follows the IR version.
ONNX_CHECKPOINT = "Lightweight OpenPose checkpoint"
_PRODUCER = b"\x12" + bytes([len(ONNX_CHECKPOINT)]) + ONNX_CHECKPOINT.encode()

# Longest header that the safetensors format allows.
_MAX_SAFETENSORS_HEADER = 100_000_000

# Files that people take for models, by their first bytes.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"<", "a web page or other markup", "download the file again, or give the original model"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
)
_TAR_MAGIC = (257, b"ustar")

_SUFFIXES = {".onnx": "onnx", ".om": "om"}


def format_of(head: bytes, name: str) -> str:
    """Returns `onnx`, `pth` (a checkpoint, in any container) or `om`.

    A name that ends in `.onnx` or `.om` decides only where the bytes do not.

    Args:
        head: the first `HEAD_BYTES` bytes of the file.
        name: of the file.

    Raises:
        SetupError: if it is none of them; says what it is where that is known.
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
    """Returns whether a file is ONNX that holds a checkpoint's tensors by their names."""
    return head[:1] == bytes([_ONNX_IR_VERSION]) and head[2:].startswith(_PRODUCER)


def _unknown(head: bytes, name: str) -> SetupError:
    if not head:
        return SetupError(f"{name} is empty", _HINT)
    for start, what, hint in _MISTAKEN:
        if head.lstrip().startswith(start):
            return SetupError(f"{name} is no model: it is {what}", hint)
    offset, magic = _TAR_MAGIC
    if head[offset:].startswith(magic):
        return SetupError(f"{name} is no model: it is a tar archive", "unpack it with tar -x")
    return SetupError(f"{name} is no model file of a known format", _HINT)
