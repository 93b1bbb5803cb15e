"""The versions of the software that computes on a node, as a worker finds them."""

import platform
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

from distributed_pose.devices.nvidia import driver_versions
from distributed_pose.devices.nvidia_libraries import loaded_tensorrt_version
from distributed_pose.files.package_identity import package_identity
from distributed_pose.model.atc import toolchain_version
from distributed_pose.records import DeviceReady

# Every worker reports the first distributions, which decode images and poses. The distributions
# that run models depend on the backend, and are listed by the first part of its name.
_ALWAYS = ("simplejpeg", "numba")
_RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann"),
    "torch": ("torch",),
    "ascend-ais": ("ais_bench", "aclruntime"),
}
_CUDA = (
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)

# The version file of the NPU driver, in the default folder of its installer.
_NPU_DRIVER = Path("/usr/local/Ascend/driver/version.info")
_NPU_VERSION = re.compile(r"^Version=(\S+)", re.MULTILINE)


def versions(backend: str, kind: str) -> dict[str, str]:
    """Returns the versions of the software that computes in this process, by its name.

    Args:
        backend: name of the backend in the registry.
        kind: kind of the device: `cpu`, `cuda` or `npu`.
    """
    names = (*_ALWAYS, *_RUNTIMES.get(backend.partition(":")[0], ()))
    found = {
        "distributed-pose": f"{package_identity().version} {package_identity().digest}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        **_installed(names),
    }
    if kind == "cuda":
        found |= {**_installed(_CUDA), **driver_versions()}
    if backend == "onnxruntime:tensorrt":
        # The loaded library is asked, because packages of the system can provide TensorRT.
        found["tensorrt"] = loaded_tensorrt_version()
    if kind == "npu":
        found |= {"cann": toolchain_version(), "npu-driver": _npu_driver_version()}
    return {name: value for name, value in found.items() if value}


def differences(devices: Sequence[DeviceReady]) -> Iterator[str]:
    """Yields a line for each software whose version differs between the devices of a run."""
    devices_by_version: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for device in devices:
        for name, value in device.versions:
            devices_by_version[name][value].append(_where(device))
    for name, found in sorted(devices_by_version.items()):
        if len(found) > 1:
            told = ", ".join(f"{value} on {where[0]}" for value, where in sorted(found.items()))
            yield f"{name} is not the same on all nodes: {told}"


def _where(device: DeviceReady) -> str:
    place = device.plan.node or device.host
    return f"{device.plan.name} ({place})" if place else device.plan.name


def _installed(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _npu_driver_version() -> str:
    try:
        found = _NPU_VERSION.search(_NPU_DRIVER.read_text())
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""
