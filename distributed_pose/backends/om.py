"""The inputs and outputs of an `.om` (a model compiled for Ascend), for any runtime.

Array legend: N images, H and W network input size in pixels, 3 the channels blue, green, red.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from distributed_pose.backends.base import InputBatch
from distributed_pose.backends.ports import batch_dtype, check_fits, check_input, select_outputs
from distributed_pose.errors import SetupError
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.records.models import ModelPort


class Chunk(NamedTuple):
    """Images `start` to `stop` of a batch, run as a batch of `size` that is filled with zeros."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class OmInput:
    """The image input of an `.om`, which has one image size and one or a few batch sizes.

    Attributes:
        port: input with shape [None, 3, H, W], also if the layout in memory is [N, H, W, 3].
        channels_last: whether the layout in memory is [N, H, W, 3], as with AIPP.
        batch_sizes: batch sizes that the model was compiled for, ascending.
    """

    port: ModelPort
    channels_last: bool
    batch_sizes: tuple[int, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an image in the layout of the model's memory."""
        channels, height, width = (n for n in self.port.shape if n)
        return (height, width, channels) if self.channels_last else (channels, height, width)

    def check(self, batch: InputBatch, limit: int) -> None:
        """Checks that the model takes a batch.

        Args:
            batch: batch to run.
            limit: largest number of images that the backend was opened for.

        Raises:
            SetupError: if the model does not take it.
        """
        if len(batch.inputs_N3HW) > limit:
            raise SetupError(
                f"the batch has {len(batch.inputs_N3HW)} images and the backend is for {limit}",
                "raise batch_size",
            )
        try:
            check_fits(self.port, batch)
        except SetupError as error:
            raise SetupError(error.message, self._hint(batch)) from None

    def chunks(self, images: int) -> list[Chunk]:
        """Splits a batch into chunks of the largest size; the last has the smallest that fits."""
        largest = self.batch_sizes[-1]
        starts = range(0, images, largest)
        parts = [(start, min(start + largest, images)) for start in starts]
        return [Chunk(start, stop, self._least(stop - start)) for start, stop in parts]

    def pack(self, images_N3HW: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """Writes images in the layout of the model's memory, followed by zeros.

        The zeros make an answer independent of earlier batches.

        Args:
            images_N3HW: images to write, float32 or uint8.
            out: memory of the model's input for at least N images, of the model's type.
        """
        count = len(images_N3HW)
        if self.channels_last and out.dtype == images_N3HW.dtype:
            for image_3HW, image_HW3 in zip(images_N3HW, out, strict=False):
                # OpenCV's merge is 20 times as fast as NumPy's copy of a transposed array.
                cv2.merge(list(image_3HW), image_HW3)
        else:
            # The assignment converts float32 to the model's type, such as float16.
            channels_last = images_N3HW.transpose(0, 2, 3, 1)
            out[:count] = channels_last if self.channels_last else images_N3HW
        out[count:] = 0

    def _least(self, images: int) -> int:
        return next(size for size in self.batch_sizes if size >= images)

    def _hint(self, batch: InputBatch) -> str:
        if batch.inputs_N3HW.dtype.name != batch_dtype(self.port.dtype):
            return "an .om has one type of input: compile it for the profile of the run"
        return (
            "an .om has one size of input: compile it for that, and set profile=modelzoo or uint8"
        )


def image_input(inputs: Sequence[ModelPort], batch_sizes: Iterable[int] = ()) -> OmInput:
    """Returns the image input of a model.

    Args:
        inputs: inputs that the runtime reports, without the input for the size of a dynamic batch.
        batch_sizes: sizes of a dynamic batch; empty for a static model.

    Raises:
        SetupError: if the model has another input, or one whose dimensions are not fixed.
    """
    ports = [_channels_first(port) for port in inputs]
    check_input(ports)
    batch, *image = ports[0].shape
    sizes = tuple(sorted(batch_sizes)) or (batch,)
    if None in sizes or None in image:
        raise SetupError(
            f"the .om's input {inputs[0].name} has dimensions that are not fixed: "
            f"{[-1 if n is None else n for n in inputs[0].shape]}",
            "compile it for one size of images, with --dynamic_batch_size for several batches",
        )
    port = ModelPort(ports[0].name, (None, *image), ports[0].dtype)
    return OmInput(port, ports[0] != inputs[0], tuple(n for n in sizes if n))


def om_port(name: str, dims: Iterable[int], dtype: str) -> ModelPort:
    """Returns an input or output as a port.

    Args:
        name: name that the runtime reports. The compiler names an output `node:index:name`, whose
            last part is the name in the ONNX model.
        dims: dimensions; negative for those that are not fixed.
        dtype: name of the type, such as `float32`.
    """
    return ModelPort(
        name.split(":", 2)[-1] if name.count(":") > 1 else name,
        tuple(n if n >= 0 else None for n in dims),
        dtype,
    )


def map_outputs(outputs: Sequence[ModelPort], keypoints: KeypointSet) -> tuple[int, int]:
    """Returns the indices of the last stage's heatmaps and PAFs.

    Args:
        outputs: outputs of the model.
        keypoints: keypoint set of the model.

    Raises:
        SetupError: if either is missing or ambiguous, or its size is not fixed.
    """
    names = [output.name for output in outputs]
    heatmaps, pafs = (names.index(name) for name in select_outputs(outputs, keypoints))
    for index in (heatmaps, pafs):
        if None in outputs[index].shape[1:]:
            raise SetupError(
                f"the .om's output {names[index]} has no fixed size",
                "compile it for one size of images",
            )
    return heatmaps, pafs


def empty_maps(images: int, outputs: Iterable[ModelPort]) -> list[npt.NDArray[Any]]:
    """Returns one uninitialised array for a number of images per output.

    An array is float16 if its output is, and float32 otherwise.
    """
    return [
        np.empty(
            (images, *(n for n in output.shape[1:] if n)),
            np.float16 if output.dtype == "float16" else np.float32,
        )
        for output in outputs
    ]


def _channels_first(given: ModelPort) -> ModelPort:
    # The dimensions show the layout, so that the format that the runtime reports is not needed.
    if len(given.shape) == 4 and given.shape[1] != 3 and given.shape[3] == 3:
        batch, height, width, channels = given.shape
        return ModelPort(given.name, (batch, channels, height, width), given.dtype)
    return given
