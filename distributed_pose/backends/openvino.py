"""OpenVINO on the CPU."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import openvino

from distributed_pose.backends.base import (
    InputBatch,
    Maps,
    ModelPort,
    check_fits,
    check_input,
    select_outputs,
)
from distributed_pose.cpu import cpu_name
from distributed_pose.errors import SetupError

# Precision here to OpenVINO's name of the capability, fastest first.
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}

# OpenVINO's name of a type to NumPy's name of what it takes: it converts floats by itself.
_DTYPES = {"u8": "uint8", "f64": "float32", "f32": "float32", "f16": "float32"}

_PRECISION_OF_LAYER = {"f32": "f32", "bf16": "bf16", "f16": "f16", "i8": "int8", "u8": "int8"}


class OpenVinoBackend:
    """A compiled OpenVINO model. The precision is always set, never left to the runtime."""

    def __init__(self, content: bytes, *, precision: str, threads: int) -> None:
        core = openvino.Core()
        hint = _supported(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Workers that share a machine would all be pinned to its first processors.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.read_model(content)
            inputs = [_port(port) for port in model.inputs]
            self._outputs = select_outputs([_port(port) for port in model.outputs])
            self._input_name = check_input(inputs)
            self._input = inputs[0]
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise SetupError(f"OpenVINO cannot load the model: {reason}") from None
        self.precision = _real_precision(compiled)
        if precision not in {"auto", self.precision}:
            raise SetupError(f"the compiled model has precision {self.precision}, not {precision}")
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    @property
    def description(self) -> str:
        return cpu_name()

    def infer(self, batch: InputBatch) -> Maps:
        if self._request is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        self._request.infer({self._input_name: batch.inputs_N3HW}, share_inputs=True)
        # The request owns its output and writes it again at the next call.
        return Maps(
            *(np.array(self._request.get_tensor(name).data, np.float32) for name in self._outputs)
        )

    def close(self) -> None:
        self._request = None


def _supported(precision: str, capabilities: Iterable[str]) -> str:
    native = [name for name, capability in _CAPABILITIES.items() if capability in capabilities]
    if precision == "auto":
        return native[0]
    if precision not in native:
        raise SetupError(
            f"precision: {cpu_name()} has no native {precision}", f"it has {', '.join(native)}"
        )
    return precision


def _port(port: openvino.Output) -> ModelPort:
    shape = (n.get_length() if n.is_static else None for n in port.partial_shape)
    dtype = port.element_type.get_type_name()
    return ModelPort(port.any_name, tuple(shape), _DTYPES.get(dtype, dtype))


def _real_precision(compiled: openvino.CompiledModel) -> str:
    """Returns the precision of most convolutions in the graph that is really executed."""
    layers = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
    found = Counter(
        str(layer["runtimePrecision"].astype(str))
        for layer in layers
        if layer["layerType"].astype(str) == "Convolution"
    )
    return _PRECISION_OF_LAYER[found.most_common(1)[0][0]] if found else "f32"
