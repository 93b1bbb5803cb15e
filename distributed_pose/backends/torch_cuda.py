"""Runs PyTorch programs on NVIDIA cards, with CUDA graphs for batches of the prepared shape.

Array legend: N images, H and W network input size in pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch

from distributed_pose.backends.base import BackendOptions
from distributed_pose.backends.cuda import CudaBackend, open_driver
from distributed_pose.backends.cuda_driver import CudaDriver
from distributed_pose.backends.cuda_pipeline import DeviceArray
from distributed_pose.backends.torch import LoadedModel, load_model
from distributed_pose.errors import SetupError

# The precisions are in order of speed, because `auto` takes the first.
_DTYPES = {"f16": torch.float16, "f32": torch.float32}
_NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
}

# PyTorch's guide to CUDA graphs makes these runs before a capture, for lazy initialisation.
_WARMUP_RUNS = 3

# cuDNN's search for the fastest kernels is a setting of the process, in which several devices may
# be prepared at once.
_TUNING = Lock()


class TorchCudaBackend(CudaBackend):
    """A program of `torch.export` that runs on an NVIDIA card."""

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        device = _device(options)
        compute_exactly()
        model = load_model(content, options, device, _DTYPES)
        make = partial(_program, model, device)
        super().__init__("PyTorch", open_driver(options.index), make)
        self.description = torch.cuda.get_device_name(device)


class TorchProgram:
    """A model with a CUDA graph for each slot of the prepared shape.

    A graph launches all kernels of a batch at once, and reads and writes fixed addresses.

    Args:
        model: model that is loaded on the device.
        device: CUDA device, with its index.
        stream: handle of the stream that the program works on.

    Attributes:
        input: input of the model.
        precision: precision that the model computes in.
    """

    def __init__(self, model: LoadedModel, device: torch.device, stream: int) -> None:
        self.input = model.input
        self.precision = model.precision
        self._model: LoadedModel | None = model
        self._device = device
        self._stream = torch.cuda.ExternalStream(stream, device)  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[int, DeviceArray], _Captured] = {}
        # The outputs must stay allocated until the slot's next batch, because copies read them.
        self._outputs: dict[int, list[torch.Tensor]] = {}

    def prepare(self, slot: int, inputs_N3HW: DeviceArray) -> None:
        with self._on_stream(), _tuning():
            self._graphs[slot, inputs_N3HW] = self._capture(self._tensor(inputs_N3HW))

    def run(self, slot: int, inputs_N3HW: DeviceArray) -> Sequence[DeviceArray]:
        with self._on_stream():
            graph = self._graphs.get((slot, inputs_N3HW))
            if graph:
                graph.replay()
            outputs = graph.outputs if graph else self._forward(self._tensor(inputs_N3HW))
        self._outputs[slot] = outputs
        return [_device_array(output) for output in outputs]

    def release(self) -> None:
        self._graphs.clear()
        self._outputs.clear()
        # Returns the memory to the driver, which needs it for the buffers of other shapes.
        torch.cuda.empty_cache()

    def close(self) -> None:
        self.release()
        self._model = None

    def _capture(self, inputs_N3HW: torch.Tensor) -> "_Captured":
        for _ in range(_WARMUP_RUNS):
            self._forward(inputs_N3HW)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after another, so that they can share the memory of intermediate results.
        pool = next(iter(self._graphs.values())).graph.pool() if self._graphs else None
        # The error mode is per thread, because other threads may use the card during the capture.
        with torch.cuda.graph(
            graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            outputs = self._forward(inputs_N3HW)
        return _Captured(graph, outputs)

    def _forward(self, inputs_N3HW: torch.Tensor) -> list[torch.Tensor]:
        assert self._model is not None  # noqa: S101 - the pipeline is closed before the model
        return self._model(inputs_N3HW)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        with (
            torch.cuda.device(self._device),
            torch.cuda.stream(self._stream),
            torch.inference_mode(),
        ):
            yield

    def _tensor(self, array: DeviceArray) -> torch.Tensor:
        """Returns an array of the device as a tensor on the same memory."""
        return torch.as_tensor(_CudaArray(array), device=self._device)


class _Captured:
    """A CUDA graph, and the outputs that it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: list[torch.Tensor]) -> None:
        self.graph = graph
        self.outputs = outputs

    def replay(self) -> None:
        self.graph.replay()


class _CudaArray:
    """An array in the interface that other CUDA libraries take.

    Source: Numba's documentation, CUDA Array Interface, version 3.
    """

    def __init__(self, array: DeviceArray) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.address, False),
            "version": 3,
        }


def compute_exactly() -> None:
    """Makes PyTorch compute float32 exactly in this process, and not in TF32, cuDNN's default.

    Also makes cuDNN choose kernels by heuristics, except while a shape is prepared.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


@contextmanager
def _tuning() -> Iterator[None]:
    """Makes cuDNN search for the fastest kernels, for one device at a time."""
    with _TUNING:
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = False


def _program(
    model: LoadedModel, device: torch.device, _driver: CudaDriver, stream: int
) -> TorchProgram:
    return TorchProgram(model, device, stream)


def _device(options: BackendOptions) -> torch.device:
    if not torch.cuda.is_available():
        raise SetupError(
            f"PyTorch {torch.__version__} finds no CUDA device",
            "install a build for CUDA and check that `nvidia-smi` lists the card",
        )
    if options.index >= torch.cuda.device_count():
        raise SetupError(
            f"there is no CUDA device {options.index}: PyTorch finds {torch.cuda.device_count()}"
        )
    return torch.device("cuda", options.index)


def _device_array(output: torch.Tensor) -> DeviceArray:
    return DeviceArray(output.data_ptr(), tuple(output.shape), _NUMPY_DTYPES[output.dtype])
