"""The backends of this package, one entry each.

The entries of a kind of device are in the order in which `auto` tries them, best first. On CPUs
OpenVINO is the fastest: it was measured to be 1.6 times as fast as ONNX Runtime at f32 and 3 times
as fast at bf16.
"""

from collections.abc import Mapping
from types import MappingProxyType

from distributed_pose.backends.needs import (
    SET_ENV,
    AscendCompiler,
    CannProvider,
    CudaBuild,
    Library,
    Module,
    NvidiaProvider,
    PyAcl,
    Variable,
    Version,
)
from distributed_pose.backends.spec import BackendSpec
from distributed_pose.devices.kinds import CPU, CUDA, NPU
from distributed_pose.devices.published import PUBLISHED
from distributed_pose.packages import install_hint

_ROOM = "distributed_pose.backends"
_MAKERS = "distributed_pose.model.makers"
_ONNXRUNTIME_CUDA = f"{_ROOM}.onnxruntime_cuda:OnnxRuntimeCudaBackend"
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann")

_CPU_MEND = install_hint("cpu")
_CANN_MEND = f"pip uninstall -y onnxruntime; {install_hint('cann')}"

# The processes of a run inherit the environment of `ray start`.
_SET_ENV_MEND = f"source {SET_ENV} before starting, and before `ray start` on each node"

_NVIDIA_DRIVER = Library(
    "libcuda.so.1", "install NVIDIA's driver; in a container, use NVIDIA's container runtime"
)
_TORCH_MODULE = Module("torch", install_hint("torch"))
_AIS_BENCH = Module(
    "ais_bench.infer.interface",
    "pip install the vendor's wheels: ais_bench-*.whl aclruntime-*.whl",
    "InferSession",
    is_loaded=True,
    rivals=("ais-bench-benchmark",),
)
_COMPILED = ("pth", "onnx", "om")

BACKENDS: Mapping[str, BackendSpec] = MappingProxyType(
    {
        "openvino": BackendSpec(
            f"{_ROOM}.openvino:OpenVinoBackend",
            (CPU,),
            ("f32", "bf16", "f16", "int8"),
            compiler=f"{_MAKERS}:OPENVINO",
            target="openvino",
            needs=(Module("openvino", _CPU_MEND, "Core"),),
            distributions=("openvino",),
        ),
        "onnxruntime:cpu": BackendSpec(
            f"{_ROOM}.onnxruntime:OnnxRuntimeBackend",
            (CPU,),
            ("f32", "f16", "int8"),
            compiler=f"{_MAKERS}:ONNX",
            target="onnxruntime",
            needs=(Module("onnxruntime", _CPU_MEND, "InferenceSession"),),
            distributions=_ONNXRUNTIMES,
        ),
        "torch:cpu": BackendSpec(
            f"{_ROOM}.torch:TorchBackend",
            (CPU,),
            ("f32",),
            compiler=f"{_MAKERS}:TORCH",
            needs=(_TORCH_MODULE,),
            model_formats=("pth",),
            distributions=("torch",),
        ),
        "onnxruntime:tensorrt": BackendSpec(
            _ONNXRUNTIME_CUDA,
            (CUDA,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:TENSORRT",
            fixed_shapes=True,
            bound_to="device",
            target="tensorrt",
            needs=(NvidiaProvider("tensorrt"), _NVIDIA_DRIVER),
            distributions=_ONNXRUNTIMES,
            versions="distributed_pose.devices.nvidia_libraries:tensorrt_versions",
        ),
        "torch:cuda": BackendSpec(
            f"{_ROOM}.torch_cuda:TorchCudaBackend",
            (CUDA,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:TORCH",
            target="torch",
            needs=(
                _TORCH_MODULE,
                CudaBuild("pip uninstall -y torch; pip install torch"),
                _NVIDIA_DRIVER,
            ),
            model_formats=("pth",),
            distributions=("torch",),
        ),
        "onnxruntime:cuda": BackendSpec(
            _ONNXRUNTIME_CUDA,
            (CUDA,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:HALF",
            target="cuda",
            needs=(NvidiaProvider("cuda"), _NVIDIA_DRIVER),
            distributions=_ONNXRUNTIMES,
        ),
        "ascend": BackendSpec(
            f"{_ROOM}.ascend:AscendBackend",
            (NPU,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:OM",
            fixed_shapes=True,
            bound_to="chip",
            target="ascend",
            needs=(PyAcl(),),
            compiler_needs=(AscendCompiler(),),
            model_formats=_COMPILED,
        ),
        "ascend-ais": BackendSpec(
            f"{_ROOM}.ascend_ais:AisBackend",
            (NPU,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:OM",
            fixed_shapes=True,
            bound_to="chip",
            needs=(_AIS_BENCH,),
            compiler_needs=(AscendCompiler(),),
            model_formats=_COMPILED,
            distributions=("ais_bench", "aclruntime"),
        ),
        "onnxruntime:cann": BackendSpec(
            f"{_ROOM}.onnxruntime_cann:OnnxRuntimeCannBackend",
            (NPU,),
            ("f32", "f16"),
            "f16",
            compiler=f"{_MAKERS}:ONNX",
            target="cann",
            needs=(
                CannProvider(_CANN_MEND),
                # The package was built against NumPy 1, and OpenCV needs NumPy 2 from 4.12 on.
                Version("numpy", "<2", "pip install 'numpy<2' 'opencv-python-headless<4.12'"),
                Library("libascendcl.so", _SET_ENV_MEND),
                Library("libacl_op_compiler.so", _SET_ENV_MEND),
                Library("libfmk_onnx_parser.so", _SET_ENV_MEND),
                Variable("ASCEND_OPP_PATH", _SET_ENV_MEND),
            ),
            distributions=_ONNXRUNTIMES,
        ),
        "recorded": BackendSpec(
            f"{_ROOM}.recorded:RecordedBackend",
            (CPU,),
            ("f32", "bf16", "f16", "int8"),
            runs_model=False,
            replays=True,
        ),
        "oracle": BackendSpec(f"{_ROOM}.oracle:OracleBackend", (), ("f32",), runs_model=False),
        "simulated": BackendSpec(
            f"{_ROOM}.simulated:SimulatedBackend",
            (),
            ("f32",),
            variants=tuple(sorted(PUBLISHED)),
            runs_model=False,
        ),
    }
)
