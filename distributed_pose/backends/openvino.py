"""Runs ONNX models, and the int8 models that `model.quantise` makes, with OpenVINO on the CPU."""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
    check_precision,
)
from distributed_pose.backends.fixed_batch import run_in_batches
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.devices.host import cpu_name
from distributed_pose.errors import ExecutionError, SetupError, last_line
from distributed_pose.model.onnx_precision import main_precision
from distributed_pose.records import ModelPort

# Maps a precision to OpenVINO's name of the capability; the floats are in order, fastest first.
_FLOATS = {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}
_CAPABILITIES = {**_FLOATS, "int8": "INT8"}

# Maps OpenVINO's name of a type to NumPy's. OpenVINO converts floats by itself.
_DTYPES = {"u8": "uint8", "f64": "float64", "f32": "float32", "f16": "float16"}

# Maps the suffix of a layer's kernel to the precision. The layer's own `runtimePrecision` is not
# used, because it is that of the weights where the two differ.
# Source: docs.openvino.ai, CPU device, "low-precision 8-bit integer models".
_PRECISION_OF_KERNEL = {"i8": "int8", "u8": "int8", "fp32": "f32", "fp16": "f16"}
_LAYERS_WITH_WEIGHTS = {"Convolution", "Deconvolution", "FullyConnected"}

_ZIP = b"PK"


class OpenVinoBackend(SynchronousBackend):
    """A compiled OpenVINO model, whose precision is always set and never left to the runtime."""

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        self.description = cpu_name()
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _hint(
                options.precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            ),
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": 1,
            # With pinning, all workers of a machine would be pinned to its first processors.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = _read(core, content)
            inputs = [_port(port) for port in model.inputs]
            outputs = select_outputs([_port(port) for port in model.outputs])
            check_input(inputs)
            self._batch_size = inputs[0].shape[0]
            self._input = replace(inputs[0], shape=(None, *inputs[0].shape[1:]))
            compiled = core.compile_model(model, "CPU", settings)
        except (RuntimeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise SetupError(
                f"OpenVINO cannot load the model: {last_line(error)}",
                "set backend=onnxruntime, which runs more of ONNX",
            ) from None
        self.precision = _real_precision(compiled)
        _check_precision(options.precision, self.precision, model)
        self._run: Callable[[npt.NDArray[Any]], list[npt.NDArray[np.float32]]] | None = partial(
            _run, compiled.create_infer_request(), self._input.name, outputs
        )

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._run is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        try:
            outputs = run_in_batches(self._run, batch.inputs_N3HW, self._batch_size)
        except RuntimeError as error:
            raise ExecutionError(
                f"OpenVINO cannot run the model: {last_line(error)}", image_ids=batch.image_ids
            ) from None
        return NetworkOutput(*outputs)

    def close(self) -> None:
        self._run = None


def _run(
    request: openvino.InferRequest,
    input_name: str,
    output_names: Sequence[str],
    inputs_N3HW: npt.NDArray[Any],
) -> list[npt.NDArray[np.float32]]:
    # With one thread, `infer` (2026.4.1) hides failures and leaves the outputs of the last call.
    request.start_async({input_name: inputs_N3HW}, share_inputs=True)
    request.wait()
    # The request owns its outputs and overwrites them at the next call, so that they are copied.
    return [np.array(request.get_tensor(name).data, np.float32) for name in output_names]


def _read(core: openvino.Core, content: bytes) -> openvino.Model:
    """Returns the model of an ONNX file, or of a ZIP of OpenVINO's `model.xml` and `model.bin`."""
    if not content.startswith(_ZIP):
        return core.read_model(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return core.read_model(archive.read("model.xml"), archive.read("model.bin"))


def _hint(precision: str, capabilities: Collection[str]) -> str:
    """Returns the precision for the layers that are not quantised."""
    native = [name for name, capability in _CAPABILITIES.items() if capability in capabilities]
    if precision not in {"auto", *native}:
        raise SetupError(
            f"precision: {cpu_name()} has no native {precision}", f"it has {', '.join(native)}"
        )
    return precision if precision in _FLOATS else native[0]


def _check_precision(asked: str, found: str, model: openvino.Model) -> None:
    """Checks that the compiled model computes in the requested precision."""
    is_quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    if asked == "int8" != found and not is_quantised:
        raise SetupError(
            "precision: int8 needs a quantised model, and this one has no int8 layers",
            "make one of the float32 model: distributed-pose compile MODEL --for openvino "
            "--precision int8",
        )
    check_precision(asked, found)


def _port(port: openvino.Output) -> ModelPort:
    dims = () if port.partial_shape.rank.is_dynamic else port.partial_shape
    shape = (n.get_length() if n.is_static else None for n in dims)
    dtype = port.element_type.get_type_name()
    return ModelPort(port.any_name, tuple(shape), _DTYPES.get(dtype, dtype))


def _real_precision(compiled: openvino.CompiledModel) -> str:
    """Returns the precision in which the layers with weights really compute."""
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        layer = node.get_rt_info()
        if layer["layerType"].astype(str) in _LAYERS_WITH_WEIGHTS:
            weights = np.prod(node.input_value(1).get_partial_shape().get_min_shape())
            mark = str(layer["primitiveType"].astype(str)).rpartition("_")[2].lower()
            found[_PRECISION_OF_KERNEL.get(mark, mark)] += int(weights)
    return main_precision(found)
