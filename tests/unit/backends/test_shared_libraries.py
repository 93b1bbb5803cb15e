"""ONNX Runtime's providers are examined, with fakes of its and NVIDIA's libraries."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from distributed_pose.backends.shared_libraries import probe_provider
from distributed_pose.devices.lacks import Lack
from distributed_pose.devices.nvidia_libraries import needed_libraries
from tests.fakes.libraries import build_library

# No machine has CUDA 97, so that its real libraries do not match.
CUDA = ("libcuda.so.1", "libcudart.so.97", "libcublas.so.97")
NVIDIA = (*CUDA, "libcudnn.so.9", "libnvinfer.so.10")

Probe = Callable[[str, Sequence[str]], tuple[Lack, ...]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of libraries, and of providers that need them."""
    folder = tmp_path_factory.mktemp("libraries")
    libraries = [build_library(folder / name) for name in NVIDIA]
    build_library(folder / "libnvinfer.so.11")
    build_library(folder / "libonnxruntime_providers_tensorrt.so", needed=libraries)
    build_library(folder / "libonnxruntime_providers_cuda.so", needed=libraries[: len(CUDA)])
    return folder


@pytest.fixture
def host(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The library folder of a machine with ONNX Runtime's libraries."""
    capi = tmp_path / "packages" / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").touch()
    for file in compiled.glob("libonnxruntime_*.so"):
        shutil.copy(file, capi)
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "there"))
    probe_provider.cache_clear()
    yield tmp_path / "there"
    probe_provider.cache_clear()


@pytest.fixture
def probe(host: Path, compiled: Path) -> Probe:
    """Returns the missing requirements of a provider on a machine with these libraries."""

    def probed(variant: str, there: Sequence[str]) -> tuple[Lack, ...]:
        for name in there:
            shutil.copy(compiled / name, host)
        return probe_provider(variant)

    return probed


def provider(host: Path, variant: str) -> Path:
    return host.parent / f"packages/onnxruntime/capi/libonnxruntime_providers_{variant}.so"


@pytest.mark.parametrize("variant", ["cuda", "tensorrt"])
def test_a_provider_whose_libraries_are_available_lacks_nothing(probe: Probe, variant: str) -> None:
    assert probe(variant, NVIDIA) == ()


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("libcudart.so.97", "onnxruntime-gpu[cuda,cudnn]"),
        ("libcublas.so.97", "onnxruntime-gpu[cuda,cudnn]"),
        ("libcudnn.so.9", "onnxruntime-gpu[cuda,cudnn]"),
        ("libnvinfer.so.10", "tensorrt-cu13<11"),
    ],
)
def test_a_missing_library_is_named_with_the_package_that_contains_it(
    probe: Probe, missing: str, remedy: str
) -> None:
    (lack,) = probe("tensorrt", [name for name in NVIDIA if name != missing])
    assert lack.what == missing
    assert remedy in lack.remedy


def test_a_missing_driver_is_named_with_the_tool_that_shows_it(probe: Probe) -> None:
    if loads_here("libcuda.so.1"):
        pytest.skip("this machine has a driver")
    (lack,) = probe("cuda", [name for name in NVIDIA if name != "libcuda.so.1"])
    assert lack.what == "libcuda.so.1"
    assert "nvidia-smi" in lack.remedy


def test_the_cuda_provider_needs_cudnn_which_it_loads_later(probe: Probe) -> None:
    (lack,) = probe("cuda", CUDA)
    assert lack.what == "libcudnn.so.9"


def test_another_major_version_of_a_library_is_named_as_found(probe: Probe) -> None:
    (lack,) = probe("tensorrt", [*CUDA, "libcudnn.so.9", "libnvinfer.so.11"])
    assert lack[:2] == ("libnvinfer.so.10", "libnvinfer.so.11")


def test_all_missing_libraries_are_named_at_once(probe: Probe) -> None:
    found = {lack.what for lack in probe("tensorrt", [])}
    assert found >= {"libcudart.so.97", "libcublas.so.97"}
    assert found == {name for name in NVIDIA if not loads_here(name)}


