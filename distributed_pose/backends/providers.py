"""ONNX Runtime's execution providers: their names, packages and options.

Options are strings, because the runtime takes them as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from distributed_pose.errors import SetupError


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: name of the provider in ONNX Runtime.
        package: name of the package that contains the provider.
    """

    name: str
    package: str


CPU, CUDA, TENSORRT, CANN = "cpu", "cuda", "tensorrt", "cann"

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        CPU: Provider("CPUExecutionProvider", "onnxruntime"),
        CUDA: Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
        TENSORRT: Provider("TensorrtExecutionProvider", "onnxruntime-gpu"),
        CANN: Provider("CANNExecutionProvider", "onnxruntime-cann"),
    }
)


def require(variant: str, available: Sequence[str]) -> Provider:
    """Returns the provider of a variant.

    Args:
        variant: key of `PROVIDERS`.
        available: names of the providers that this ONNX Runtime has.

    Raises:
        SetupError: if it is not available; says which package contains it.
    """
    provider = PROVIDERS[variant]
    if provider.name not in available:
        raise SetupError(
            f"this ONNX Runtime has no {provider.name}, it has {', '.join(available)}",
            f"install {provider.package} in place of onnxruntime",
        )
    return provider


def cuda_options(index: int, stream: int) -> dict[str, str]:
    """Returns the options of the CUDA provider.

    Args:
        index: index of the device among those that the process sees.
        stream: handle of the CUDA stream that the provider works on.

    Source: onnxruntime.ai, CUDA execution provider.
    """
    return {
        "device_id": str(index),
        # An exhaustive search would take 300 to 1,300 ms at every new shape within a run.
        "cudnn_conv_algo_search": "HEURISTIC",
        # A run in f32 must compute in float32; a user who wants half precision requests f16.
        "use_tf32": "0",
        "user_compute_stream": str(stream),
    }


def tensorrt_options(index: int, stream: int) -> dict[str, str]:
    """Returns the options of the TensorRT provider for an engine, which contains the other options.

    Args:
        index: index of the device among those that the process sees.
        stream: handle of the CUDA stream that the provider works on.

    Source: onnxruntime.ai, TensorRT execution provider.
    """
    return {"device_id": str(index), "user_compute_stream": str(stream)}


def cann_options(index: int, *, half: bool) -> dict[str, str]:
    """Returns the options of the CANN provider.

    Args:
        index: index of the device among those that the process sees.
        half: whether the provider computes in half precision; if not, an operator that only has
            half precision is an error of the compiler, and is not silently used.

    Source: onnxruntime.ai, CANN execution provider.
    """
    return {
        "device_id": str(index),
        "precision_mode": "force_fp16" if half else "must_keep_origin_dtype",
        "enable_cann_graph": "1",
        # The provider would otherwise write every compiled graph into the current folder.
        "dump_om_model": "0",
    }
