"""The backends by name. A backend and its vendor's SDK load only on first use."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from distributed_pose.backends import requirements
from distributed_pose.backends.base import Backend, BackendFactory, BackendOptions
from distributed_pose.backends.needs import (
    SET_ENV,
    AscendCompiler,
    CannProvider,
    CudaBuild,
    Library,
    Module,
    Need,
    NvidiaProvider,
    PyAcl,
    Variable,
    Version,
)
from distributed_pose.devices.kinds import CPU, CUDA, NPU
from distributed_pose.devices.lacks import listed, mends
from distributed_pose.errors import ConfigError, SetupError, first_line
from distributed_pose.packages import install_hint


@dataclass(frozen=True)
class BackendSpec:
    """The properties of a backend that are known without loading it.

    Attributes:
        factory: location of the backend's factory, as `module:attribute`.
        kinds: kinds of devices that the backend runs on.
        precisions: precisions that a configuration can request; whether a device supports one is
            known only on that device.
        default: precision that `auto` stands for; `auto` itself where the device decides.
        fixed_shapes: whether the backend's models are compiled for one input size.
        runs_model: whether the backend loads the user's model.
        replays: whether the backend answers from recorded maps. A backend that neither runs the
            model nor replays answers from the ground truth.
        needs: requirements for the backend to start.
        compiler_needs: further requirements if the user's model is not compiled yet.
        model_formats: formats of the user's model that the backend takes; other formats are
            converted first.
    """

    factory: str
    kinds: tuple[str, ...]
    precisions: tuple[str, ...]
    default: str = "auto"
    fixed_shapes: bool = False
    runs_model: bool = True
    replays: bool = False
    needs: tuple[Need, ...] = ()
    compiler_needs: tuple[Need, ...] = ()
    model_formats: tuple[str, ...] = ("pth", "onnx")


_ROOM = "distributed_pose.backends"
_ONNXRUNTIME = f"{_ROOM}.onnxruntime:OnnxRuntimeBackend"
_ONNXRUNTIME_CANN = f"{_ROOM}.onnxruntime_cann:OnnxRuntimeCannBackend"
_ONNXRUNTIME_CUDA = f"{_ROOM}.onnxruntime_cuda:OnnxRuntimeCudaBackend"

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
            needs=(Module("openvino", _CPU_MEND, "Core"),),
        ),
        "onnxruntime:cpu": BackendSpec(
            _ONNXRUNTIME,
            (CPU,),
            ("f32", "f16", "int8"),
            needs=(Module("onnxruntime", _CPU_MEND, "InferenceSession"),),
        ),
        "onnxruntime:cuda": BackendSpec(
            _ONNXRUNTIME_CUDA,
            (CUDA,),
            ("f32", "f16"),
            "f16",
            needs=(NvidiaProvider("cuda"), _NVIDIA_DRIVER),
        ),
        "onnxruntime:tensorrt": BackendSpec(
            _ONNXRUNTIME_CUDA,
            (CUDA,),
            ("f32", "f16"),
            "f16",
            fixed_shapes=True,
            needs=(NvidiaProvider("tensorrt"), _NVIDIA_DRIVER),
        ),
        "onnxruntime:cann": BackendSpec(
            _ONNXRUNTIME_CANN,
            (NPU,),
            ("f32", "f16"),
            "f16",
            needs=(
                CannProvider(_CANN_MEND),
                # The package was built against NumPy 1, and OpenCV needs NumPy 2 from 4.12 on.
                Version("numpy", "<2", "pip install 'numpy<2' 'opencv-python-headless<4.12'"),
                Library("libascendcl.so", _SET_ENV_MEND),
                Library("libacl_op_compiler.so", _SET_ENV_MEND),
                Library("libfmk_onnx_parser.so", _SET_ENV_MEND),
                Variable("ASCEND_OPP_PATH", _SET_ENV_MEND),
            ),
        ),
        "torch:cpu": BackendSpec(
            f"{_ROOM}.torch:TorchBackend",
            (CPU,),
            ("f32",),
            needs=(_TORCH_MODULE,),
            model_formats=("pth",),
        ),
        "torch:cuda": BackendSpec(
            f"{_ROOM}.torch_cuda:TorchCudaBackend",
            (CUDA,),
            ("f32", "f16"),
            "f16",
            needs=(
                _TORCH_MODULE,
                CudaBuild("pip uninstall -y torch; pip install torch"),
                _NVIDIA_DRIVER,
            ),
            model_formats=("pth",),
        ),
        "ascend": BackendSpec(
            f"{_ROOM}.ascend:AscendBackend",
            (NPU,),
            ("f32", "f16"),
            "f16",
            fixed_shapes=True,
            needs=(PyAcl(),),
            compiler_needs=(AscendCompiler(),),
            model_formats=_COMPILED,
        ),
        "ascend-ais": BackendSpec(
            f"{_ROOM}.ascend_ais:AisBackend",
            (NPU,),
            ("f32", "f16"),
            "f16",
            fixed_shapes=True,
            needs=(_AIS_BENCH,),
            compiler_needs=(AscendCompiler(),),
            model_formats=_COMPILED,
        ),
        "recorded": BackendSpec(
            f"{_ROOM}.recorded:RecordedBackend",
            (CPU,),
            ("f32", "bf16", "f16", "int8"),
            runs_model=False,
            replays=True,
        ),
        "oracle": BackendSpec(
            f"{_ROOM}.oracle:OracleBackend", (CPU, CUDA, NPU), ("f32",), runs_model=False
        ),
        "simulated": BackendSpec(
            f"{_ROOM}.simulated:SimulatedBackend", (CPU, CUDA, NPU), ("f32",), runs_model=False
        ),
    }
)

# The backends that `auto` tries, best first. On CPUs OpenVINO is the fastest: it was measured to be
# 1.6 times as fast as ONNX Runtime at f32 and 3 times as fast at bf16.
_PREFERRED = {
    CPU: ("openvino", "onnxruntime:cpu", "torch:cpu"),
    CUDA: ("onnxruntime:tensorrt", "torch:cuda", "onnxruntime:cuda"),
    NPU: ("ascend", "ascend-ais", "onnxruntime:cann"),
}


def entry(name: str) -> BackendSpec:
    """Returns the entry of a resolved name, or of the name without its variant for a fake."""
    return BACKENDS.get(name) or BACKENDS[name.partition(":")[0]]


def entries(name: str) -> list[BackendSpec]:
    """Returns the entries that a name can mean: those of all variants if it names none."""
    exact = BACKENDS.get(name)
    variants = [found for key, found in BACKENDS.items() if key.partition(":")[0] == name]
    return [exact] if exact else variants or [entry(name)]


def candidates(name: str, kind: str) -> tuple[str, ...]:
    """Returns the backends that a configured name can mean on devices of a kind, best first.

    Args:
        name: configured name: `auto`, a full name, or a name without its variant.
        kind: kind of the devices.
    """
    if name == "auto":
        return _PREFERRED[kind]
    # A full name, or the variant of a fake, stands for itself.
    if name in BACKENDS or name.partition(":")[0] in BACKENDS:
        return (name,)
    variants = [key for key in BACKENDS if key.partition(":")[0] == name]
    # If no variant runs on this kind of device, one of them stands for the name in messages.
    return tuple(key for key in _PREFERRED[kind] if key in variants) or (variants[0],)


def resolve_backend(name: str, kind: str, precision: str) -> str:
    """Returns the best backend that a configuration can mean on devices of a kind.

    Args:
        name: configured name of the backend.
        kind: kind of the devices.
        precision: configured precision.

    Raises:
        ConfigError: if the backend does not run on this kind, or does not have the precision.
    """
    resolved = candidates(name, kind)[0]
    chosen = entry(resolved)
    if kind not in chosen.kinds:
        raise ConfigError(
            f"backend {name} does not run on devices of kind {kind}",
            f"set {kind}.backend, or choose devices of kind {' or '.join(chosen.kinds)}",
        )
    if precision not in {"auto", *chosen.precisions}:
        raise ConfigError(
            f"precision: {precision} is not available on backend {resolved}",
            f"available: auto, {', '.join(chosen.precisions)}",
        )
    return resolved


def resolve_precision(backend: str, precision: str) -> str:
    """Returns the precision that a configuration means on a resolved backend.

    Returns `auto` unchanged where the backend chooses a precision that the device supports.
    """
    return entry(backend).default if precision == "auto" else precision


def open_backend(name: str, content: bytes, options: BackendOptions) -> Backend:
    """Opens a backend and returns it; see `base.BackendFactory`.

    Raises:
        SetupError: if the backend cannot be loaded or opened; names missing requirements.
    """
    module, _, attribute = entry(name).factory.partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
    # Broken packages of vendors raise OSError, RuntimeError, AttributeError and more.
    except Exception as error:  # noqa: BLE001
        if missing := requirements.lacks(entry(name).needs):
            raise SetupError(f"backend {name} lacks {listed(missing)}", mends(missing)) from None
        raise SetupError(f"backend {name} cannot be loaded: {first_line(error)}") from None
    return factory(content, replace(options, variant=name.partition(":")[2]))