def test_an_onnx_runtime_without_the_provider_lacks_its_package(host: Path, probe: Probe) -> None:
    provider(host, "tensorrt").unlink()
    (lack,) = probe("tensorrt", NVIDIA)
    assert lack.what == "onnxruntime-gpu"


def test_a_library_that_ends_its_process_counts_as_missing(host: Path, probe: Probe) -> None:
    source = "#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }"
    build_library(provider(host, "cuda"), source=source)
    (lack,) = probe("cuda", NVIDIA)
    assert "onnxruntime:cuda" in lack.what


def test_a_provider_that_needs_a_missing_symbol_counts_as_missing(host: Path, probe: Probe) -> None:
    build_library(provider(host, "cuda"), source="extern int gone(void); int (*used)(void) = gone;")
    (lack,) = probe("cuda", NVIDIA)
    assert "undefined symbol: gone" in lack.found


def test_a_driver_older_than_the_required_cuda_counts_as_missing(host: Path, probe: Probe) -> None:
    source = "int cuDriverGetVersion(int *version) { *version = 12040; return 0; }"
    build_library(host / "libcuda.so.1", source=source)
    (lack,) = probe("cuda", [name for name in NVIDIA if name != "libcuda.so.1"])
    assert lack[:2] == ("a driver for CUDA 97", "one for CUDA 12.4")


def test_dependencies_are_read_without_loading_a_library(host: Path) -> None:
    assert set(NVIDIA) < set(needed_libraries(provider(host, "tensorrt")))
    (host / "text.so").write_text("no library")
    with pytest.raises(ValueError, match=r"text\.so is not a shared library"):
        needed_libraries(host / "text.so")


@pytest.mark.parametrize(
    ("number", "version"), [(101302, "10.13.2"), (8601, "8.6.1"), (110000, "11.0.0")]
)
def test_the_version_of_tensorrt_is_that_of_the_library_itself(
    host: Path, number: int, version: str
) -> None:
    source = f"int getInferLibVersion(void) {{ return {number}; }}"
    build_library(host / "libnvinfer.so.10", source=source)
    assert printed("loaded_tensorrt_version()") == version


def test_without_tensorrt_there_is_no_version(host: Path) -> None:
    assert printed("loaded_tensorrt_version()") == ""
    provider(host, "tensorrt").unlink()
    assert printed("loaded_tensorrt_version()") == ""


def test_a_backend_that_cannot_start_names_all_missing_requirements_and_their_fixes(
    host: Path,
) -> None:
    shutil.rmtree(host)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        printed("require_provider('tensorrt')")
    message = caught.value.stderr.strip().rpartition("\n")[2]
    assert "onnxruntime:tensorrt lacks" in message
    assert "libnvinfer.so.10" in message
    assert "libcudart.so.97" in message
    assert "pip install 'tensorrt-cu13<11'" in message


def test_an_engine_depends_on_the_cards_name_compute_capability_and_driver(host: Path) -> None:
    source = """
    int cuInit(unsigned flags) { return 0; }
    int cuDeviceGet(int *device, int index) { *device = index; return index ? 101 : 0; }
    int cuDeviceGetName(char *name, int size, int device) { name[0] = 'T'; return 0; }
    int cuDeviceGetAttribute(int *value, int attribute, int device) {
        *value = attribute == 75 ? 7 : attribute == 76 ? 5 : -1;
        return 0;
    }
    int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
    """
    build_library(host / "libcuda.so.1", source=source)
    facts = printed("cuda_device_facts(0)")
    assert facts.startswith("T, compute capability 7.5, ")
    assert facts.endswith("cuda-driver 13.1")
    assert printed("cuda_device_facts(1)").startswith("NVIDIA GPU, ")


def printed(call: str) -> str:
    """Returns the result of a call in a separate process with the libraries' folder in its path."""
    rooms = ("nvidia", "nvidia_libraries")
    imports = "".join(f"from distributed_pose.devices.{room} import *; " for room in rooms)
    code = f"{imports}print({call})"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, check=True, text=True)
    return answer.stdout.strip()


def loads_here(name: str) -> bool:
    command = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", name]
    return subprocess.run(command, capture_output=True, check=False, env={}).returncode == 0
