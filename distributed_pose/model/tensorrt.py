"""Builds TensorRT engines from ONNX, and gives the commands that do the same by hand."""

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

# TensorRT must run the whole model: no part of it may fall back to the CPU.
SESSION_SETTINGS: Mapping[str, str] = {"session.disable_cpu_ep_fallback": "1"}

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def trtexec_command(model: Path, *, shapes: EngineShapes, precision: str) -> list[str]:
    """Returns the command of TensorRT's own tool that builds an engine and times it.

    The command is for versions up to 10. Version 11 and newer have no `--fp16`, and the ONNX file
    itself must have half precision.

    Args:
        model: path of the ONNX file.
        shapes: shapes of the model's input.
        precision: `f32` or `f16`.
    """
    command = ["trtexec", f"--onnx={model}"]
    if precision == "f16":
        command.append("--fp16")
    if precision == "f32":
        # By default, `trtexec` computes float32 in TF32.
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
    """Returns the input shapes of the engines, one engine per batch size, in ascending order.

    Each engine also takes smaller batches, down to single images, for ragged batches and retries. A
    model with a fixed batch has a single engine, which takes that batch alone.

    Args:
        content: serialised ONNX.
        batch_sizes: batch sizes that need an engine.
        height: height of the input in pixels.
        width: width of the input in pixels.

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
    """Builds engines for a GPU of this process, and returns them as `model.engines` packs them.

    They run on GPUs of the same architecture, with the same versions of TensorRT and driver.

    Args:
        content: serialised ONNX. Engines of half precision need a model of half precision (see
            `model.half`).
        batch_sizes: batch sizes that the engines must take; each size has an engine that is
            fastest at it.
        height: height of the input in pixels.
        width: width of the input in pixels.
        precision: `f32`, `f16`, or `auto` for the precision of the model.
        index: index of the GPU among those that the process sees.

    Raises:
        SetupError: if TensorRT is missing or cannot run the whole model, or if the model has
            another precision.
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

    The session's own keys `ep.context_*` reach the provider only through the C API. The timings
    that the build of one engine measures are kept beside it and reused for the next engine.

    Args:
        index: index of the GPU among those that the process sees.
        half: whether the model has half precision.
        shapes: shapes of the model's input.
        file: path of the ONNX file to write.

    Source: onnxruntime.ai, TensorRT execution provider; the Python binding accepts only `True` and
        `False`.
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
    """Returns the precision in which an engine of a model computes: the model's own.

    Args:
        model: model to build the engine from.
        precision: requested precision, `f32` or `f16`; `auto` accepts any.

    Raises:
        SetupError: if another precision was requested, which TensorRT 11 cannot build.
    """
    real = precision_of(model, fuses=True)
    if precision not in {"auto", real}:
        raise SetupError(
            f"the model has precision {real}, so the engine would not have {precision}",
            f"set precision={real}, or give the float32 model",
        )
    return real


def labelled_engine(content: bytes, precision: str) -> bytes:
    """Returns an engine in ONNX with its precision in the metadata.

    Args:
        content: engine in ONNX, as the provider has written it.
        precision: precision in which the engine computes.

    Raises:
        SetupError: if the content is not a single engine for the whole model.
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
    """Returns the versions of ONNX Runtime and TensorRT, on which engines depend."""
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
