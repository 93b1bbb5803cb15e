"""Batches of any size through models that take one size only.

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
    """Returns the outputs for N images of a model that takes B at a time, N first in each.

    A last batch with fewer images is filled with copies of its last one: what fills it is then
    nothing that an image alone would not see, and a network that mixes the images of a batch still
    answers otherwise for other neighbours.

    Args:
        run: returns new arrays, the first dimension B.
        inputs_N3HW: one image or more.
        batch_size: B; None for a model that takes any number.
    """
    if batch_size is None or len(inputs_N3HW) == batch_size:
        return list(run(inputs_N3HW))
    chunks = [
        inputs_N3HW[start : start + batch_size] for start in range(0, len(inputs_N3HW), batch_size)
    ]
    answers = [_cut(run(_filled(chunk, batch_size)), len(chunk)) for chunk in chunks]
    return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]


def _filled(inputs_N3HW: Array, batch_size: int) -> Array:
    copies = batch_size - len(inputs_N3HW)
    return np.concatenate([inputs_N3HW, *[inputs_N3HW[-1:]] * copies])


def _cut(outputs: Sequence[Array], count: int) -> list[Array]:
    return [output[:count] for output in outputs]
