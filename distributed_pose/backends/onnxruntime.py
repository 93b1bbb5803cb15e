"""ONNX Runtime: on the CPU, and by its providers on NVIDIA and Ascend devices."""

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    Maps,
    check_precision,
)
from distributed_pose.backends.fixed_batch import run_in_batches
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.backends.providers import (
    CANN,
    CPU,
    CUDA,
    TENSORRT,
    Provider,
    cached_tensorrt_options,
    cann_options,
    cuda_options,
    require,
)
from distributed_pose.cache.entries import open_entry
from distributed_pose.cpu import cpu_name
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.files import content_digest, user_cache_folder
from distributed_pose.model.onnx_graph import fixed_shapes, is_engine, parse
from distributed_pose.model.onnx_precision import precision_of
from distributed_pose.nvidia import (
    cuda_device_name,
    engine_prefix,
    forbid_tf32,
    tensorrt_major,
    tensorrt_options,
)
from distributed_pose.records import ModelPort

Array = npt.NDArray[Any]

_DTYPES = {"float": "float32", "double": "float64"}

# Providers that leave the graph readable when it is optimised; others compile it.
_READABLE = (CPU, CUDA)

# Its log has names of the model as they are. On the CPU all that matters is raised as well; of a
# provider only the log says which library is missing.
_SILENT, _ERRORS_ONLY = 4, 3


class OnnxRuntimeBackend:
    """A session on one provider, which runs the whole model or refuses it.

    It computes in the types of the graph as ONNX Runtime has optimised it: a processor without
    kernels of half precision runs such models in float32, and layers between quantised values
    become layers on integers only where the provider has these. It never falls back to another
    provider.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        variant = options.variant or CPU
        provider = require(variant, onnxruntime.get_available_providers())
        told = _provider_options(content, options, variant)
        if variant in _READABLE:
            session, self.precision = _read_session(content, options, provider, told)
        else:
            session = _session(content, options, provider, told)
            self.precision = _precision(content, options, variant)
        inputs = [_port(node) for node in session.get_inputs()]
        self._outputs = select_outputs([_port(node) for node in session.get_outputs()])
        check_input(inputs)
        check_precision(options.precision, self.precision)
        self._batch_size = inputs[0].shape[0]
        self._input = replace(inputs[0], shape=(None, *inputs[0].shape[1:]))
        self._dtype = np.dtype(self._input.dtype)
        self.description = _description(variant, options.index)
        run = BoundSession if provider.on_cuda else _PlainSession
        self._run: Callable[[Array], Sequence[Array]] | None = run(
            session, self._input.name, self._outputs, ("cuda", options.index)
        )

    def infer(self, batch: InputBatch) -> Maps:
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
        return Maps(*(np.asarray(output, np.float32) for output in outputs))

    def close(self) -> None:
        self._run = None


class _PlainSession:
    """Runs a session whose inputs and outputs are in the memory of the processor."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_names: Sequence[str],
        _device: tuple[str, int],
    ) -> None:
        self._session = session
        self._input_name = input_name
        self._output_names = list(output_names)

    def __call__(self, inputs_N3HW: Array) -> Sequence[Array]:
        outputs: list[Array] = self._session.run(
            self._output_names, {self._input_name: inputs_N3HW}
        )
        return outputs


class _Buffers(NamedTuple):
    shape: tuple[int, ...]
    binding: onnxruntime.IOBinding
    input_N3HW: onnxruntime.OrtValue


