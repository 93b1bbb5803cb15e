"""NVIDIA's driver and cards, as far as they are known without loading a runtime."""

import ctypes
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distributed_pose.errors import first_line

_UNKNOWN = "NVIDIA GPU"
_NAME_BYTES = 256
# Values of CUdevice_attribute: major and minor.
_COMPUTE_CAPABILITY = (75, 76)
_CUDA_FAILURE = re.compile(r"CUDA failure \d+: [^;\n]+")
_MODULE_VERSION = Path("/sys/module/nvidia/version")


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

    Source: CUDA Driver API, `cuDeviceGetName`.
    """
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver, device = _driver_device(index)
    if driver is None or driver.cuDeviceGetName(name, _NAME_BYTES, device):
        return _UNKNOWN
    return name.value.decode(errors="replace")


def cuda_device_facts(index: int) -> str:
    """Returns what of a CUDA device an engine depends on: name, compute capability and driver.

    Args:
        index: among those that the process sees.

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
    """Returns the driver and its handle of a device; None where there is no such device."""
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        # Each returns 0 if it succeeds.
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index)
    # The library of CUDA's toolkit for building without a driver has no such functions.
    except (OSError, AttributeError):
        return None, device
    return (None if failed else driver), device


def driver_versions() -> dict[str, str]:
    """Returns the version of the driver and of the CUDA that it has; where they are known.

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
    """Returns what an exception of ONNX Runtime says, in one line.

    Where CUDA has failed, the place in the runtime's source is left out, with all its template
    parameters.
    """
    failure = _CUDA_FAILURE.search(str(error))
    return failure[0].strip() if failure else first_line(error)


def forbid_tf32() -> None:
    """Has float32 be float32 in this process: TensorRT takes TF32 for it unless it is told here.

    ONNX Runtime has no option for it. TensorRT reads the variable when it is first used.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
