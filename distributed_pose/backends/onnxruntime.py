"""ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime

from distributed_pose.backends.base import (
    InputBatch,
    Maps,
    ModelPort,
    check_fits,
    check_input,
    select_outputs,
)
from distributed_pose.cpu import cpu_name
from distributed_pose.errors import ExecutionError, SetupError

_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class OnnxRuntimeBackend:
    """A session on the CPU provider; it computes in float32, whose kernels are the native ones."""

    precision = "f32"

    def __init__(self, content: bytes, *, precision: str, threads: int) -> None:
        del precision  # The registry admits no other than f32.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the processor from preprocessing and decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        # The runtime's own exceptions have no common documented base class.
        except Exception as error:  # noqa: BLE001
            reason = str(error).strip().partition("\n")[0]
            raise SetupError(f"ONNX Runtime cannot load the model: {reason}") from None
        inputs = [_port(node) for node in session.get_inputs()]
        self._outputs = select_outputs([_port(node) for node in session.get_outputs()])
        self._input_name = check_input(inputs)
        self._input = inputs[0]
        self._session: onnxruntime.InferenceSession | None = session

    @property
    def description(self) -> str:
        return cpu_name()

    def infer(self, batch: InputBatch) -> Maps:
        if self._session is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        try:
            outputs = self._session.run(list(self._outputs), {self._input_name: batch.inputs_N3HW})
        except Exception as error:  # noqa: BLE001
            reason = str(error).strip().partition("\n")[0]
            raise ExecutionError(
                f"ONNX Runtime cannot run the model: {reason}", image_ids=batch.image_ids
            ) from None
        return Maps(*(np.asarray(output, np.float32) for output in outputs))

    def close(self) -> None:
        self._session = None


def _port(node: onnxruntime.NodeArg) -> ModelPort:
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    return ModelPort(node.name, shape, _DTYPES.get(node.type, node.type))
