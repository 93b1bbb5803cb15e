"""What every backend does, and how the outputs of a model are told apart.

Array legend: N images, K heatmaps, P PAF channels, H and W map size in cells, 8H and 8W network
input size in pixels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distributed_pose.errors import ExecutionError, SetupError
from distributed_pose.pose.skeleton import NUM_HEATMAPS, NUM_PAFS, STRIDE
from distributed_pose.records import Geometry, Simulation

_STAGE = re.compile(r"stage_(\d+)")


@dataclass(frozen=True)
class InputBatch:
    """Network inputs of one shape.

    Attributes:
        image_ids: N ids.
        geometries: N geometries; only fakes that draw their answer look at them.
        inputs_N3HW: [N, 3, 8H, 8W], C-contiguous; float32, or uint8 for a model that normalises
            by itself.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    inputs_N3HW: npt.NDArray[np.float32 | np.uint8]


class Maps(NamedTuple):
    """Last-stage output: float32 [N, 19, H, W] and [N, 38, H, W]."""

    heatmaps_NKHW: npt.NDArray[np.float32]
    pafs_NPHW: npt.NDArray[np.float32]


class Backend(Protocol):
    """A compiled model on one device.

    It is made, used and closed by one thread. `infer` returns when the result is there, so that
    timing never asks which vendor it is.
    """

    @property
    def precision(self) -> str:
        """The precision that the compiled model really computes in, such as `bf16`."""

    @property
    def description(self) -> str:
        """The device's own name, such as the processor's."""

    def infer(self, batch: InputBatch) -> Maps:
        """Returns the maps of a batch of any size and shape that the model takes."""

    def close(self) -> None:
        """Frees the device; may be called again."""


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs its model.

    Attributes:
        precision: asked for; `auto` is the backend's choice.
        threads: of the processor that it may use.
        batch_size: most images in a batch.
        index: of the device among those of its kind that the process sees; 0 where it is pinned.
        variant: what stands behind the colon of the backend's name, such as a provider.
        simulation: for simulated devices.
    """

    precision: str = "auto"
    threads: int = 1
    batch_size: int = 1
    index: int = 0
    variant: str = ""
    simulation: Simulation = field(default_factory=Simulation)


class BackendFactory(Protocol):
    """Makes a backend from an artifact by value; what the registry's strings lead to."""

    def __call__(self, content: bytes, options: BackendOptions) -> Backend:
        """Returns the backend.

        Raises:
            SetupError: if the device lacks the precision, or the model cannot run on it.
        """


@dataclass(frozen=True)
class ModelPort:
    """An input or output of a model.

    Attributes:
        name: in the model.
        shape: the dimensions that are not fixed are None.
        dtype: NumPy's name of the type that the runtime takes or gives, where it has one.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


def select_outputs(outputs: Sequence[ModelPort]) -> tuple[str, str]:
    """Returns the names of the last stage's heatmaps and PAFs.

    They are told apart by channel count, and stages by their number in the name.

    Raises:
        SetupError: if either is missing or ambiguous; lists what the model has.
    """
    return _select(outputs, NUM_HEATMAPS, "heatmaps"), _select(outputs, NUM_PAFS, "PAFs")


def check_input(inputs: Sequence[ModelPort]) -> str:
    """Returns the name of the model's image input.

    Raises:
        SetupError: if the model does not take one batch of three-channel images.
    """
    if len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[1] in {3, None}:
        return inputs[0].name
    raise SetupError(
        f"the model's inputs are {_list(inputs)}", "expected one of [batch, 3, height, width]"
    )


def check_fits(model_input: ModelPort, batch: InputBatch) -> None:
    """Checks a batch against the type and the dimensions that the model has fixed.

    Raises:
        SetupError: if they differ; says which keys to set.
    """
    found = batch.inputs_N3HW.shape
    dtype = batch.inputs_N3HW.dtype.name
    if model_input.dtype != dtype:
        raise SetupError(
            f"the model's input {model_input.name} is {model_input.dtype}, the profile's {dtype}",
            "export it with a float32 input, which every profile can feed",
        )
    fixed = model_input.shape
    if any(size is not None and size != n for size, n in zip(fixed, found, strict=True)):
        raise SetupError(
            f"the model takes {_list([model_input])} and the batch is {list(found)}",
            "export it with dynamic axes, or for batch_size=1 and the input size of the profile",
        )


def check_maps(maps: Maps, batch: InputBatch) -> Maps:
    """Returns the maps as they are, if they are a possible answer to the batch.

    Raises:
        ExecutionError: if a shape is wrong or a value is not finite.
    """
    images, _, height, width = batch.inputs_N3HW.shape
    for array, channels in ((maps.heatmaps_NKHW, NUM_HEATMAPS), (maps.pafs_NPHW, NUM_PAFS)):
        expected = (images, channels, height // STRIDE, width // STRIDE)
        if array.shape != expected:
            raise ExecutionError(
                f"the model answered {list(array.shape)} instead of {list(expected)}",
                image_ids=batch.image_ids,
            )
        # A sum meets every value in one pass, and is not finite if one of them is not.
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise ExecutionError(
                "the model's output has values that are not finite", image_ids=batch.image_ids
            )
    return maps


def _select(outputs: Sequence[ModelPort], channels: int, what: str) -> str:
    found = [o for o in outputs if len(o.shape) == 4 and o.shape[1] == channels]
    if len(found) > 1:
        stages = [_stage(output.name) for output in found]
        found = [o for o, stage in zip(found, stages, strict=True) if stage == max(stages)]
    if len(found) != 1:
        problem = "more than one output" if found else "no output"
        raise SetupError(
            f"the model has {problem} of {channels} channels for the {what}: {_list(outputs)}",
            "model.path must be a pose network of the OpenPose family",
        )
    return found[0].name


def _stage(name: str) -> int:
    match = _STAGE.search(name)
    return int(match[1]) if match else -1


def _list(ports: Sequence[ModelPort]) -> str:
    return ", ".join(
        f"{port.name} [{', '.join('?' if n is None else str(n) for n in port.shape)}]"
        for port in ports
    )
