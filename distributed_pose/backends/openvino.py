"""Runs ONNX models, and the int8 models that `model.quantise` makes, with OpenVINO on the CPU.

Array legend: N images, H and W network input size in pixels.
"""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
    check_precision,
)
from distributed_pose.backends.openvino_streams import Streams, num_streams
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.devices.host import cpu_name
from distributed_pose.errors import ExecutionError, SetupError, last_line
from distributed_pose.model.onnx_precision import main_precision
from distributed_pose.packages import without_telemetry
from distributed_pose.records.models import ModelPort

with without_telemetry():
    import openvino

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
    """A compiled OpenVINO model, whose precision is always set and never left to the runtime.

    The images of a batch are inferred one by one, in as many streams as share them evenly. An
    image's maps are the same to the last bit for any number of streams.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        self.description = cpu_name()
        self._core = openvino.Core()
        self._threads = options.threads
        self._hint = _hint(
            options.precision, self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        )
        with _load_errors():
            self._model = _read(self._core, content)
            inputs = [_port(port) for port in self._model.inputs]
            outputs = [_port(port) for port in self._model.outputs]
            self._outputs = select_outputs(outputs, options.keypoints)
            check_input(inputs)
            self._batch_size = inputs[0].shape[0]
            self._input = replace(inputs[0], shape=(None, *inputs[0].shape[1:]))
            count = self._num_streams(options.batch_size)
            compiled = self._compiled(count)
        self.precision = _real_precision(compiled)
        _check_precision(options.precision, self.precision, self._model)
        self._streams: Streams | None = self._opened(compiled, count)

    def prepare(self, batch: InputBatch) -> None:
        """Compiles the model again if batches of this size need another number of streams."""
        count = self._num_streams(len(batch.inputs_N3HW))
        if self._streams and count != self._streams.count:
            with _load_errors():
                self._streams = self._opened(self._compiled(count), count)

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._streams is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        try:
            outputs = self._streams.run(batch.inputs_N3HW)
        except RuntimeError as error:
            raise ExecutionError(
                f"OpenVINO cannot run the model: {last_line(error)}", image_ids=batch.image_ids
            ) from None
        return NetworkOutput(*outputs)

    def close(self) -> None:
        self._streams = None

    def _num_streams(self, num_images: int) -> int:
        return num_streams(self._threads, num_images, self._batch_size or 1)

    def _compiled(self, count: int) -> openvino.CompiledModel:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": count,
            # With pinning, all workers of a machine would be pinned to its first processors.
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(self._model, "CPU", settings)

    def _opened(self, compiled: openvino.CompiledModel, count: int) -> Streams:
        size = self._batch_size or 1
        new_request = compiled.create_infer_request
        return Streams(new_request, count, self._input.name, self._outputs, size)


@contextmanager
def _load_errors() -> Iterator[None]:
    """Turns the errors of a model that OpenVINO cannot load into `SetupError`."""
    try:
        yield
    except (RuntimeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SetupError(
            f"OpenVINO cannot load the model: {last_line(error)}",
            "set backend=onnxruntime, which runs more of ONNX",
        ) from None


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
