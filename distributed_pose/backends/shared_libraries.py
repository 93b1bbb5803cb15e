"""The shared libraries that ONNX Runtime's providers for NVIDIA cards need, and those missing.

`onnxruntime.get_available_providers()` lists what the package was built with, whether or not its
libraries load. Libraries are therefore loaded, in a process of its own: an unsuitable one can end
the process that loads it, and none of them stays loaded in the caller's.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from distributed_pose.lacks import Lack
from distributed_pose.nvidia import driver_versions

_TIMEOUT_S = 120.0

# The CUDA provider loads cuDNN at its first convolution, and does not list it among its needs.
_LOADED_LATER = {"cuda": ("libcudnn.so.9",), "tensorrt": ()}

_VERSIONED = re.compile(r"(lib\w+)\.so\.(\d+)")
_CUDA_RUNTIME = re.compile(r"libcudart\.so\.(\d+)")
_OTHER_MAJORS = range(7, 21)

_PACKAGE = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
_DRIVER = (
    "install NVIDIA's driver, so that `nvidia-smi` lists the card; in a container, use NVIDIA's "
    "container runtime"
)
_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


@cache
def probe_provider(variant: str) -> tuple[Lack, ...]:
    """Returns what a provider of ONNX Runtime lacks on this machine; empty if it can be loaded.

    The provider's library and all its needs are loaded in a process of its own, which takes about a
    second. The answer is kept for the life of this process.

    Args:
        variant: `cuda` or `tensorrt`.
    """
    command = [sys.executable, "-m", __name__, variant]
    what = f"the libraries of onnxruntime:{variant}"
    try:
        answer = subprocess.run(  # noqa: S603 - the variant is one of ours
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        return tuple(Lack(*fields) for fields in json.loads(answer.stdout))
    except subprocess.TimeoutExpired:
        return (Lack(what, f"loading them took over {_TIMEOUT_S:g} s", _CUDA),)
    except (OSError, ValueError, TypeError):
        # A library can end the process that loads it.
        said = answer.stderr.strip().rpartition("\n")[2] if "answer" in locals() else ""
        return (Lack(what, said or "they cannot be loaded", _CUDA),)


def preload_libraries(variant: str) -> None:
    """Loads CUDA, and TensorRT for `tensorrt`, from Python packages where they are installed so.

    Providers find them afterwards by their names.
    """
    import onnxruntime

    # It prints what it cannot load, and standard output belongs to the command's answer.
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
    if variant == "tensorrt":
        # A broken package is the same as a missing one: the provider then says what is missing.
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
    """Returns the names of the shared libraries that a library says it needs.

    Raises:
        ValueError: if the file is not a shared library.
    """
    try:
        with library.open("rb") as file:
            sections = ELFFile(file).iter_sections("SHT_DYNAMIC")
            dynamic = (section for section in sections if isinstance(section, DynamicSection))
            tags = [tag for section in dynamic for tag in section.iter_tags("DT_NEEDED")]
            # The attribute is set by the tag's name, which its type does not tell.
            return tuple(tag.needed for tag in tags)  # type: ignore[attr-defined]
    except ELFError as error:
        raise ValueError(f"{library} is not a shared library: {error}") from None


def missing_libraries(variant: str) -> Iterator[Lack]:
    """Yields what a provider lacks; libraries that are there stay loaded in this process."""
    library = provider_library(variant)
    if library is None:
        yield Lack("onnxruntime-gpu", "no ONNX Runtime, or one for other devices", _PACKAGE)
        return
    preload_libraries(variant)
    names = [*needed_libraries(library), *_LOADED_LATER[variant]]
    missing = [name for name in names if (match := _VERSIONED.match(name)) and not _loads(match[0])]
    yield from (Lack(name, _other_version(name), _mend(name)) for name in missing)
    yield from _old_driver(names)
    # Without this, a symbol that a library of the right name lacks would go unnoticed.
    if not missing and (reason := _load_error(library)):
        yield Lack(library.name, reason, _CUDA)


def _loads(name: str) -> bool:
    return not _load_error(name)


def _load_error(name: str | Path) -> str:
    try:
        ctypes.CDLL(str(name))
    except OSError as error:
        # The provider needs symbols of ONNX Runtime, which loads it in its own way.
        return "" if "Provider_GetHost" in str(error) else str(error)
    return ""


def _other_version(name: str) -> str:
    """Returns which other major version of a library is there, such as `libnvinfer.so.11`."""
    match = _VERSIONED.match(name)
    others = [f"{match[1]}.so.{major}" for major in _OTHER_MAJORS] if match else []
    return next((other for other in others if other != name and _loads(other)), "")


def _old_driver(names: list[str]) -> Iterator[Lack]:
    """Yields the driver, if it is older than the CUDA that the provider needs."""
    driver = driver_versions().get("cuda-driver", "")
    major = next(
        (int(m[2]) for name in names if (m := re.match(r"(libcudart)\.so\.(\d+)", name))), 0
    )
    if driver and int(driver.partition(".")[0]) < major:
        yield Lack(f"a driver for CUDA {major}", f"one for CUDA {driver}", _DRIVER)


def _mend(name: str) -> str:
    if name.startswith("libcuda.so"):
        return _DRIVER
    if name.startswith("libnv") and (match := _VERSIONED.match(name)):
        return f"pip install 'tensorrt-cu13<{int(match[2]) + 1}'"
    return _CUDA


if __name__ == "__main__":
    sys.stdout.write(json.dumps(list(missing_libraries(sys.argv[1]))))
