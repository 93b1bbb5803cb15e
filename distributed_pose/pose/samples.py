"""Evaluates part affinity fields at the sample points of a limb.

The samples of a pair go through both resizes side by side, one per lane, so that the processor
computes several at once. Legend: S = 2 x `NUM_SAMPLES` lanes, the samples of the x field and those
of the y field; 5 rows or columns of cells that the 4 taps of a pixel are made of.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part, inlined
from distributed_pose.pose.resample import (
    ENLARGE,
    REACH,
    TAPS,
    Axis,
    Floats,
    Ints,
    gap_and_phase,
)

NUM_SAMPLES = 10

_LANES = 2 * NUM_SAMPLES
# Four neighbouring fine positions lie in at most two gaps, which are made of five cells.
_CELLS = TAPS + 1


class Samples(NamedTuple):
    """The samples of one pair.

    Attributes:
        x_px: int64 [10], columns of the image.
        y_px: int64 [10], rows.
        values: float32 [S], values of both fields at the samples.
        cells_55S: float32, rows by columns of cells around each sample.
        enlarge_y_45S: float32, weight of each row of cells for each tap, 0 for unused rows.
        enlarge_x_45S: float32, weight of each column of cells for each tap, 0 for unused columns.
        resize_y_4S: float32, weights of the taps along y.
        resize_x_4S: float32, weights of the taps along x.
        along_x_54S: float32, rows of cells at fine columns.
        fine_4S: float32, one fine row.
        leftovers: float32 [S], `values` as OpenCV computes them in the last column.
    """

    x_px: Ints
    y_px: Ints
    values: Floats
    cells_55S: Floats
    enlarge_y_45S: Floats
    enlarge_x_45S: Floats
    resize_y_4S: Floats
    resize_x_4S: Floats
    along_x_54S: Floats
    fine_4S: Floats
    leftovers: Floats


def new_samples() -> Samples:
    """Returns buffers for the samples of a pair."""
    shapes = (
        (),
        (_CELLS, _CELLS),
        (TAPS, _CELLS),
        (TAPS, _CELLS),
        (TAPS,),
        (TAPS,),
        (_CELLS, TAPS),
        (TAPS,),
        (),
    )
    x_px, y_px = np.zeros(NUM_SAMPLES, np.int64), np.zeros(NUM_SAMPLES, np.int64)
    return Samples(x_px, y_px, *(np.zeros((*shape, _LANES), np.float32) for shape in shapes))


@compiled
def take_samples(
    fields: tuple[Floats, Floats],
    yx: tuple[Axis, Axis],
    samples: Samples,
    is_tail: tuple[bool, bool],
) -> None:
    """Writes the values of both fields at the samples' pixels, exactly as the two resizes do.

    Args:
        fields: float32 [H, W] each, the x and the y component.
        yx: axes of the image.
        samples: buffers in which `x_px` and `y_px` are set; `values` is written.
        is_tail: per field, whether the last column is one of OpenCV's leftovers; see
            `resample.in_tail`.
    """
    for index in range(NUM_SAMPLES):
        _gather(fields, yx, samples, index)
    _enlarge_along_x(samples)
    for tap in range(TAPS - 1, -1, -1):
        _fine_row(samples, tap)
        _add_row(samples, samples.values, tap, tap == TAPS - 1)
    if is_tail[0] or is_tail[1]:
        _redo_last_column(samples, len(yx[1].taps) - 1, is_tail)


@compiled_part
def _redo_last_column(samples: Samples, last: int, is_tail: tuple[bool, bool]) -> None:
    for tap in range(TAPS):
        _fine_row(samples, tap)
        _add_row(samples, samples.leftovers, tap, tap == 0)
    for lane in range(_LANES):
        if is_tail[lane // NUM_SAMPLES] and samples.x_px[lane % NUM_SAMPLES] == last:
            samples.values[lane] = samples.leftovers[lane]


@inlined
def _gather(
    fields: tuple[Floats, Floats], yx: tuple[Axis, Axis], samples: Samples, index: int
) -> None:
    y, x = samples.y_px[index], samples.x_px[index]
    top = _weights(yx[0], y, samples.enlarge_y_45S, samples.resize_y_4S, index)
    left = _weights(yx[1], x, samples.enlarge_x_45S, samples.resize_x_4S, index)
    last_row, last_column = fields[0].shape[0] - 1, fields[0].shape[1] - 1
    for row in range(_CELLS):
        cell_row = min(max(top + row, 0), last_row)
        for column in range(_CELLS):
            cell_column = min(max(left + column, 0), last_column)
            samples.cells_55S[row, column, index] = fields[0][cell_row, cell_column]
            samples.cells_55S[row, column, NUM_SAMPLES + index] = fields[1][cell_row, cell_column]


@inlined
def _weights(axis: Axis, position: int, enlarge_45S: Floats, resize_4S: Floats, index: int) -> int:
    """Writes the weights of a pixel along one axis for both fields; returns the first cell."""
    first, _ = gap_and_phase(axis.taps[position, 0])
    for tap in range(TAPS):
        gap, phase = gap_and_phase(axis.taps[position, tap])
        for cell in range(_CELLS):
            used = cell - (gap - first)
            weight = ENLARGE[phase, used] if 0 <= used < TAPS else np.float32(0)
            enlarge_45S[tap, cell, index] = enlarge_45S[tap, cell, NUM_SAMPLES + index] = weight
        weight = axis.weights[position, tap]
        resize_4S[tap, index] = resize_4S[tap, NUM_SAMPLES + index] = weight
    return first - 2


@inlined
def _enlarge_along_x(samples: Samples) -> None:
    cells, weights, out = samples.cells_55S, samples.enlarge_x_45S, samples.along_x_54S
    for row in range(_CELLS):
        for tap in range(TAPS):
            for lane in range(_LANES):
                out[row, tap, lane] = (
                    cells[row, 0, lane] * weights[tap, 0, lane]
                    + cells[row, 1, lane] * weights[tap, 1, lane]
                    + cells[row, 2, lane] * weights[tap, 2, lane]
                    + cells[row, 3, lane] * weights[tap, 3, lane]
                    + cells[row, 4, lane] * weights[tap, 4, lane]
                )


@inlined
def _fine_row(samples: Samples, tap: int) -> None:
    rows, weights, out = samples.along_x_54S, samples.enlarge_y_45S, samples.fine_4S
    for column in range(TAPS):
        for lane in range(_LANES):
            out[column, lane] = (
                rows[4, column, lane] * weights[tap, 4, lane]
                + rows[3, column, lane] * weights[tap, 3, lane]
                + rows[2, column, lane] * weights[tap, 2, lane]
                + rows[1, column, lane] * weights[tap, 1, lane]
                + rows[0, column, lane] * weights[tap, 0, lane]
            )


@inlined
def _add_row(samples: Samples, values: Floats, tap: int, is_first: bool) -> None:
    fine, weights = samples.fine_4S, samples.resize_x_4S
    for lane in range(_LANES):
        row = (
            fine[0, lane] * weights[0, lane]
            + fine[1, lane] * weights[1, lane]
            + fine[2, lane] * weights[2, lane]
            + fine[3, lane] * weights[3, lane]
        ) * samples.resize_y_4S[tap, lane]
        values[lane] = row if is_first else values[lane] + row


@inlined
def estimate(map_HW: Floats, yx: tuple[Axis, Axis], y: int, x: int) -> np.float32:
    """Returns the value of a map at one pixel up to rounding, at a fraction of the exact cost."""
    y_axis, x_axis = yx
    height, width = map_HW.shape
    top, left = y_axis.gaps[y] - REACH, x_axis.gaps[x] - REACH
    value = np.float32(0)
    if top >= 0 and left >= 0 and top + 2 * REACH <= height and left + 2 * REACH <= width:
        for row in range(2 * REACH):
            along_x = np.float32(0)
            for column in range(2 * REACH):
                along_x += map_HW[top + row, left + column] * x_axis.blend[x, column]
            value += along_x * y_axis.blend[y, row]
        return value
    for row in range(2 * REACH):
        cell_row = min(max(top + row, 0), height - 1)
        for column in range(2 * REACH):
            cell_column = min(max(left + column, 0), width - 1)
            weight = x_axis.blend[x, column] * y_axis.blend[y, row]
            value += map_HW[cell_row, cell_column] * weight
    return value
