"""Runs batches of any size on models that take only one size.

Array legend: N images, B images in a batch of the model, H and W network input size in pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def run_in_batches(
    run: Callable[[Array], Sequence[Array]], inputs_N3HW: Array, batch_size: int | None
) -> list[Array]:
    """Returns the outputs of a model that takes B images at a time, for N images.

    The first dimension of each output is N. A smaller last batch is filled with copies of its last
    image, so that the filling brings no values that the image alone would not bring. A network that
    mixes the images of a batch still answers differently for different neighbours.

    Args:
        run: function from B inputs to new output arrays, whose first dimension is B.
        inputs_N3HW: network inputs [N, 3, H, W] of at least one image.
        batch_size: number B of images; None for a model that takes any number.
    """
    if batch_size is None or len(inputs_N3HW) == batch_size:
        return list(run(inputs_N3HW))
    chunks = [
        inputs_N3HW[start : start + batch_size] for start in range(0, len(inputs_N3HW), batch_size)
    ]
    answers = [_cut(run(filled(chunk, batch_size)), len(chunk)) for chunk in chunks]
    return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]


def filled(inputs_N3HW: Array, batch_size: int) -> Array:
    """Returns inputs filled up to a batch size with copies of the last image."""
    copies = batch_size - len(inputs_N3HW)
    if not copies:
        return inputs_N3HW
    return np.concatenate([inputs_N3HW, *[inputs_N3HW[-1:]] * copies])


def _cut(outputs: Sequence[Array], count: int) -> list[Array]:
    return [output[:count] for output in outputs]
