"""Names of Ascend chips, and what the chips can compute.

An `.om` runs only on the chip that it was compiled for.
"""

import ctypes
import re

from distributed_pose.errors import ConfigError, SetupError

_MAKER = "Ascend"
_NAME = re.compile(r"(?:Ascend)?(\d{3}[A-Za-z0-9_-]*)", re.IGNORECASE)

# Names of chips in their published case. The case differs between versions of the tools.
# Source: files of `data/platform_config` in CANN 5.1 to 9.1.
_PUBLISHED = (
    *("310", "610", "615", "710", "910A", "910B", "910ProA", "910ProB", "910PremiumA"),
    *("310P1", "310P3", "310P5", "310P7"),
    *("310P3Vir01", "310P3Vir02", "310P3Vir04", "310P3Vir08"),
    *("310B1", "310B2", "310B3", "310B4"),
    *("910B1", "910B2", "910B2C", "910B3", "910B4", "910B4-1"),
    *("910_9362", "910_9372", "910_9381", "910_9382", "910_9391", "910_9392"),
)
_BY_LOWER_CASE = {name.lower(): name for name in _PUBLISHED}

# Chips whose convolutions support only half precision: Atlas 200/300/500 (310), Atlas inference
# series (310P, called 710 at first) and Atlas training series (910, 910A, ...). Later chips (310B,
# 910B1 to 910B4, 910_93, 950) support single precision, too.
# Source: types of `conv2d` in the operator reference of CANN 8.3.
_HALF_ONLY = re.compile(
    r"Ascend(310|310P\d?(Vir\d+)?|710|910|910A|910B|910ProA|910ProB|910PremiumA)"
)

# Chips that compute convolutions of float32 values in HF32, with 11 bits of mantissa, unless that
# is switched off: Atlas A2 and A3, and the 950 series.
# Source: `--allow_hf32` and `--op_precision_mode` in the ATC reference of CANN 8.5 and 9.1.
_HF32 = re.compile(r"Ascend(910B[1-4]|910_9|950).*")


def soc_version(name: str) -> str:
    """Returns the name that the compiler and the runtime use for a chip, such as `Ascend310P3`.

    Args:
        name: name of the chip as `npu-smi info` shows it or in lower case, with or without
            `Ascend`.

    Raises:
        ConfigError: if the name cannot be that of an Ascend chip.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ConfigError(
            f"{name} is not an Ascend chip",
            "name it as npu-smi info does, such as 310, 310P3 or 910B4-1",
        )
    chip = match[1]
    known = _BY_LOWER_CASE.get(chip.lower())
    return f"{_MAKER}{known or (chip.upper() if chip.islower() else chip)}"


def driver_soc_name() -> str:
    """Returns the name that CANN's runtime reports for this machine's chips; empty without CANN.

    Source: `aclrtGetSocName` of CANN's `acl_base_rt.h`.
    """
    try:
        soc_name = ctypes.CDLL("libascendcl.so").aclrtGetSocName
    except (OSError, AttributeError):
        return ""
    soc_name.restype = ctypes.c_char_p
    return (soc_name() or b"").decode(errors="replace")


def is_soc(name: str) -> bool:
    """Returns whether a name, with or without `Ascend`, can be that of an Ascend chip."""
    return _NAME.fullmatch(name) is not None


def model_of_label(value: str) -> str:
    """Returns the model name of a chip in the value of a node's label; empty if it names none.

    A node with NPUs and GPUs has a single label of Ray's for both.
    """
    return value.removeprefix(_MAKER) if is_soc(value) else ""


def is_published(name: str) -> bool:
    """Returns whether a name, with or without `Ascend`, is that of a chip and not of a family."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1].lower() in _BY_LOWER_CASE


def has_f32(soc: str) -> bool:
    """Returns whether a chip supports convolutions of float32 values.

    Args:
        soc: name of the chip as `soc_version` returns it.
    """
    return not _HALF_ONLY.fullmatch(soc)


def has_hf32(soc: str) -> bool:
    """Returns whether a chip computes float32 convolutions in HF32 unless it is switched off.

    Args:
        soc: name of the chip as `soc_version` returns it.
    """
    return _HF32.fullmatch(soc) is not None


def check_precision_on(soc: str, asked: str) -> None:
    """Checks that a chip supports a precision for its convolutions.

    Args:
        soc: name of the chip as `soc_version` returns it.
        asked: requested precision: `auto`, `f16` or `f32`.

    Raises:
        SetupError: if the chip does not support the precision.
    """
    if asked == "f32" and not has_f32(soc):
        raise SetupError(
            f"precision: the convolutions of {soc} are f16 only", "set precision=auto or f16"
        )
