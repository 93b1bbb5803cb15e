"""The backends by name. Each is loaded only when it is used, and brings its vendor's SDK."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import MappingProxyType

from distributed_pose.backends.base import Backend, BackendFactory, BackendOptions
from distributed_pose.errors import ConfigError, SetupError

CPU, CUDA, NPU = "cpu", "cuda", "npu"


@dataclass(frozen=True)
class Entry:
    """Where a backend lives and what may be asked of it.

    Attributes:
        factory: `module:attribute`.
        kinds: of devices that it runs on.
        precisions: that it can be asked for; whether a device has one is known only there.
        default: what `auto` is; `auto` itself where the device decides.
        fixed_shapes: whether its models are compiled for one size of input.
        runs_model: whether it loads the user's model.
        replays: whether it answers from recorded maps; what does neither, from the ground truth.
    """

    factory: str
    kinds: tuple[str, ...]
    precisions: tuple[str, ...]
    default: str = "auto"
    fixed_shapes: bool = False
    runs_model: bool = True
    replays: bool = False


_ROOM = "distributed_pose.backends"
_TESTING = "distributed_pose.testing"
_ONNXRUNTIME = f"{_ROOM}.onnxruntime:OnnxRuntimeBackend"
_ONNXRUNTIME_CANN = f"{_ROOM}.onnxruntime_cann:OnnxRuntimeCannBackend"
_ONNXRUNTIME_CUDA = f"{_ROOM}.onnxruntime_cuda:OnnxRuntimeCudaBackend"

BACKENDS: Mapping[str, Entry] = MappingProxyType(
    {
        "openvino": Entry(
            f"{_ROOM}.openvino:OpenVinoBackend", (CPU,), ("f32", "bf16", "f16", "int8")
        ),
        "onnxruntime:cpu": Entry(_ONNXRUNTIME, (CPU,), ("f32", "f16", "int8")),
        "onnxruntime:cuda": Entry(_ONNXRUNTIME_CUDA, (CUDA,), ("f32", "f16"), "f16"),
        "onnxruntime:tensorrt": Entry(
            _ONNXRUNTIME_CUDA, (CUDA,), ("f32", "f16"), "f16", fixed_shapes=True
        ),
        "onnxruntime:cann": Entry(_ONNXRUNTIME_CANN, (NPU,), ("f32", "f16"), "f16"),
        "torch:cpu": Entry(f"{_ROOM}.torch:TorchBackend", (CPU,), ("f32",)),
        "torch:cuda": Entry(f"{_ROOM}.torch_cuda:TorchCudaBackend", (CUDA,), ("f32", "f16"), "f16"),
        "ascend": Entry(
            f"{_ROOM}.ascend:AscendBackend", (NPU,), ("f32", "f16"), "f16", fixed_shapes=True
        ),
        "ascend-ais": Entry(
            f"{_ROOM}.ascend_ais:AisBackend", (NPU,), ("f32", "f16"), "f16", fixed_shapes=True
        ),
        "recorded": Entry(
            f"{_ROOM}.recorded:RecordedBackend",
            (CPU,),
            ("f32", "bf16", "f16", "int8"),
            runs_model=False,
            replays=True,
        ),
        "oracle": Entry(
            f"{_TESTING}.oracle:OracleBackend", (CPU, CUDA, NPU), ("f32",), runs_model=False
        ),
        "simulated": Entry(
            f"{_TESTING}.simulated:SimulatedBackend", (CPU, CUDA, NPU), ("f32",), runs_model=False
        ),
    }
)

# Where `auto` looks first. On CPUs OpenVINO is the fastest: measured against ONNX Runtime, 1.6
# times at f32 and 3 times at bf16.
_PREFERRED = {
    CPU: ("openvino",),
    CUDA: ("onnxruntime:tensorrt", "torch:cuda", "onnxruntime:cuda"),
    NPU: ("ascend", "ascend-ais", "onnxruntime:cann"),
}


def entry(name: str) -> Entry:
    """Returns the entry of a resolved name; a fake's variant has no entry of its own."""
    return BACKENDS.get(name) or BACKENDS[name.partition(":")[0]]


def entries(name: str) -> list[Entry]:
    """Returns the entries that a name can mean: one for each variant where it names none."""
    exact = BACKENDS.get(name)
    variants = [found for key, found in BACKENDS.items() if key.partition(":")[0] == name]
    return [exact] if exact else variants or [entry(name)]


def installed(kind: str) -> tuple[str, ...]:
    """Returns the preferred backends of a kind whose packages this machine has, best first.

    Nothing is imported for it.
    """
    return tuple(name for name in _PREFERRED[kind] if _is_installed(name))


def resolve_backend(name: str, kind: str, precision: str, found: Sequence[str] = ()) -> str:
    """Returns the backend that a configuration means on devices of a kind.

    Args:
        name: as configured.
        kind: of the devices.
        precision: as configured.
        found: what is installed where the devices are, best first.

    Raises:
        ConfigError: if the backend does not run there, or does not have the precision.
    """
    resolved = _resolve(name, kind, found)
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

    It stays `auto` where the backend chooses by what the device has.
    """
    return entry(backend).default if precision == "auto" else precision


def open_backend(name: str, content: bytes, options: BackendOptions) -> Backend:
    """Returns an opened backend; see `base.BackendFactory`.

    Raises:
        SetupError: also if the backend's packages are not installed.
    """
    module, _, attribute = entry(name).factory.partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise SetupError(f"backend {name} is not installed: {error}") from None
    return factory(content, replace(options, variant=name.partition(":")[2]))


def _resolve(name: str, kind: str, found: Sequence[str]) -> str:
    if name in BACKENDS:
        return name
    if name == "auto":
        return (*found, *_PREFERRED[kind])[0]
    variants = [key for key in BACKENDS if key.partition(":")[0] == name]
    fitting = [key for key in variants if kind in BACKENDS[key].kinds]
    there = [key for key in found if key in fitting]
    return (*there, *fitting, name if name.partition(":")[0] in BACKENDS else variants[0])[0]


def _is_installed(name: str) -> bool:
    probe = _PROBES.get(name)
    return probe is None or probe()


def _has(*names: str) -> bool:
    """Returns whether one of these distributions is installed."""
    return any(_version(name) for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


_PROBES: Mapping[str, Callable[[], bool]] = {
    "onnxruntime:tensorrt": lambda: (
        _has("onnxruntime-gpu") and _has("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    ),
    "onnxruntime:cuda": lambda: _has("onnxruntime-gpu"),
    "onnxruntime:cann": lambda: _has("onnxruntime-cann"),
    "torch:cuda": lambda: not _version("torch").endswith("+cpu"),
    "ascend": lambda: find_spec("acl") is not None,
    "ascend-ais": lambda: find_spec("ais_bench") is not None,
}
