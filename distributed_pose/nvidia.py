"""NVIDIA's driver and TensorRT, as far as they are known without loading a runtime.

Options are text, as ONNX Runtime reads them.
"""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_UNKNOWN = "NVIDIA GPU"
_NAME_BYTES = 256
_MODULE_VERSION = Path("/sys/module/nvidia/version")

_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")

# Of TensorRT from a system's packages, which say nothing here; ONNX Runtime is built with it.
_USUAL_MAJOR = 10

# From here on all networks are strongly typed: precision is that of the model, and no flag's.
_STRONGLY_TYPED_MAJOR = 11


@dataclass(frozen=True)
class EngineShapes:
    """Which input shapes a TensorRT engine takes.

    Attributes:
        name: of the input.
        least: fewest images in a batch.
        most: most images in a batch, for which it is made fastest.
        height: in pixels.
        width: in pixels.
    """

    name: str
    least: int
    most: int
    height: int
    width: int

    def text(self, batch_size: int) -> str:
        """Returns a shape as TensorRT's tools write it, such as `data:1x3x368x640`."""
        return f"{self.name}:{batch_size}x3x{self.height}x{self.width}"


def cuda_device_name(index: int) -> str:
    """Returns the name of a CUDA device, or a general one where the driver does not tell.

    Args:
        index: among those that the process sees; the driver heeds CUDA_VISIBLE_DEVICES.

    Source: CUDA Driver API, `cuDeviceGet` and `cuDeviceGetName`.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _UNKNOWN
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    # Each returns 0 if it succeeds.
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
    )
    return _UNKNOWN if failed else name.value.decode(errors="replace")


def driver_versions() -> dict[str, str]:
    """Returns the version of the driver and of the CUDA that it has; where they are known.

    Source: CUDA Driver API, `cuDriverGetVersion`; the kernel's parameters of the module `nvidia`.
    """
    found = {}
    with suppress(OSError, ValueError):
        found["nvidia-driver"] = _MODULE_VERSION.read_text().strip()
    number = ctypes.c_int()
    with suppress(OSError):
        if not ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            found["cuda-driver"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return found


def tensorrt_version() -> str:
    """Returns the version of the installed TensorRT package; empty if there is none."""
    for package in _TENSORRT_PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def engine_prefix() -> str:
    """Returns what the names of engines in the cache begin with: TensorRT's version and a dash."""
    return f"{tensorrt_version() or 'unknown'}-"


def tensorrt_major() -> int:
    """Returns the major version of TensorRT, or the usual one if no package tells it."""
    return int(tensorrt_version().partition(".")[0] or _USUAL_MAJOR)


def tensorrt_options(
    index: int, *, half: bool, major: int, shapes: EngineShapes | None
) -> dict[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider.

    Args:
        index: of the device among those that the process sees.
        half: whether the model is one of half precision.
        major: version of TensorRT.
        shapes: of the input; without them an engine is made anew for every larger range met.

    Source: onnxruntime.ai, TensorRT execution provider.
    """
    options = {"device_id": str(index)}
    if half and major < _STRONGLY_TYPED_MAJOR:
        options["trt_fp16_enable"] = "1"
    if shapes:
        options["trt_profile_min_shapes"] = shapes.text(shapes.least)
        options["trt_profile_opt_shapes"] = shapes.text(shapes.most)
        options["trt_profile_max_shapes"] = shapes.text(shapes.most)
    return options


def forbid_tf32() -> None:
    """Has float32 be float32 in this process: TensorRT takes TF32 for it unless it is told here.

    ONNX Runtime has no option for it. TensorRT reads the variable when it is first used.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
