"""ONNX to TensorRT engines, and the commands that do the same by hand."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from distributed_pose.devices.nvidia import EngineShapes, forbid_tf32, runtime_reason
from distributed_pose.devices.nvidia_libraries import loaded_tensorrt_version, require_provider
from distributed_pose.errors import SetupError
from distributed_pose.model.engines import pack_engines
from distributed_pose.model.onnx_graph import image_input, parse
from distributed_pose.model.onnx_precision import PRECISION_KEY, precision_of

_PROVIDER = "TensorrtExecutionProvider"

# TensorRT runs the whole model or none of it.
SESSION_SETTINGS: Mapping[str, str] = {"session.disable_cpu_ep_fallback": "1"}

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def trtexec_command(model: Path, *, shapes: EngineShapes, precision: str) -> list[str]:
    """Returns the command of TensorRT's own tool that makes such an engine and times it.

    It is for versions up to 10; from 11 on there is no --fp16, and the ONNX file itself must be of
    half precision.

    Args:
        model: ONNX file.
        shapes: of its input.
        precision: `f32` or `f16`.
    """
    command = ["trtexec", f"--onnx={model}"]
    if precision == "f16":
        command.append("--fp16")
    if precision == "f32":
        # It takes TF32 for float32 by itself.
        command.append("--noTF32")
    if shapes.least == shapes.most:
        return [*command, f"--shapes={shapes.text(shapes.most)}"]
    return [
        *command,
        f"--minShapes={shapes.text(shapes.least)}",
        f"--optShapes={shapes.text(shapes.most)}",
        f"--maxShapes={shapes.text(shapes.most)}",
    ]


def engine_shapes(
    content: bytes, *, batch_sizes: Sequence[int], height: int, width: int
) -> tuple[EngineShapes, ...]:
    """Returns the shapes of the engines for these batch sizes, one each.

    Each takes single images, too, for ragged batches and what is retried.

    Args:
        content: serialised ONNX.
        batch_sizes: that are wanted.
        height: of the input in pixels.
        width: of the input in pixels.

    Raises:
        SetupError: if the model has no image input.
    """
    image = image_input(parse(content))
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    if fixed:
        return (EngineShapes(image.name, fixed, fixed, height, width),)
    sizes = sorted(set(batch_sizes))
    return tuple(EngineShapes(image.name, 1, size, height, width) for size in sizes)


def build_engines(
    content: bytes,
    *,
    batch_sizes: Sequence[int],
    height: int,
    width: int,
    precision: str,
    index: int = 0,
) -> bytes:
    """Returns engines for a GPU of this process, as `model.engines` packs them.

    They run on GPUs of the same architecture, with the same TensorRT and driver.

    Args:
        content: serialised ONNX, of half precision (`model.half`) if the engines are to be.
        batch_sizes: that they must take; each gets an engine that is fastest at it.
        height: of the input in pixels.
        width: of the input in pixels.
        precision: `f32`, `f16`, or `auto` for the model's.
        index: of the GPU.

    Raises:
        SetupError: if TensorRT is missing, cannot run the whole model, or the model has another
            precision.
    """
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise SetupError(
            f"this ONNX Runtime has no {_PROVIDER}, it has "
            f"{', '.join(onnxruntime.get_available_providers())}",
            "install onnxruntime-gpu in place of onnxruntime, and TensorRT",
        )
    real = checked_precision(parse(content), precision)
    wanted = engine_shapes(content, batch_sizes=batch_sizes, height=height, width=width)
    require_provider("tensorrt")
    if real == "f32":
        forbid_tf32()
    engines = {}
    with tempfile.TemporaryDirectory(prefix="tensorrt-") as folder:
        for shapes in wanted:
            file = Path(folder) / f"{shapes.most}.onnx"
            options = building_options(index, half=real == "f16", shapes=shapes, file=file)
            _build(content, options, shapes)
            engines[shapes.most] = labelled_engine(_written(file), real)
    return pack_engines(engines)


def building_options(index: int, *, half: bool, shapes: EngineShapes, file: Path) -> dict[str, str]:
    """Returns the provider's options for a session that writes its engine into an ONNX file.

    The session's own keys `ep.context_*` reach the provider through the C API alone. What was timed
    for one engine is kept beside it for the next.

    Args:
        index: of the GPU.
        half: whether the model is one of half precision.
        shapes: of its input.
        file: to write.

    Source: onnxruntime.ai, TensorRT execution provider; the Python binding takes `True` and
        `False` alone.
    """
    return {
        "device_id": str(index),
        "trt_fp16_enable": str(half),
        "trt_profile_min_shapes": shapes.text(shapes.least),
        "trt_profile_opt_shapes": shapes.text(shapes.most),
        "trt_profile_max_shapes": shapes.text(shapes.most),
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(file),
        "trt_ep_context_embed_mode": "1",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(file.parent),
    }


def checked_precision(model: ModelProto, precision: str) -> str:
    """Returns the precision that an engine of a model computes in.

    Raises:
        SetupError: if another was asked for. An engine would have the model's: TensorRT 11 knows
            no other.
    """
    real = precision_of(model, fuses=True)
    if precision not in {"auto", real}:
        raise SetupError(
            f"the model has precision {real}, and so would the engine, not {precision}",
            f"set precision={real}, or give the float32 model",
        )
    return real


def labelled_engine(content: bytes, precision: str) -> bytes:
    """Returns an engine in ONNX that says what it computes in.

    Raises:
        SetupError: if it is not one engine for the whole model.
    """
    model = parse(content)
    kinds = [node.op_type for node in model.graph.node]
    if kinds != ["EPContext"]:
        raise SetupError(
            f"TensorRT runs only parts of the model, which became {', '.join(kinds)}",
            "choose another backend, such as onnxruntime:cuda",
        )
    onnx.helper.set_model_props(model, {PRECISION_KEY: precision})
    return bytes(model.SerializeToString())


def toolkit_version() -> str:
    """Returns what engines depend on beside the model and the GPU."""
    tensorrt = loaded_tensorrt_version() or "unknown"
    return f"onnxruntime {onnxruntime.__version__}, tensorrt {tensorrt}"


def _build(content: bytes, options: dict[str, str], shapes: EngineShapes) -> None:
    settings = onnxruntime.SessionOptions()
    for key, value in SESSION_SETTINGS.items():
        settings.add_session_config_entry(key, value)
    try:
        session = onnxruntime.InferenceSession(
            content, settings, providers=[(_PROVIDER, options)], enable_fallback=0
        )
        if session.get_providers()[0] == _PROVIDER:
            # Some versions write the engine at its first use or at the end of the session.
            image = session.get_inputs()[0]
            dtype = _DTYPES.get(image.type, np.float32)
            inputs_N3HW = np.zeros((shapes.most, 3, shapes.height, shapes.width), dtype)
            session.run(None, {image.name: inputs_N3HW})
    # The runtime's own exceptions have no common documented base class.
    except Exception as error:  # noqa: BLE001
        raise SetupError(
            f"TensorRT cannot make an engine of the model: {runtime_reason(error)}"
        ) from None


def _written(file: Path) -> bytes:
    if not file.exists():
        raise SetupError("TensorRT has made no engine", "its log above says why")
    return file.read_bytes()
