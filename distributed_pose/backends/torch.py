"""Runs PyTorch programs on the CPU, and loads them on any device.

Array legend: N images, H and W network input size in pixels.
"""

import io
import zipfile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from distributed_pose.backends.base import (
    BackendOptions,
    InputBatch,
    NetworkOutput,
    SynchronousBackend,
)
from distributed_pose.backends.ports import check_fits, check_input, select_outputs
from distributed_pose.devices.host import cpu_name
from distributed_pose.errors import ExecutionError, SetupError, first_line
from distributed_pose.records.models import ModelPort

_CPU = torch.device("cpu")
_DTYPES = {"f32": torch.float32}


class LoadedModel(NamedTuple):
    """A program loaded on its device.

    Attributes:
        module: module with weights of one type, in channels-last layout.
        input: input of the model.
        outputs: names of the last stage's heatmaps and PAFs.
        precision: precision of the weights, in which the model computes.
    """

    module: torch.nn.Module
    input: ModelPort
    outputs: tuple[str, str]
    precision: str

    def __call__(self, inputs_N3HW: torch.Tensor) -> list[torch.Tensor]:
        """Returns contiguous heatmaps and PAFs of the weights' type, on the model's device.

        Args:
            inputs_N3HW: network inputs [N, 3, H, W] on the model's device; float32, or uint8 for a
                model that takes bytes.
        """
        if inputs_N3HW.is_floating_point():
            inputs_N3HW = inputs_N3HW.to(next(self.module.parameters()).dtype)
        outputs = self.module(inputs_N3HW.contiguous(memory_format=torch.channels_last))
        return [outputs[name].contiguous() for name in self.outputs]


class TorchBackend(SynchronousBackend):
    """A program of `torch.export` that runs on the CPU."""

    def __init__(self, content: bytes, options: BackendOptions) -> None:
        super().__init__()
        self._model: LoadedModel | None = load_model(content, options, _CPU, _DTYPES)
        self._threads = options.threads
        self.precision = self._model.precision
        self.description = cpu_name()

    def run(self, batch: InputBatch) -> NetworkOutput:
        if self._model is None:
            raise SetupError("the backend is closed")
        check_fits(self._model.input, batch)
        # Set for each batch: the number belongs to the process, in which another worker may set it.
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                # The copy avoids PyTorch's warning about read-only arrays, as in the object store.
                outputs = self._model(torch.from_numpy(batch.inputs_N3HW.copy()))
        except Exception as error:  # noqa: BLE001
            raise ExecutionError(
                f"PyTorch cannot run the model: {first_line(error)}", image_ids=batch.image_ids
            ) from None
        return NetworkOutput(*map(_new_array, outputs))

    def close(self) -> None:
        self._model = None


def load_model(
    content: bytes, options: BackendOptions, device: torch.device, dtypes: dict[str, torch.dtype]
) -> LoadedModel:
    """Returns a `torch.export` program, as made by `model.torch_program`, loaded on a device.

    Loading trusts the program, because the format can contain pickles. The program is never the
    user's file: it is made from a checkpoint from which only tensors are read.

    Args:
        content: bytes of the program.
        options: options of the backend. The precision `auto` is the first in `dtypes`.
        device: device to run on.
        dtypes: types of the weights by the precisions that the device supports, fastest first.

    Raises:
        SetupError: if the device lacks the precision, the content is not such a program, or its
            weights are out of the range of the type.
    """
    dtype = _dtype(options.precision, device, dtypes)
    program = _load(content)
    inputs, outputs = _ports(program)
    names = select_outputs(outputs, options.keypoints)
    check_input(inputs)
    module = _placed(program, device, dtype)
    return LoadedModel(module, inputs[0], names, _precision(module, dtypes))


def _new_array(output: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.array(output.numpy(), np.float32, order="C")


def _dtype(precision: str, device: torch.device, available: dict[str, torch.dtype]) -> torch.dtype:
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
        # For other content, PyTorch's reader would try an older format and log tracebacks.
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is not a program")  # noqa: TRY301
        return torch.export.load(io.BytesIO(content))
    # The reader raises exceptions of many types, depending on where the archive is broken.
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
    # A dimension that is not fixed is a symbol and not an integer.
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return ModelPort(name, shape, str(value.dtype).removeprefix("torch."))


def _placed(
    program: torch.export.ExportedProgram, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Returns the program as a channels-last module on a device, with weights of a type.

    Raises:
        SetupError: if weights are out of the range of the type.
    """
    # Guards refuse sizes at which some layer has one row or column, which convolutions do take.
    model: torch.nn.Module = program.module(check_guards=False)
    model.to(device, dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise SetupError(f"the model has weights out of the range of {dtype}", "set precision=f32")
    return model


def _precision(model: torch.nn.Module, dtypes: dict[str, torch.dtype]) -> str:
    names = {dtype: name for name, dtype in dtypes.items()}
    return " and ".join(sorted({names[weights.dtype] for weights in model.parameters()}))
