"""The backends by name. Each is loaded only when it is used, and brings its vendor's SDK."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from distributed_pose.backends.base import Backend, BackendFactory
from distributed_pose.errors import ConfigError, SetupError


@dataclass(frozen=True)
class Entry:
    """Where a backend lives and what may be asked of it.

    Attributes:
        factory: `module:attribute`.
        precisions: that it can be asked for; whether a device has one is known only there.
        runs_model: whether it loads the user's model; the others answer from the ground truth.
    """

    factory: str
    precisions: tuple[str, ...]
    runs_model: bool = True


BACKENDS: Mapping[str, Entry] = MappingProxyType(
    {
        "openvino": Entry(
            "distributed_pose.backends.openvino:OpenVinoBackend", ("f32", "bf16", "f16")
        ),
        "onnxruntime": Entry("distributed_pose.backends.onnxruntime:OnnxRuntimeBackend", ("f32",)),
        "oracle": Entry(
            "distributed_pose.testing.oracle:OracleBackend", ("f32",), runs_model=False
        ),
    }
)

# The fastest on CPUs: measured against ONNX Runtime, 1.6 times at f32 and 3 times at bf16.
_DEFAULT = "openvino"


def resolve_backend(name: str, precision: str) -> str:
    """Returns the backend that a configuration means.

    Raises:
        ConfigError: if the backend does not have the precision.
    """
    resolved = _DEFAULT if name == "auto" else name
    available = BACKENDS[resolved].precisions
    if precision not in {"auto", *available}:
        raise ConfigError(
            f"precision: {precision} is not available on backend {resolved}",
            f"available: auto, {', '.join(available)}",
        )
    return resolved


def open_backend(name: str, content: bytes, *, precision: str, threads: int) -> Backend:
    """Returns an opened backend; see `base.BackendFactory`.

    Raises:
        SetupError: also if the backend's packages are not installed.
    """
    module, _, attribute = BACKENDS[name].factory.partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise SetupError(f"backend {name} is not installed: {error}") from None
    return factory(content, precision=precision, threads=threads)
