"""Runs models with ONNX Runtime on the CPU; the other providers share its session code."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
    check_precision,
)
from distributed_pose.backends.fixed_batch import run_in_batches
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.backends.providers import CPU, Provider, require
from distributed_pose.devices.host import cpu_name
from distributed_pose.devices.nvidia import runtime_reason
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.model.onnx_graph import parse
from distributed_pose.model.onnx_precision import precision_of
from distributed_pose.records.models import ModelPort

Array = npt.NDArray[Any]

_DTYPES = {"float": "float32", "double": "float64"}

# The log prints the model's names unescaped. On the CPU it is silent, because errors are raised as
# well; for other providers only the log says which library is missing.
_SILENT, _ERRORS_ONLY = 4, 3


class OnnxRuntimeBackend(SynchronousBackend):
    """A session on the CPU.

    The session computes in the types of the graph that ONNX Runtime has optimised: a processor
    without kernels of half precision runs such models in float32, and layers between quantised
    values become integer layers only where the provider has these.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        provider = require(CPU, onnxruntime.get_available_providers())
        session, self.precision = read_session(content, options, provider, {})
        inputs = [port_of(node) for node in session.get_inputs()]
        outputs = [port_of(node) for node in session.get_outputs()]
        self._outputs = select_outputs(outputs, options.keypoints)
        check_input(inputs)
        check_precision(options.precision, self.precision)
        self._batch_size = inputs[0].shape[0]
        self._input = replace(inputs[0], shape=(None, *inputs[0].shape[1:]))
        self._dtype = np.dtype(self._input.dtype)
        self.description = cpu_name()
        self._run: Callable[[Array], Sequence[Array]] | None = partial(
            _run, session, self._input.name, list(self._outputs)
        )

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._run is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        try:
            inputs_N3HW = batch.inputs_N3HW.astype(self._dtype, copy=False)
            outputs = run_in_batches(self._run, inputs_N3HW, self._batch_size)
        except Exception as error:  # noqa: BLE001
            raise ExecutionError(
                f"ONNX Runtime cannot run the model: {first_line(error)}", image_ids=batch.image_ids
            ) from None
        return NetworkOutput(*(np.asarray(output, np.float32) for output in outputs))

    def close(self) -> None:
        self._run = None


def _run(
    session: onnxruntime.InferenceSession,
    input_name: str,
    output_names: Sequence[str],
    inputs_N3HW: Array,
) -> Sequence[Array]:
    outputs: list[Array] = session.run(output_names, {input_name: inputs_N3HW})
    return outputs


def read_session(
    content: bytes, options: BackendOptions, provider: Provider, provider_options: dict[str, str]
) -> tuple[onnxruntime.InferenceSession, str]:
    """Returns a session and the precision of its optimised graph.

    Args:
        content: serialised ONNX model.
        options: options of the backend.
        provider: provider to run on, which must leave the graph readable.
        provider_options: options of the provider.

    Raises:
        SetupError: if the provider cannot run the whole model.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
            file = Path(folder) / "optimised.onnx"
            session = open_session(content, options, provider, provider_options, file)
            return session, precision_of(parse(file.read_bytes()), fuses=False)
    except OSError as error:
        raise SetupError(
            f"cannot write the optimised model to a temporary folder: {error.strerror}",
            "set TMPDIR to a folder with room for it",
        ) from None


def open_session(
    content: bytes,
    options: BackendOptions,
    provider: Provider,
    provider_options: dict[str, str],
    optimised: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Returns a session that runs on one provider alone.

    Args:
        content: serialised ONNX model.
        options: options of the backend.
        provider: provider to run on.
        provider_options: options of the provider.
        optimised: file to write the optimised graph to; None for no file.

    Raises:
        SetupError: if the provider cannot run the whole model.
    """
    onnxruntime.set_default_logger_severity(_severity(options))
    try:
        session = onnxruntime.InferenceSession(
            content,
            _settings(options, optimised),
            providers=[(provider.name, provider_options)],
            enable_fallback=0,
        )
    # The runtime's own exceptions have no common documented base class.
    except Exception as error:  # noqa: BLE001
        raise SetupError(f"ONNX Runtime cannot load the model: {runtime_reason(error)}") from None
    if session.get_providers()[0] != provider.name:
        raise SetupError(
            f"ONNX Runtime cannot start {provider.name}, and has only "
            f"{', '.join(session.get_providers())}",
            "its log above names the library that is missing",
        )
    return session


def _settings(options: BackendOptions, optimised: Path | None) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Idle threads that spin would take processor time from preprocessing and decoding.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.variant not in {"", CPU}:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.log_severity_level = _severity(options)
    if optimised:
        settings.optimized_model_filepath = str(optimised)
    return settings


def _severity(options: BackendOptions) -> int:
    return _SILENT if (options.variant or CPU) == CPU else _ERRORS_ONLY


def port_of(node: onnxruntime.NodeArg) -> ModelPort:
    """Returns an input or output of a session as a port."""
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    return ModelPort(node.name, shape, _DTYPES.get(dtype, dtype))
