"""A PyTorch model on an NVIDIA card: batches of frequent shapes as CUDA graphs.

Array legend: N images, H and W network input size in pixels.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

Shape = tuple[int, ...]

# Each holds what its kernels leave in memory; a run has one shape, or as many as its images where
# the profile keeps their aspect.
MAX_GRAPHS = 8

# What PyTorch's guide to CUDA graphs has run before a capture, for lazy initialisation.
_WARMUP_RUNS = 3


class CudaRunner:
    """Returns new arrays of a model's outputs, computed on a stream of its own.

    A graph launches all kernels of a batch at once.

    Args:
        model: on the device, channels last.
        device: with its index.
        names: of the outputs, in the order in which they are returned.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, names: Sequence[str]) -> None:
        self._model = model
        self._device = device
        self._names = names
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[Shape, _Captured] = {}
        self._seen: set[Shape] = set()

    def __call__(self, inputs_N3HW: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        shape = inputs_N3HW.shape
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            if shape not in self._graphs and is_worth_a_graph(shape, self._seen, len(self._graphs)):
                self._graphs[shape] = self._capture(tensor_of(inputs_N3HW))
            self._seen.add(shape)
            graph = self._graphs.get(shape)
            return graph(inputs_N3HW) if graph else self._run(tensor_of(inputs_N3HW))

    def _capture(self, example_N3HW: torch.Tensor) -> "_Captured":
        input_N3HW = example_N3HW.to(self._device)
        with _exact_convolutions(fixed_shape=True):
            for _ in range(_WARMUP_RUNS):
                forward(self._model, self._names, input_N3HW)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use the card meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                outputs = forward(self._model, self._names, input_N3HW)
        return _Captured(graph, self._stream, input_N3HW, outputs)

    def _run(self, host_N3HW: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        with _exact_convolutions(fixed_shape=False):
            outputs = forward(self._model, self._names, host_N3HW.to(self._device))
        return [new_array(output) for output in outputs]


class _Captured:
    """A CUDA graph with its buffers: input and outputs, on the card and pinned beside it.

    Args:
        graph: reads `input_N3HW` and writes `outputs`.
        stream: that it runs on.
        input_N3HW: on the card.
        outputs: on the card.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        stream: torch.cuda.Stream,
        input_N3HW: torch.Tensor,
        outputs: list[torch.Tensor],
    ) -> None:
        self._graph = graph
        self._stream = stream
        self._input_N3HW = input_N3HW
        self._outputs = outputs
        self._host_N3HW = _pinned(input_N3HW)
        self._host_outputs = [_pinned(output) for output in outputs]

    def __call__(self, inputs_N3HW: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        np.copyto(self._host_N3HW.numpy(), inputs_N3HW)
        self._input_N3HW.copy_(self._host_N3HW, non_blocking=True)
        self._graph.replay()
        for host, output in zip(self._host_outputs, self._outputs, strict=True):
            host.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return [new_array(host) for host in self._host_outputs]


def is_worth_a_graph(shape: Shape, seen: Collection[Shape], num_graphs: int) -> bool:
    """Returns whether a batch of a shape without a graph gets one.

    At its first batch, if that is the largest of its input size so far, as in warm-up and sweeps;
    else at its second, because the ragged batch at the end comes once.

    Args:
        shape: [N, 3, H, W].
        seen: shapes of all batches before.
        num_graphs: that there are.
    """
    larger = any(other[1:] == shape[1:] and other[0] > shape[0] for other in seen)
    return num_graphs < MAX_GRAPHS and (shape in seen or not larger)


def forward(
    model: torch.nn.Module, names: Sequence[str], input_N3HW: torch.Tensor
) -> list[torch.Tensor]:
    """Returns a model's outputs as float32, contiguous, on its device.

    Types change there, where it costs least.

    Args:
        model: whose weights are all of one type and channels last.
        names: of the outputs wanted.
        input_N3HW: float32, or uint8 for a model that takes bytes; on the model's device.
    """
    if input_N3HW.is_floating_point():
        input_N3HW = input_N3HW.to(next(model.parameters()).dtype)
    outputs = model(input_N3HW.contiguous(memory_format=torch.channels_last))
    return [outputs[name].float().contiguous() for name in names]


def tensor_of(inputs_N3HW: npt.NDArray[Any]) -> torch.Tensor:
    """Returns a copy: PyTorch warns of arrays that it must not write to, as in the object store."""
    return torch.from_numpy(inputs_N3HW.copy())


def new_array(output: torch.Tensor) -> npt.NDArray[np.float32]:
    """Returns a copy of a tensor of any device."""
    return np.array(output.cpu().numpy(), np.float32, order="C")


def _exact_convolutions(*, fixed_shape: bool) -> AbstractContextManager[None]:
    """Returns a context in which float32 is float32 and not TF32, which cuDNN has by default.

    Args:
        fixed_shape: whether the shape comes often enough to try which kernels are fastest.
    """
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=fixed_shape, allow_tf32=False)
    return cast("AbstractContextManager[None]", flags)


def _pinned(like: torch.Tensor) -> torch.Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
