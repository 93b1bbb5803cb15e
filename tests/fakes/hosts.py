"""Emulates machines with cards by files, tools, libraries and variables."""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from distributed_pose.backends import requirements
from distributed_pose.backends.shared_libraries import probe_provider
from distributed_pose.devices import discovery, driverless
from tests.fakes.ascend import FOLDER, install_cann
from tests.fakes.libraries import build_library

# Programs that scripts and the tested programs call.
_TOOLS = ("bash", "env", "sh", "cat")

_VARIABLES = (
    "ASCEND_HOME_PATH",
    "ASCEND_OPP_PATH",
    "ASCEND_RT_VISIBLE_DEVICES",
    "ASCEND_TOOLKIT_HOME",
    "CUDA_VISIBLE_DEVICES",
    "RAY_ADDRESS",
)

NPU_TABLE = "| 0     310P3               | OK   |\n| 0     0  | 0000:01:00.0 |\n"
GPU_LINE = "0, GPU-5f2c, Tesla T4"

_DRIVER = "int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}"
_CUDA = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13")


class Host:
    """A machine in a folder, which this process sees as its own machine within `entered`.

    Attributes:
        folder: folder of all its files.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._path = os.environ["PATH"]
        for name in ("bin", "dev", "pci", "lib", "packages"):
            (folder / name).mkdir()
        for name in _TOOLS:
            (folder / "bin" / name).symlink_to(str(shutil.which(name)))

    def tool(self, name: str, text: str = "", code: int = 0) -> None:
        """Adds a program that prints a text."""
        self._script(name, f"cat <<'END'\n{text}\nEND\nexit {code}\n")

    def _script(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def package(self, name: str, source: str = "") -> Path:
        """Adds a Python package of one file, and returns its folder."""
        folder = self.folder / "packages" / Path(*name.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(source)
        return folder

    def distribution(self, name: str, version: str) -> None:
        """Installs the metadata of a distribution, without files."""
        folder = self.folder / "packages" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )

    def stand_in(self, *names: str) -> None:
        """Makes fakes of the vendor's packages importable."""
        for name in names:
            (self.folder / "packages" / name).symlink_to(FOLDER / name)

    def library(self, name: str, source: str = "", needed: Sequence[str] = ()) -> None:
        """Adds a shared library that the loader finds."""
        self._build(self.folder / "lib" / name, source, [self.folder / "lib" / n for n in needed])

    def _build(self, file: Path, source: str = "", needed: Sequence[Path] = ()) -> Path:
        # The compiler is not one of the machine's tools.
        with self._monkeypatch.context() as patch:
            patch.setenv("PATH", self._path)
            return build_library(file, source=source, needed=needed)

    def pci(self, address: str, vendor: str, card_class: str) -> None:
        """Adds a card to the bus."""
        folder = self.folder / "pci" / address
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{card_class}\n")

    def npu(self) -> None:
        """Adds an Ascend 310P3 with its driver."""
        (self.folder / "dev" / "davinci0").touch()
        self.tool("npu-smi", NPU_TABLE)

    def cann(self) -> Path:
        """Adds CANN with pyACL and its compiler, and returns its `set_env.sh`."""
        cann = install_cann(self.folder / "Ascend")
        packages = cann.home / "python" / "site-packages"
        packages.mkdir(parents=True)
        for name in ("acl", "fake_om.py"):
            (packages / name).symlink_to(FOLDER / name)
        self._add_to_path(cann.python)
        return cann.root / "ascend-toolkit" / "set_env.sh"

    def source_cann(self) -> None:
        """Sets the variables that CANN's `set_env.sh` sets."""
        home = self.folder / "Ascend" / "ascend-toolkit" / "latest"
        self._monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(home))
        self._monkeypatch.syspath_prepend(home / "python" / "site-packages")
        self._add_to_path(home / "bin")

    def _add_to_path(self, folder: Path) -> None:
        self._monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def gpu(self, driver: int = 13000) -> None:
        """Adds a T4 with its driver.

        Args:
            driver: newest version of CUDA that the driver supports, such as 12040.
        """
        self.tool("nvidia-smi", GPU_LINE)
        self.library("libcuda.so.1", _DRIVER.format(version=driver))

    def onnxruntime_gpu(self, *extra: str) -> None:
        """Adds ONNX Runtime for NVIDIA cards with CUDA, and further libraries."""
        for name in (*_CUDA[1:], *extra):
            self.library(name)
        self.distribution("onnxruntime-gpu", "1.31.1")
        capi = self.package("onnxruntime", "class InferenceSession: ...\n") / "capi"
        # The libraries that they are linked with need not be available later.
        built = {name: self._build(self.folder / "built" / name) for name in _NEEDED}
        cuda = [built[name] for name in _CUDA]
        self._build(capi / "libonnxruntime_providers_cuda.so", needed=cuda)
        tensorrt = capi / "libonnxruntime_providers_tensorrt.so"
        self._build(tensorrt, needed=[*built.values()])

    def onnxruntime_cann(self) -> None:
        """Adds ONNX Runtime for Ascend chips, and the libraries of CANN that it links."""
        self.distribution("onnxruntime-cann", "1.24.4")
        capi = self.package("onnxruntime", "class InferenceSession: ...\n") / "capi"
        self._build(capi / "libonnxruntime_providers_cann.so")
        for name in ("libascendcl.so", "libacl_op_compiler.so", "libfmk_onnx_parser.so"):
            self.library(name)

    def torch(self, version: str, cuda: str | None) -> None:
        """Adds a PyTorch that was built with a version of CUDA, or without CUDA."""
        self.distribution("torch", version)
        folder = self.package("torch")
        (folder / "version.py").write_text(f"cuda: str | None = {cuda!r}\n")


_NEEDED = (*_CUDA, "libcudnn.so.9", "libnvinfer.so.10")


@contextmanager
def entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Makes this process and its children see the machine, which has no card at first."""
    if Path("/usr/local/Ascend").exists():
        pytest.skip("this machine has CANN")
    host = Host(folder, monkeypatch)
    for variable in _VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    # The folder has compiled functions, and compiling them again takes minutes.
    monkeypatch.setenv(
        "XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    )
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder / "lib"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    monkeypatch.syspath_prepend(folder / "packages")
    monkeypatch.setattr(discovery, "_DEV", folder / "dev")
    monkeypatch.setattr(driverless, "_DEV", folder / "dev")
    monkeypatch.setattr(driverless, "_PCI", folder / "pci")
    _forget()
    yield host
    _forget()


def _forget() -> None:
    """Clears the caches of results from another machine."""
    for kept in (requirements._asked, requirements._cann, probe_provider):
        kept.cache_clear()
