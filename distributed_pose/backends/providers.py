"""ONNX Runtime's execution providers: what each is called, needs and is told.

Options are text, as the runtime reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from distributed_pose.errors import SetupError


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: in ONNX Runtime.
        package: that brings it.
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
        available: names of those that this ONNX Runtime has.

    Raises:
        SetupError: if it is not there; says which package brings it.
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
        index: of the device among those that the process sees.
        stream: handle of the CUDA stream that it works on.

    Source: onnxruntime.ai, CUDA execution provider.
    """
    return {
        "device_id": str(index),
        # An exhaustive search takes 300 to 1,300 ms, and runs at every new shape within a run.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Float32 is float32; half precision is asked for by its name.
        "use_tf32": "0",
        "user_compute_stream": str(stream),
    }


def tensorrt_options(index: int, stream: int) -> dict[str, str]:
    """Returns the options of the TensorRT provider for an engine, which holds all others.

    Args:
        index: of the device among those that the process sees.
        stream: handle of the CUDA stream that it works on.

    Source: onnxruntime.ai, TensorRT execution provider.
    """
    return {"device_id": str(index), "user_compute_stream": str(stream)}


def cann_options(index: int, *, half: bool) -> dict[str, str]:
    """Returns the options of the CANN provider.

    Args:
        index: of the device among those that the process sees.
        half: whether it computes in half precision; if not, an operator that only has half
            precision is an error of the compiler, and not silently used.

    Source: onnxruntime.ai, CANN execution provider.
    """
    return {
        "device_id": str(index),
        "precision_mode": "force_fp16" if half else "must_keep_origin_dtype",
        "enable_cann_graph": "1",
        # Otherwise it writes every compiled graph into the current folder.
        "dump_om_model": "0",
    }
