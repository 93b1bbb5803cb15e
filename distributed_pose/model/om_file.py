"""Reads from an `.om` file how it was compiled: for which chip, and in which precision.

The compiler stores its own command line in the file, as the attribute `atc_cmdline` of the model,
a map entry in protobuf's encoding. The rest of the format differs between versions and is not read,
except for the type of quantised operators.

Source: `ATTR_MODEL_ATC_CMDLINE` of CANN's graph engine, which msquickcmp reads as well.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from distributed_pose.devices.ascend import has_f32, has_hf32, soc_version
from distributed_pose.errors import ConfigError
from distributed_pose.model.atc import FULL_F32_FILE
from distributed_pose.records.images import STRIDE, InputSize
from distributed_pose.records.models import FLOATS

UNKNOWN = "unknown"

# The entry starts with its key (tag, length and text) and the tag of its value. Protobuf's wire
# type 2 stands for bytes.
_KEY = b"\x0a\x0batc_cmdline\x12"
_BYTES_TAG = 2
_MAX_LENGTH = 2**16

_OPTION = re.compile(r"--(\w+)[= ](\S+)")

# Batch, channels, height and width, as in `data:1,3,368,640`.
_INPUT_SHAPE = re.compile(r":-?\d+,3,([1-9]\d{0,3}),([1-9]\d{0,3})(?!\d)")

# The length and text of an operator's type in models that Ascend's tools have quantised.
_QUANTISED = b"\x0bAscendQuant"

# Values of `--precision_mode` and `--precision_mode_v2`; those of `_ORIGINAL` keep the types of the
# ONNX model.
_HALF = {"force_fp16", "fp16"}
_SINGLE = {"force_fp32"}
_ORIGINAL = {"must_keep_origin_dtype", "origin"}
_HALF_IF_NEEDED = {"allow_fp32_to_fp16"}

_BY_DTYPE = {dtype: name for name, dtype in FLOATS.items()}


def compiled_soc(content: bytes) -> str:
    """Returns the chip that an `.om` was compiled for, such as `Ascend310P3`; empty if unknown."""
    try:
        return soc_version(compile_options(content).get("soc_version", ""))
    except ConfigError:
        return ""


def compiled_precision(content: bytes, output_dtypes: Collection[str]) -> str:
    """Returns the precision in which an `.om` computes its convolutions.

    Args:
        content: content of the file.
        output_dtypes: NumPy's names of the outputs' types, which are the types of the ONNX model if
            the compiler kept them.

    Returns:
        `f16`, `f32`, `hf32` (float32 values multiplied with 11 bits of mantissa), `int8`, or
        `unknown`.
    """
    if _QUANTISED in content:
        return "int8"
    options = compile_options(content)
    if not options or "compression_optimize_conf" in options:
        return UNKNOWN
    soc = compiled_soc(content)
    mode = options.get("precision_mode") or options.get("precision_mode_v2") or "force_fp16"
    if mode in _HALF or (mode in _HALF_IF_NEEDED and not has_f32(soc)):
        return "f16"
    if mode in _ORIGINAL and set(output_dtypes) <= set(_BY_DTYPE) and len(set(output_dtypes)) == 1:
        (dtype,) = set(output_dtypes)
        return _single(soc, options) if dtype == "float32" else _BY_DTYPE[dtype]
    return _single(soc, options) if mode in _SINGLE else UNKNOWN


def compiled_input(content: bytes) -> InputSize | None:
    """Returns the size of the inputs that an `.om` was compiled for; None if it is unknown."""
    shape = _INPUT_SHAPE.search(compile_options(content).get("input_shape", ""))
    size = InputSize(int(shape[1]), int(shape[2])) if shape else None
    return size if size and not (size.height % STRIDE or size.width % STRIDE) else None


def compile_options(content: bytes) -> Mapping[str, str]:
    """Returns the compiler's options by name, without dashes; empty if the file has none."""
    start = content.find(_KEY)
    if start < 0:
        return {}
    position = start + len(_KEY)
    _, position = _varint(content, position)
    if position >= len(content) or content[position] & 7 != _BYTES_TAG:
        return {}
    length, position = _varint(content, position + 1)
    if length > _MAX_LENGTH or position + length > len(content):
        return {}
    return dict(_OPTION.findall(content[position : position + length].decode(errors="replace")))


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Returns a number in protobuf's encoding and the position after it; (0, end) if cut off."""
    value = shift = 0
    while position < len(content) and shift < 64:
        byte = content[position]
        value |= (byte & 127) << shift
        position += 1
        shift += 7
        if byte < 128:
            return value, position
    return 0, len(content)


def _single(soc: str, options: Mapping[str, str]) -> str:
    if not soc or not has_f32(soc):
        return UNKNOWN
    file = options.get("op_precision_mode")
    if not has_hf32(soc) or (file and PurePosixPath(file).name == FULL_F32_FILE):
        return "f32"
    return UNKNOWN if file else "hf32"
