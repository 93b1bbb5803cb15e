"""Runs models with ONNX Runtime on NVIDIA cards, on its CUDA and TensorRT providers.

Array legend: N images, H and W network input size in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import onnxruntime

from distributed_pose.backends.base import BackendOptions, check_precision
from distributed_pose.backends.cuda import CudaBackend, open_driver
from distributed_pose.backends.cuda_driver import CudaDriver, DeviceBuffer
from distributed_pose.backends.cuda_pipeline import DeviceArray, Shape
from distributed_pose.backends.onnxruntime import open_session, port_of, read_session
from distributed_pose.backends.ports import check_input, select_outputs
from distributed_pose.backends.providers import (
    PROVIDERS,
    TENSORRT,
    cuda_options,
    require,
    tensorrt_options,
)
from distributed_pose.devices.nvidia import cuda_device_name, forbid_tf32
from distributed_pose.devices.nvidia_libraries import require_provider
from distributed_pose.errors import SetupError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.model.engines import unpack_engines
from distributed_pose.model.onnx_graph import is_engine, parse
from distributed_pose.model.onnx_precision import precision_of
from distributed_pose.records.images import STRIDE

# A run must only start the execution: the pipeline waits for its outputs by an event.
RUN_SETTINGS: Mapping[str, str] = {"disable_synchronize_execution_providers": "1"}

Session: TypeAlias = onnxruntime.InferenceSession


class OnnxRuntimeCudaBackend(CudaBackend):
    """Sessions on one provider, which run the whole model or refuse it.

    The CUDA provider computes in the types of the graph that ONNX Runtime has optimised. The
    TensorRT provider runs engines of `model.tensorrt`, and loads the engine for the batch size.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        require(options.variant, onnxruntime.get_available_providers())
        require_provider(options.variant)
        make = _tensorrt_program if options.variant == TENSORRT else _cuda_program
        super().__init__(
            "ONNX Runtime", open_driver(options.index), partial(make, content, options)
        )
        self.description = cuda_device_name(options.index)


class SessionProgram:
    """A model with a session for each batch size that has an engine, or one session for all.

    Args:
        models: serialised ONNX models, by the largest batch size of each model.
        open_model: function from a model to a session on the pipeline's stream and its precision.
        driver: driver of the device.
        keypoints: keypoint set of the model.
        device: kind of the device in ONNX Runtime's terms, and index of the device among those that
            the process sees.

    Attributes:
        input: input of the model.
        precision: precision that the model computes in.
    """

    def __init__(
        self,
        models: Mapping[int, bytes],
        open_model: Callable[[bytes], tuple[Session, str]],
        driver: CudaDriver,
        keypoints: KeypointSet,
        device: tuple[str, int],
    ) -> None:
        self._models = models
        self._channels = keypoints.num_heatmaps, keypoints.num_pafs
        self._open_model = open_model
        self._device = device
        self._sessions: dict[int, Session] = {}
        self._outputs: dict[tuple[int, str], DeviceBuffer] = {}
        self._new_buffer = partial(DeviceBuffer, driver)
        # A slot's binding must live until its next batch, because the execution is asynchronous.
        self._bindings: dict[int, onnxruntime.IOBinding] = {}
        self._settings = onnxruntime.RunOptions()
        for key, value in RUN_SETTINGS.items():
            self._settings.add_run_config_entry(key, value)
        session, self.precision = self._session(1)
        inputs, outputs = ([port_of(n) for n in s] for s in _nodes(session))
        check_input(inputs)
        self.input = inputs[0]
        names = select_outputs(outputs, keypoints)
        self._dtypes = {port.name: np.dtype(port.dtype) for port in outputs if port.name in names}
        self._names = names

    def prepare(self, slot: int, inputs_N3HW: DeviceArray) -> None:
        self.run(slot, inputs_N3HW)

    def run(self, slot: int, inputs_N3HW: DeviceArray) -> Sequence[DeviceArray]:
        session, _ = self._session(inputs_N3HW.shape[0])
        outputs = self._output_arrays(slot, inputs_N3HW.shape)
        binding = session.io_binding()
        kind, index = self._device
        address, shape, dtype = inputs_N3HW
        binding.bind_input(self.input.name, kind, index, dtype, shape, address)
        for name, output in zip(self._names, outputs, strict=True):
            binding.bind_output(name, kind, index, output.dtype, output.shape, output.address)
        self._bindings[slot] = binding
        session.run_with_iobinding(binding, self._settings)
        return outputs

    def release(self) -> None:
        # A single session serves all batch sizes, so that closing it would only cost another start.
        if len(self._models) > 1:
            self._bindings.clear()
            self._sessions.clear()

    def close(self) -> None:
        self._bindings.clear()
        self._sessions.clear()
        for buffer in self._outputs.values():
            buffer.free()

    def _session(self, batch_size: int) -> tuple[Session, str]:
        """Returns the session of the smallest engine that takes a batch, and its precision."""
        fitting = [size for size in sorted(self._models) if size >= batch_size]
        size = fitting[0] if fitting else max(self._models)
        if size not in self._sessions:
            self._sessions[size], self.precision = self._open_model(self._models[size])
        return self._sessions[size], self.precision

    def _output_arrays(self, slot: int, shape: Shape) -> list[DeviceArray]:
        arrays = []
        for name, channels in zip(self._names, self._channels, strict=True):
            output_shape = (shape[0], channels, -(-shape[2] // STRIDE), -(-shape[3] // STRIDE))
            array = DeviceArray(0, output_shape, self._dtypes[name])
            buffer = self._outputs.setdefault((slot, name), self._new_buffer())
            arrays.append(array._replace(address=buffer.reserve(array.num_bytes)))
        return arrays


def _cuda_program(
    content: bytes, options: BackendOptions, driver: CudaDriver, stream: int
) -> SessionProgram:
    provider = PROVIDERS[options.variant]
    provider_options = cuda_options(options.index, stream)

    def opened(model: bytes) -> tuple[Session, str]:
        return read_session(model, options, provider, provider_options)

    models = {options.batch_size: content}
    device = "cuda", options.index
    program = SessionProgram(models, opened, driver, options.keypoints, device)
    check_precision(options.precision, program.precision)
    return program


def _tensorrt_program(
    content: bytes, options: BackendOptions, driver: CudaDriver, stream: int
) -> SessionProgram:
    engines = unpack_engines(content, options.batch_size)
    model = parse(next(iter(engines.values())))
    if not is_engine(model):
        raise SetupError(
            "the model is not a TensorRT engine", "compile it, or choose onnxruntime:cuda"
        )
    precision = precision_of(model, fuses=True)
    check_precision(options.precision, precision)
    if precision == "f32":
        forbid_tf32()
    provider = PROVIDERS[options.variant]
    provider_options = tensorrt_options(options.index, stream)

    def opened(engine: bytes) -> tuple[Session, str]:
        return open_session(engine, options, provider, provider_options), precision

    device = "cuda", options.index
    return SessionProgram(engines, opened, driver, options.keypoints, device)


def _nodes(session: Session) -> tuple[list[onnxruntime.NodeArg], list[onnxruntime.NodeArg]]:
    return session.get_inputs(), session.get_outputs()
