"""ONNX to TensorRT engines, and the commands that do the same by hand."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from distributed_pose.errors import SetupError, first_line
from distributed_pose.model.onnx_graph import image_input, parse
from distributed_pose.model.onnx_precision import PRECISION_KEY, precision_of
from distributed_pose.nvidia import (
    EngineShapes,
    forbid_tf32,
    tensorrt_major,
    tensorrt_options,
    tensorrt_version,
)

_PROVIDER = "TensorrtExecutionProvider"

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
) -> EngineShapes:
    """Returns the shapes of an engine that takes these batch sizes and all between them.

    One that is to take several also takes single images, for ragged batches and what is retried.

    Args:
        content: serialised ONNX.
        batch_sizes: that it must take.
        height: of the input in pixels.
        width: of the input in pixels.

    Raises:
        SetupError: if the model has a fixed batch size that is none of them.
    """
    image = image_input(parse(content))
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    if fixed:
        return EngineShapes(image.name, fixed, fixed, height, width)
    return EngineShapes(image.name, 1, max(batch_sizes), height, width)


def build_engine(
    content: bytes,
    *,
    batch_sizes: Sequence[int],
    height: int,
    width: int,
    precision: str,
    index: int = 0,
) -> bytes:
    """Returns an engine for a GPU of this process, wrapped in ONNX, for `onnxruntime:tensorrt`.

    It runs on GPUs of the same architecture, with the same TensorRT.

    Args:
        content: serialised ONNX, of half precision (`model.half`) if the engine is to be.
        batch_sizes: that it must take.
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
    model = parse(content)
    real = checked_precision(model, precision)
    shapes = engine_shapes(content, batch_sizes=batch_sizes, height=height, width=width)
    if real == "f32":
        forbid_tf32()
    options = tensorrt_options(index, half=real == "f16", major=tensorrt_major(), shapes=shapes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.onnx"
        _build(content, options, shapes, file)
        if not file.exists():
            raise SetupError("TensorRT has made no engine", "its log above says why")
        return labelled_engine(file.read_bytes(), real)


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
    return f"onnxruntime {onnxruntime.__version__}, tensorrt {tensorrt_version() or 'unknown'}"


def _build(content: bytes, options: dict[str, str], shapes: EngineShapes, file: Path) -> None:
    settings = onnxruntime.SessionOptions()
    for key, value in engine_settings(file).items():
        settings.add_session_config_entry(key, value)
    try:
        session = onnxruntime.InferenceSession(
            content, settings, providers=[(_PROVIDER, options)], enable_fallback=0
        )
        # Some versions write the engine at its first use or at the end of the session.
        image = session.get_inputs()[0]
        dtype = _DTYPES.get(image.type, np.float32)
        inputs_N3HW = np.zeros((shapes.most, 3, shapes.height, shapes.width), dtype)
        session.run(None, {image.name: inputs_N3HW})
    # The runtime's own exceptions have no common documented base class.
    except Exception as error:  # noqa: BLE001
        raise SetupError(
            f"TensorRT cannot make an engine of the model: {first_line(error)}"
        ) from None


def engine_settings(file: Path) -> dict[str, str]:
    """Returns the settings of a session that writes its engine into an ONNX file.

    Source: onnxruntime.ai, EP context design.
    """
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(file),
        "ep.context_embed_mode": "1",
        "session.disable_cpu_ep_fallback": "1",
    }