class BoundSession:
    """Runs a session whose input and outputs are in a device's memory, allocated once a shape.

    Args:
        session: on a provider of the device.
        input_name: of the image input.
        output_names: in the order in which they are returned.
        device: its kind in ONNX Runtime's words, and its index among those that the process sees.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_names: Sequence[str],
        device: tuple[str, int],
    ) -> None:
        self._session = session
        self._input_name = input_name
        self._output_names = output_names
        self._device = device
        self._buffers: _Buffers | None = None

    def __call__(self, inputs_N3HW: Array) -> list[Array]:
        buffers = self._buffers
        if buffers is None or buffers.shape != inputs_N3HW.shape:
            # First, so that a shape that fails leaves no buffers behind.
            self._buffers = None
            buffers = self._allocate(inputs_N3HW)
            self._session.run_with_iobinding(buffers.binding)
            self._keep_outputs(buffers)
            self._buffers = buffers
        else:
            buffers.input_N3HW.update_inplace(inputs_N3HW)
            self._session.run_with_iobinding(buffers.binding)
        return [np.array(output.numpy()) for output in buffers.binding.get_outputs()]

    def _allocate(self, inputs_N3HW: Array) -> _Buffers:
        # Of a copy: where the device is the processor, the array itself would be its buffer.
        value = onnxruntime.OrtValue.ortvalue_from_numpy(inputs_N3HW.copy(), *self._device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input_name, value)
        for name in self._output_names:
            binding.bind_output(name, *self._device)
        return _Buffers(inputs_N3HW.shape, binding, value)

    def _keep_outputs(self, buffers: _Buffers) -> None:
        """Binds the outputs of a first run, whose shapes nobody knows before it, for the next."""
        outputs = buffers.binding.get_outputs()
        for name, output in zip(self._output_names, outputs, strict=True):
            buffers.binding.bind_ortvalue_output(name, output)


def _read_session(
    content: bytes, options: BackendOptions, provider: Provider, told: dict[str, str]
) -> tuple[onnxruntime.InferenceSession, str]:
    """Returns a session, and the precision of its graph as it was optimised."""
    try:
        with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
            file = Path(folder) / "optimised.onnx"
            session = _session(content, options, provider, told, file)
            return session, precision_of(parse(file.read_bytes()), fuses=False)
    except OSError as error:
        raise SetupError(
            f"cannot write the optimised model to a temporary folder: {error.strerror}",
            "set TMPDIR to a folder with room for it",
        ) from None


def _session(
    content: bytes,
    options: BackendOptions,
    provider: Provider,
    told: dict[str, str],
    optimised: Path | None = None,
) -> onnxruntime.InferenceSession:
    onnxruntime.set_default_logger_severity(_severity(options))
    try:
        session = onnxruntime.InferenceSession(
            content,
            _settings(options, optimised),
            providers=[(provider.name, told)],
            enable_fallback=0,
        )
    # The runtime's own exceptions have no common documented base class.
    except Exception as error:  # noqa: BLE001
        raise SetupError(f"ONNX Runtime cannot load the model: {first_line(error)}") from None
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
    # Idle threads that spin take the processor from preprocessing and decoding.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.variant not in {"", CPU}:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.log_severity_level = _severity(options)
    if optimised:
        settings.optimized_model_filepath = str(optimised)
    return settings


def _severity(options: BackendOptions) -> int:
    return _SILENT if (options.variant or CPU) == CPU else _ERRORS_ONLY


def _provider_options(content: bytes, options: BackendOptions, variant: str) -> dict[str, str]:
    """Returns what the provider is told, after loading the libraries that it needs."""
    if variant == CPU:
        return {}
    if variant == CANN:
        return cann_options(options.index, half=options.precision != "f32")
    _load_libraries(variant)
    if variant == CUDA:
        return cuda_options(options.index)
    model = parse(content)
    half, major = precision_of(model, fuses=True) == "f16", tensorrt_major()
    if not half:
        forbid_tf32()
    if is_engine(model):
        return tensorrt_options(options.index, half=half, major=major, shapes=None)
    shapes, cache = fixed_shapes(model, options.batch_size), str(_engine_folder(content, options))
    return cached_tensorrt_options(
        options.index, half=half, major=major, shapes=shapes, cache=cache
    )


def _load_libraries(variant: str) -> None:
    """Loads CUDA, and TensorRT if it is used, from Python packages where they are installed so."""
    if preload := getattr(onnxruntime, "preload_dlls", None):
        preload()
    if variant == TENSORRT:
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt")


def _engine_folder(content: bytes, options: BackendOptions) -> Path:
    """Returns the cache entry of the engines of a model, for one device and one TensorRT."""
    parts = (cuda_device_name(options.index), str(options.batch_size), content_digest(content))
    name = content_digest("\n".join(parts).encode())
    folder = user_cache_folder() / "tensorrt" / f"{engine_prefix()}{name}"
    open_entry(folder)
    return folder


def _precision(content: bytes, options: BackendOptions, variant: str) -> str:
    # CANN compiles to half precision whatever the model has, unless it is told to keep its types.
    if variant == CANN and options.precision != "f32":
        return "f16"
    return precision_of(parse(content), fuses=variant == TENSORRT)


def _description(variant: str, index: int) -> str:
    if variant == CPU:
        return cpu_name()
    return "Ascend NPU" if variant == CANN else cuda_device_name(index)


def _port(node: onnxruntime.NodeArg) -> ModelPort:
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    return ModelPort(node.name, shape, _DTYPES.get(dtype, dtype))
