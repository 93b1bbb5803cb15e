"""Stand-ins for NVIDIA's libraries, so that ONNX Runtime's real providers load without a card.

They have the functions that a provider asks for, in the versions that it asks for, and do nothing.
A provider therefore reads its options as on a card, and fails when it wants to use the device.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection

from distributed_pose.backends import cuda_driver
from distributed_pose.devices.nvidia_libraries import needed_libraries
from tests.fakes.libraries import build_library

# Every call that sets up a device returns cudaErrorNoDevice.
NO_DEVICE = "no CUDA-capable device"

_CUDART = f"""
int cudaGetDeviceCount(int *count) {{ *count = 1; return 0; }}
int cudaGetDevice(int *device) {{ *device = 0; return 0; }}
int cudaSetDevice(int device) {{ return 100; }}
int cudaRuntimeGetVersion(int *version) {{ *version = 13000; return 0; }}
const char *cudaGetErrorString(int error) {{ return "{NO_DEVICE}"; }}
const char *cudaGetErrorName(int error) {{ return "cudaErrorNoDevice"; }}
"""

# The registry of plugins is an object whose methods return nothing.
_NVINFER = """
static long none(void *self, int *count) { if (count) *count = 0; return 0; }
static void *table[64] = {[0 ... 63] = none};
static void **registry = table;
void *getPluginRegistry(void) { return &registry; }
int getInferLibVersion(void) { return 101302; }
"""

# Functions that the package itself calls succeed, and create nothing.
_CALLED = re.findall(r'"(cu[A-Z]\w+)"', Path(cuda_driver.__file__).read_text())
_CUDA = "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(set(_CALLED)))

_SOURCES = {"libcuda.so": _CUDA, "libcudart.so": _CUDART, "libnvinfer.so": _NVINFER}
_NVIDIA = ("libcu", "libnv")

# The library of a function without a version, by the prefix of its name.
_UNVERSIONED = {
    "createInfer": "libnvinfer.so",
    "createNvOnnx": "libnvonnxparser.so",
    "cuTensor": "libcuda.so",
}


def build_stubs(providers: list[Path], folder: Path) -> Path:
    """Returns the folder with a fake of each of NVIDIA's libraries that providers need."""
    functions: dict[str, set[str]] = defaultdict(set)
    for provider in providers:
        for name in needed_libraries(provider):
            if name.startswith(_NVIDIA):
                functions[name] |= set()
        for library, function in _wanted(provider):
            functions[library].add(function)
    unversioned = functions.pop("", set())
    for name, wanted in functions.items():
        source = next((_SOURCES[stem] for stem in _SOURCES if name.startswith(stem)), "")
        mine = {f for f in unversioned if name.startswith(_owner(f))}
        symbols = [f for f in sorted(wanted | mine) if f"{f}(" not in source]
        # Versions of symbols have the name of the library.
        build_library(folder / name, source=source, symbols=symbols, version=name if wanted else "")
    return folder


def _wanted(provider: Path) -> Iterator[tuple[str, str]]:
    """Yields library and name of each of NVIDIA's functions that a provider requires."""
    with provider.open("rb") as file:
        elf = ELFFile(file)
        libraries = {
            version["vna_other"]: need.name
            for section in elf.iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for need, versions in section.iter_versions()
            for version in versions
        }
        (numbers,) = (s for s in elf.iter_sections() if isinstance(s, GNUVerSymSection))
        symbols: Any = elf.get_section_by_name(".dynsym")
        for index, symbol in enumerate(symbols.iter_symbols()):
            number = numbers.get_symbol(index)["ndx"]
            library = libraries.get(number) or ""
            is_nvidia = library.startswith(_NVIDIA) or _owner(symbol.name) != "?"
            if symbol["st_shndx"] == "SHN_UNDEF" and is_nvidia:
                yield library, symbol.name


def _owner(function: str) -> str:
    return next((_UNVERSIONED[start] for start in _UNVERSIONED if function.startswith(start)), "?")
