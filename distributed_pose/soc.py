"""Ascend chips by name.

An `.om` runs on exactly the chip that it was compiled for.
"""

import re

from distributed_pose.errors import ConfigError, SetupError

_NAME = re.compile(r"(?:Ascend)?(\d{3}[A-Za-z0-9_-]*)", re.IGNORECASE)

# Chips whose convolutions take half precision alone: Atlas 200/300/500 (310), Atlas inference
# series (310P, called 710 at first) and Atlas training series (910, 910A, ...). Later ones (310B,
# 910B1 to 910B4, 910_93, 950) have single precision too.
# Source: types of `conv2d` in the operator reference of CANN 8.3.
_HALF_ONLY = re.compile(r"Ascend(310|310P\d?|710|910|910A|910B|910ProA|910ProB|910PremiumA)")


def soc_version(name: str) -> str:
    """Returns a chip's name as the compiler and the runtime have it, such as `Ascend310P3`.

    Args:
        name: with or without `Ascend`, as `npu-smi info` shows it or in small letters.

    Raises:
        ConfigError: if it is no such name.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ConfigError(
            f"{name} is no Ascend chip",
            "name it as npu-smi info does, such as 310, 310P3 or 910B4-1",
        )
    chip = match[1]
    return f"Ascend{chip.upper() if chip.islower() else chip}"


def precision_on(soc: str, asked: str) -> str:
    """Returns what a model compiled for a precision computes its convolutions in on a chip.

    Neither the file nor its runtimes tell: the compiler converts to half precision unless it is
    told to keep the model's types.

    Args:
        soc: as `soc_version` has it.
        asked: `auto`, `f16` or `f32`.

    Raises:
        SetupError: if the chip lacks it.
    """
    if asked == "f32" and _HALF_ONLY.fullmatch(soc):
        raise SetupError(
            f"precision: the convolutions of {soc} are f16 only", "set precision=auto or f16"
        )
    return "f16" if asked == "auto" else asked
