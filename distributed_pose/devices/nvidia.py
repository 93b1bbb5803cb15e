"""Reads facts about NVIDIA's driver and cards without loading a runtime."""

import ctypes
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distributed_pose.errors import first_line
from distributed_pose.packages import installed_versions

_UNKNOWN = "NVIDIA GPU"
_NAME_BYTES = 256
# Values of CUdevice_attribute for the major and minor version of the compute capability.
_COMPUTE_CAPABILITY = (75, 76)
_CUDA_FAILURE = re.compile(r"CUDA failure \d+: [^;\n]+")
_CUDA_DISTRIBUTIONS = (
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
_MODULE_VERSION = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class EngineShapes:
    """The input shapes that a TensorRT engine accepts.

    Attributes:
        name: name of the input.
        least: smallest number of images in a batch.
        most: largest number of images in a batch, for which the engine is optimized.
        height: height of the input in pixels.
        width: width of the input in pixels.
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
    """Returns the name of a CUDA device, or a generic name if the driver does not report one.

    Args:
        index: index of the device among those that the process sees. The driver applies
            CUDA_VISIBLE_DEVICES.

    Source: CUDA Driver API, `cuDeviceGetName`.
    """
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver, device = _driver_device(index)
    if driver is None or driver.cuDeviceGetName(name, _NAME_BYTES, device):
        return _UNKNOWN
    return name.value.decode(errors="replace")


def cuda_device_facts(index: int) -> str:
    """Returns the facts that an engine depends on: device name, compute capability and driver.

    Args:
        index: index of the device among those that the process sees.

    Source: CUDA Driver API, `cuDeviceGetAttribute`.
    """
    driver, device = _driver_device(index)
    facts = [cuda_device_name(index)]
    numbers = [ctypes.c_int() for _ in _COMPUTE_CAPABILITY]
    if driver is not None and not any(
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        for number, attribute in zip(numbers, _COMPUTE_CAPABILITY, strict=True)
    ):
        facts.append(f"compute capability {'.'.join(str(number.value) for number in numbers)}")
    facts += [f"{name} {version}" for name, version in driver_versions().items()]
    return ", ".join(facts)


def _driver_device(index: int) -> tuple[ctypes.CDLL | None, ctypes.c_int]:
    """Returns the driver's library and its handle of a device.

    The library is None if there is no driver or no such device.

    Args:
        index: index of the device among those that the process sees.
    """
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        # Each function returns 0 if it succeeds.
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index)
    # The stub library of CUDA's toolkit, for builds without a driver, lacks these functions.
    except (OSError, AttributeError):
        return None, device
    return (None if failed else driver), device


def cuda_versions() -> dict[str, str]:
    """Returns the versions of CUDA's libraries and of the driver, as far as known."""
    return {**installed_versions(_CUDA_DISTRIBUTIONS), **driver_versions()}


def driver_versions() -> dict[str, str]:
    """Returns the versions of the driver and of the CUDA that it supports, as far as known.

    Source: CUDA Driver API, `cuDriverGetVersion`; the kernel's parameters of the module `nvidia`.
    """
    found = {}
    with suppress(OSError, ValueError):
        found["nvidia-driver"] = _MODULE_VERSION.read_text().strip()
    number = ctypes.c_int()
    with suppress(OSError, AttributeError):
        if not ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            found["cuda-driver"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return found


def runtime_reason(error: BaseException) -> str:
    """Returns the message of an exception of ONNX Runtime, in one line.

    For a CUDA failure, the location in the runtime's source is left out, including its template
    parameters.
    """
    failure = _CUDA_FAILURE.search(str(error))
    return failure[0].strip() if failure else first_line(error)


def forbid_tf32() -> None:
    """Forbids TensorRT to compute float32 in TF32 in this process, as it does by default.

    ONNX Runtime has no option for it. TensorRT reads the environment variable when it is first
    used.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
