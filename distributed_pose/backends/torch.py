"""PyTorch on the CPU and on NVIDIA cards.

Array legend: N images, H and W network input size in pixels.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distributed_pose.backends.base import BackendOptions, InputBatch, Maps, SynchronousBackend
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.backends.torch_cuda import CudaRunner, forward, new_array, tensor_of
from distributed_pose.cpu import cpu_name
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.records import ModelPort

# Precisions of each kind of device, fastest first.
_DTYPES: dict[str, dict[str, torch.dtype]] = {
    "cpu": {"f32": torch.float32},
    "cuda": {"f16": torch.float16, "f32": torch.float32},
}

_Runner = Callable[[npt.NDArray[Any]], Sequence[npt.NDArray[np.float32]]]


class TorchBackend(SynchronousBackend):
    """A program of `torch.export`, as `model.torch_program` makes it.

    Loading trusts the program: the format has room for pickles. It is never the user's file, but
    made of a checkpoint from which only tensors are read.
    """

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        device = _device(options)
        dtype = _dtype(options.precision, device)
        program = _load(content)
        inputs, outputs = _ports(program)
        names = select_outputs(outputs)
        check_input(inputs)
        self._input = inputs[0]
        model = _placed(program, device, dtype)
        self.precision = _precision(model)
        on_card = device.type == "cuda"
        self.description = torch.cuda.get_device_name(device) if on_card else cpu_name()
        self._runner: _Runner | None = (
            CudaRunner(model, device, names)
            if on_card
            else _CpuRunner(model, names, options.threads)
        )

    def run(self, batch: InputBatch) -> Maps:
        if self._runner is None:
            raise SetupError("the backend is closed")
        check_fits(self._input, batch)
        try:
            with torch.inference_mode():
                return Maps(*self._runner(batch.inputs_N3HW))
        except Exception as error:  # noqa: BLE001
            raise ExecutionError(
                f"PyTorch cannot run the model: {first_line(error)}", image_ids=batch.image_ids
            ) from None

    def close(self) -> None:
        self._runner = None


class _CpuRunner:
    """Returns new arrays of a model's outputs, computed on the CPU."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str], threads: int) -> None:
        self._model = model
        self._names = names
        self._threads = threads

    def __call__(self, inputs_N3HW: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        # Of the whole process, in which another worker may have set it.
        torch.set_num_threads(self._threads)
        outputs = forward(self._model, self._names, tensor_of(inputs_N3HW))
        return [new_array(output) for output in outputs]


def _device(options: BackendOptions) -> torch.device:
    if options.variant != "cuda":
        return torch.device("cpu")
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


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    available = _DTYPES[device.type]
    if precision == "auto":
        return next(iter(available.values()))
    if precision not in available:
        raise SetupError(
            f"precision: PyTorch on {device.type} has no native {precision}",
            f"it has {', '.join(available)}",
        )
    return available[precision]


def _load(content: bytes) -> torch.export.ExportedProgram:
    try:
        # What is none makes its reader try an older format, and log tracebacks.
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is no program")  # noqa: TRY301
        return torch.export.load(io.BytesIO(content))
    # It raises what the parser of its archive meets first.
    except Exception as error:  # noqa: BLE001
        raise SetupError(
            f"PyTorch cannot load the model: {first_line(error)}",
            f"it must be made by PyTorch {torch.__version__} or an older one",
        ) from None


def _ports(program: torch.export.ExportedProgram) -> tuple[list[ModelPort], list[ModelPort]]:
    names = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.name in names]
    values: Any = [node.meta["val"] for node in program.graph.output_node().args[0]]
    outputs = torch.utils._pytree.tree_unflatten(values, program.call_spec.out_spec)  # noqa: SLF001
    if not isinstance(outputs, dict):
        raise SetupError("PyTorch cannot load the model: its outputs have no names")
    return (
        [_port(node.name, node.meta["val"]) for node in inputs],
        [_port(name, value) for name, value in outputs.items()],
    )


def _port(name: str, value: torch.Tensor) -> ModelPort:
    # A dimension that is not fixed is a symbol.
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return ModelPort(name, shape, str(value.dtype).removeprefix("torch."))


def _placed(
    program: torch.export.ExportedProgram, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Returns the program as a module on a device, with weights of a type, channels last.

    Raises:
        SetupError: if weights are out of the range of the type.
    """
    # Guards refuse sizes at which some layer has one row or column; convolutions take all alike.
    model: torch.nn.Module = program.module(check_guards=False)
    model.to(device, dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise SetupError(f"the model has weights out of the range of {dtype}", "set precision=f32")
    return model


def _precision(model: torch.nn.Module) -> str:
    names = {dtype: name for kind in _DTYPES.values() for name, dtype in kind.items()}
    return " and ".join(sorted({names[weights.dtype] for weights in model.parameters()}))
