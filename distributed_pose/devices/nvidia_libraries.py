"""Finds, reads and loads the shared libraries of ONNX Runtime's providers for NVIDIA cards.

Providers are called `cuda` and `tensorrt`, as in the names of backends.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from distributed_pose.devices.lacks import Lack, listed, remedies
from distributed_pose.devices.nvidia import driver_versions
from distributed_pose.errors import SetupError

_TENSORRT = "libnvinfer.so."

# Libraries that a provider needs but does not list: the CUDA provider loads cuDNN at its first
# convolution, and TensorRT's own libraries load the driver.
_LOADED_LATER = {"cuda": ("libcudnn.so.9",), "tensorrt": ("libcuda.so.1",)}

_VERSIONED = re.compile(r"(lib\w+)\.so\.(\d+)")
_CUDA_RUNTIME = re.compile(r"libcudart\.so\.(\d+)")
_OTHER_MAJORS = range(7, 21)

_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
_PACKAGE = f"pip uninstall onnxruntime; {_CUDA}"
_DRIVER = (
    "install NVIDIA's driver, so that `nvidia-smi` lists the card; in a container, use NVIDIA's "
    "container runtime"
)


def preload_libraries(variant: str) -> None:
    """Loads CUDA, and TensorRT for `tensorrt`, if they are installed as Python packages.

    Providers then find the loaded libraries by their names.

    Args:
        variant: name of the provider, `cuda` or `tensorrt`.
    """
    import onnxruntime

    # The function prints the libraries that fail to load, but standard output is for results.
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
    if variant == "tensorrt":
        # A broken package is treated like a missing one: the provider reports what is missing.
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            importlib.import_module("tensorrt_libs")


def provider_library(variant: str) -> Path | None:
    """Returns the file of a provider; None if the installed ONNX Runtime has none."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.origin:
        return None
    file = Path(spec.origin).parent / "capi" / f"libonnxruntime_providers_{variant}.so"
    return file if file.is_file() else None


def needed_libraries(library: Path) -> tuple[str, ...]:
    """Returns the names of the shared libraries that a library lists as needed.

    Raises:
        ValueError: if the file is not a shared library.
    """
    # Machines without cards import this module, too, and do not need the parser.
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    try:
        with library.open("rb") as file:
            sections = ELFFile(file).iter_sections("SHT_DYNAMIC")
            dynamic = (section for section in sections if isinstance(section, DynamicSection))
            tags = [tag for section in dynamic for tag in section.iter_tags("DT_NEEDED")]
            # The attribute is named after the tag, which its type does not declare.
            return tuple(tag.needed for tag in tags)  # type: ignore[attr-defined]
    except ELFError as error:
        raise ValueError(f"{library} is not a shared library: {error}") from None


def missing_libraries(variant: str) -> Iterator[Lack]:
    """Yields the libraries that a provider lacks.

    Available libraries stay loaded in this process. The provider itself is not loaded, because
    ONNX Runtime must be ready when that happens.
    """
    library = provider_library(variant)
    if library is None:
        yield Lack("onnxruntime-gpu", "no ONNX Runtime, or one for other devices", _PACKAGE)
        return
    preload_libraries(variant)
    names = [*needed_libraries(library), *_LOADED_LATER[variant]]
    missing = [name for name in names if (match := _VERSIONED.match(name)) and not _loads(match[0])]
    yield from (Lack(name, _other_version(name), _remedy(name)) for name in missing)
    yield from _old_driver(names)


def unloadable_provider(variant: str) -> Iterator[Lack]:
    """Yields the provider if it cannot be loaded although all libraries that it needs are found.

    One of the libraries then lacks a function. The process cannot be used for sessions afterwards.
    """
    library = provider_library(variant)
    if library is None:
        return
    # A provider uses functions of this library, which ONNX Runtime loads before the provider.
    host = library.with_name("libonnxruntime_providers_shared.so")
    if host.is_file():
        ctypes.CDLL(str(host), mode=ctypes.RTLD_GLOBAL)
    if reason := _load_error(library):
        yield Lack(library.name, reason, _CUDA)


def require_provider(variant: str) -> None:
    """Checks that a provider can be loaded, and leaves its libraries loaded in this process.

    Raises:
        SetupError: if the provider cannot be loaded; the message names all that is missing.
    """
    if lacks := tuple(missing_libraries(variant)):
        raise SetupError(f"onnxruntime:{variant} lacks {listed(lacks)}", remedies(lacks))


@cache
def tensorrt_versions() -> dict[str, str]:
    """Returns the version of the TensorRT that the provider loads, by the name `tensorrt`."""
    found = loaded_tensorrt_version()
    return {"tensorrt": found} if found else {}


def loaded_tensorrt_version() -> str:
    """Returns the version of the TensorRT that the provider loads, such as `10.13.2`.

    The library itself reports its version, so that its package and folder do not matter. The result
    is empty if there is no such library.

    Source: NvInferRuntime.h, `getInferLibVersion` and `NV_TENSORRT_VERSION`.
    """
    library = provider_library("tensorrt")
    names = needed_libraries(library) if library else ()
    name = next((name for name in names if name.startswith(_TENSORRT)), "")
    if not name:
        return ""
    preload_libraries("tensorrt")
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError):
        return ""
    # Up to version 9, the major version is counted in thousands; from 10 on, in ten thousands.
    scale = 10_000 if number >= 10_000 else 1_000
    return f"{number // scale}.{number % scale // 100}.{number % 100}" if number else ""


def _loads(name: str) -> bool:
    return not _load_error(name)


def _load_error(name: str | Path) -> str:
    try:
        ctypes.CDLL(str(name))
    except OSError as error:
        return str(error)
    return ""


def _other_version(name: str) -> str:
    """Returns another major version of a library that can be loaded; empty if there is none.

    An example is `libnvinfer.so.11` in place of `libnvinfer.so.10`.
    """
    match = _VERSIONED.match(name)
    others = [f"{match[1]}.so.{major}" for major in _OTHER_MAJORS] if match else []
    return next((other for other in others if other != name and _loads(other)), "")


def _old_driver(names: list[str]) -> Iterator[Lack]:
    """Yields the driver if it is older than the CUDA that the provider needs.

    Args:
        names: names of the libraries that the provider needs.
    """
    driver = driver_versions().get("cuda-driver", "")
    runtimes = (_CUDA_RUNTIME.match(name) for name in names)
    major = max((int(match[1]) for match in runtimes if match), default=0)
    if driver and int(driver.partition(".")[0]) < major:
        yield Lack(f"a driver for CUDA {major}", f"one for CUDA {driver}", _DRIVER)


def _remedy(name: str) -> str:
    if name.startswith("libcuda.so"):
        return _DRIVER
    if name.startswith("libnv") and (match := _VERSIONED.match(name)):
        return f"pip install 'tensorrt-cu13<{int(match[2]) + 1}'"
    return _CUDA
