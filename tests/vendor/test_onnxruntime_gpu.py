"""Our options for ONNX Runtime's providers of NVIDIA cards are read by their own parsers."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from distributed_pose.backends.onnxruntime_cuda import RUN_SETTINGS
from distributed_pose.backends.providers import PROVIDERS, cuda_options, tensorrt_options
from distributed_pose.devices.nvidia import EngineShapes
from distributed_pose.devices.nvidia_libraries import needed_libraries
from distributed_pose.model.tensorrt import SESSION_SETTINGS, building_options
from tests.tiny_models import save_constant_model
from tests.vendor.nvidia_stubs import NO_DEVICE, build_stubs
from tests.vendor.wheels import unpacked_wheel

pytestmark = pytest.mark.vendor

WHEEL = "onnxruntime-gpu==1.31.1"

TOLD = {
    "cuda": cuda_options(0, stream=4096),
    "tensorrt": tensorrt_options(0, stream=4096),
    "tensorrt building f32": building_options(
        0, half=False, shapes=EngineShapes("data", 1, 8, 64, 64), file=Path("/engines/8.onnx")
    ),
    "tensorrt building f16": building_options(
        0, half=True, shapes=EngineShapes("data", 8, 8, 64, 64), file=Path("/engines/8.onnx")
    ),
}

# Values that a parser refuses; options without a parser accept any text.
WRONG_VALUES = {
    "device_id": "first",
    "cudnn_conv_algo_search": "FASTEST",
    "use_tf32": "no",
    "user_compute_stream": "mine",
    "trt_fp16_enable": "1",
    "trt_dump_ep_context_model": "1",
    "trt_timing_cache_enable": "1",
    "trt_ep_context_embed_mode": "embedded",
}

EVERY_OPTION = [(name, key) for name, options in TOLD.items() for key in options]
EVERY_VALUE = [(name, key) for name, key in EVERY_OPTION if key in WRONG_VALUES]

# Creates a session, and prints the reason of the failure.
_SCRIPT = """
import json, sys, onnxruntime
model, provider, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
onnxruntime.set_default_logger_severity(4)
try:
    onnxruntime.InferenceSession(model, providers=[(provider, options)], enable_fallback=0)
except Exception as error:
    print(error)
"""


# Opens a backend as a run does. The TensorRT provider gets an engine instead of a model.
_OPENING = """
import sys
from pathlib import Path
from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.registry import open_backend
from distributed_pose.model.tensorrt import labelled_engine
from tests.unit.backends.test_onnxruntime_providers import engine
variant, content = sys.argv[1], Path(sys.argv[2]).read_bytes()
if variant == "tensorrt":
    content = labelled_engine(engine().SerializeToString(), "f16")
try:
    open_backend(f"onnxruntime:{variant}", content, BackendOptions())
except Exception as error:
    print(type(error).__name__, error)
"""


_BUILDING = """
import sys
from pathlib import Path
from distributed_pose.model.tensorrt import build_engines
try:
    build_engines(
        Path(sys.argv[1]).read_bytes(), batch_sizes=(1, 4), height=32, width=48, precision="f32"
    )
except Exception as error:
    print(type(error).__name__, error)
"""


class Runtime:
    """The real ONNX Runtime for NVIDIA cards, on fakes of NVIDIA's libraries."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.wheel = unpacked_wheel(WHEEL)
        self.capi = self.wheel / "onnxruntime" / "capi"
        self.model = model
        self.providers = [self.capi / f"libonnxruntime_providers_{v}.so" for v in VARIANTS]
        stubs = build_stubs(self.providers, folder)
        self.paths = {"PYTHONPATH": str(self.wheel), "LD_LIBRARY_PATH": str(stubs)}

    def refusal(self, name: str, options: Mapping[str, str]) -> str:
        """Returns the reason why a session with options was not created."""
        provider = PROVIDERS[name.partition(" ")[0]].name
        return self.run("-c", _SCRIPT, str(self.model), provider, json.dumps(options))

    def run(self, *arguments: str, **paths: str) -> str:
        answer = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **self.paths, **paths},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return answer.stdout


VARIANTS = ("cuda", "tensorrt")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("nvidia")
    return Runtime(folder / "libraries", save_constant_model(folder / "tiny.onnx"))


@pytest.mark.parametrize("name", TOLD)
def test_every_option_is_accepted_and_only_the_device_is_missing(
    runtime: Runtime, name: str
) -> None:
    assert NO_DEVICE in runtime.refusal(name, TOLD[name])


@pytest.mark.parametrize(("name", "key"), EVERY_OPTION)
def test_a_misspelt_option_is_refused(runtime: Runtime, name: str, key: str) -> None:
    given = dict(TOLD[name])
    given[f"{key}s"] = given.pop(key)
    said = runtime.refusal(name, given)
    assert f"{key}s" in said
    assert NO_DEVICE not in said


@pytest.mark.parametrize(("name", "key"), EVERY_VALUE)
def test_a_wrong_value_is_refused(runtime: Runtime, name: str, key: str) -> None:
    said = runtime.refusal(name, {**TOLD[name], key: WRONG_VALUES[key]})
    assert said
    assert NO_DEVICE not in said


@pytest.mark.parametrize(
    "key", [*RUN_SETTINGS, *SESSION_SETTINGS, "session.intra_op.allow_spinning"]
)
def test_the_runtime_knows_the_keys_of_sessions_and_runs(runtime: Runtime, key: str) -> None:
    """The runtime accepts any key, and ignores unknown ones."""
    binding = next(runtime.capi.glob("onnxruntime_pybind11_state*.so")).read_bytes()
    assert f"\0{key}\0".encode() in binding
    assert f"\0{key}s\0".encode() not in binding


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backend_fails_only_at_the_missing_device_with_a_message_of_one_line(
    runtime: Runtime, variant: str
) -> None:
    said = runtime.run("-c", _OPENING, variant, str(runtime.model))
    assert said == f"SetupError ONNX Runtime cannot load the model: CUDA failure 100: {NO_DEVICE}\n"


def test_building_an_engine_fails_only_at_the_missing_device(runtime: Runtime) -> None:
    said = runtime.run("-c", _BUILDING, str(runtime.model))
    failure = f"CUDA failure 100: {NO_DEVICE}"
    assert said == f"SetupError TensorRT cannot make an engine of the model: {failure}\n"


class TestProbing:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_provider_whose_libraries_are_installed_lacks_nothing(
        self, runtime: Runtime, variant: str
    ) -> None:
        assert json.loads(self.probed(runtime, variant)) == []

    def test_the_libraries_that_the_package_needs_are_reported_as_missing(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        probed = self.probed(runtime, "tensorrt", LD_LIBRARY_PATH=str(tmp_path))
        lacks = {lack[0]: lack for lack in json.loads(probed)}
        assert "libnvinfer.so.10" in lacks
        assert "libcudnn.so.9" in lacks
        assert "tensorrt-cu13<11" in lacks["libnvinfer.so.10"][2]

    def test_this_onnx_runtime_is_built_with_tensorrt_10_and_cuda_13(
        self, runtime: Runtime
    ) -> None:
        needs = set(needed_libraries(runtime.providers[1]))
        assert {"libnvinfer.so.10", "libcudart.so.13", "libcudnn.so.9"} < needs

    def probed(self, runtime: Runtime, variant: str, **paths: str) -> str:
        return runtime.run("-m", "distributed_pose.backends.shared_libraries", variant, **paths)
