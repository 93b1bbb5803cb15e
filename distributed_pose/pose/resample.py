"""Resamples network maps to image resolution, evaluated only where it is needed.

The reference enlarges maps by the stride, crops the padding and resizes to the image, both cubic.
Both steps are linear and separable, and OpenCV computes them in float32: along x from the first tap
to the last, then along y from the last to the first (but see `in_tail`). The same sums in the same
order give the same bits, so all comparisons have the same outcome as in the reference. (Builds of
OpenCV for ARM fuse multiplication and addition, so the last bit can differ there.)

Legend: H and W map size in cells, h and w image size in pixels, *fine* the enlarged map, whose step
is an input pixel. Fine position f lies between the cells `(f + 4) // 8 - 1` and the next: their gap
is number `(f + 4) // 8`, so that gap 0 lies before the first cell.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.kernels import compiled, compiled_part
from distributed_pose.records.images import STRIDE, Geometry

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TAPS = 4

# OpenCV's cubic convolution parameter.
_A = np.float32(-0.75)

# A dataset has some thousand image sizes, and a table takes 88 bytes per pixel of an axis. Tables
# of long axes are not cached, because a thousand of them would take a hundred gigabytes.
_CACHED_AXES = 1024
_LONGEST_CACHED = 8192


class Axis(NamedTuple):
    """Both resizes along one axis.

    Attributes:
        cells: number of cells of the map.
        taps: int64 [size, 4], fine positions that each pixel is made of, within the crop.
        weights: float32 [size, 4], weight of each tap.
        starts: int64 [cells + 2], per gap the first pixel whose second tap is in it or beyond it.
        gaps: int64 [size], gap of the second tap of each pixel.
        blend: float32 [size, 6], weights of the cells around that gap, both resizes combined.
    """

    cells: int
    taps: Ints
    weights: Floats
    starts: Ints
    gaps: Ints
    blend: Floats


class Box(NamedTuple):
    """Pixels of an image: rows and columns, ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int


def axes(geometry: Geometry, map_hw: tuple[int, int]) -> tuple[Axis, Axis]:
    """Returns the resizes of an image's maps along y and along x."""
    return (
        _axis(map_hw[0], geometry.pad_top, geometry.pad_bottom, geometry.image_height),
        _axis(map_hw[1], geometry.pad_left, geometry.pad_right, geometry.image_width),
    )


def _axis(cells: int, pad_before: int, pad_after: int, size: int) -> Axis:
    make = _cached_axis if size <= _LONGEST_CACHED else _cached_axis.__wrapped__
    return make(cells, pad_before, pad_after, size)


@lru_cache(_CACHED_AXES)
def _cached_axis(cells: int, pad_before: int, pad_after: int, size: int) -> Axis:
    cropped = cells * STRIDE - pad_before - pad_after
    # OpenCV inverts the scale twice, and computes the position as float32.
    scale = 1 / (size / cropped)
    position = ((np.arange(size) + 0.5) * scale - 0.5).astype(np.float32)
    nearest = np.floor(position)
    taps = nearest.astype(np.int64)[:, None] + np.arange(-1, TAPS - 1)
    taps = np.clip(taps, 0, cropped - 1) + pad_before
    weights = _cubic(position - nearest)
    gaps = (taps + STRIDE // 2) // STRIDE
    starts = np.searchsorted(gaps[:, 1], np.arange(cells + 2))
    blend = np.zeros((size, 2 * REACH), np.float32)
    pixels = np.arange(size)
    for tap, cell in np.ndindex(TAPS, TAPS):
        column = gaps[:, tap] - gaps[:, 1] + 1 + cell
        blend[pixels, column] += (
            weights[:, tap] * ENLARGE[(taps[:, tap] + STRIDE // 2) % STRIDE, cell]
        )
    return Axis(cells, taps, weights, starts, gaps[:, 1].copy(), blend)


def _cubic(fraction: Floats) -> Floats:
    """Returns float32 [..., 4]: weights of the cubic convolution, in OpenCV's arithmetic."""
    one, x, y = np.float32(1), fraction, np.float32(1) - fraction
    before = ((_A * (x + one) - 5 * _A) * (x + one) + 8 * _A) * (x + one) - 4 * _A
    left = ((_A + 2) * x - (_A + 3)) * x * x + one
    right = ((_A + 2) * y - (_A + 3)) * y * y + one
    return np.stack((before, left, right, one - before - left - right), axis=-1)


# Weights of the enlargement by position within a gap; its fractions are exact.
ENLARGE = _cubic(((np.arange(STRIDE) + 0.5) / STRIDE).astype(np.float32))

# A pixel between cells i and i + 1 is made of cells i - REACH + 1 to i + REACH.
REACH = 3


@compiled
def gap_and_phase(position: int) -> tuple[int, int]:
    """Returns the gap that a fine position lies in, and which of its eight positions it is."""
    return (position + STRIDE // 2) >> 3, (position + STRIDE // 2) & 7


@compiled
def enlarged(
    map_HW: Floats, rows: tuple[int, int], columns: tuple[int, int], scratch: Floats
) -> Floats:
    """Returns fine positions `rows` by `columns` of a map, ends exclusive, as a part of `scratch`.

    Args:
        map_HW: float32 [H, W].
        rows: first fine row, and the end.
        columns: first fine column, and the end.
        scratch: float32, flat; holds the result and one row of it per row of cells that it needs.
    """
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    first_cell = max(0, (rows[0] + 4) // STRIDE - 2)
    last_cell = min(map_HW.shape[0] - 1, (rows[1] + 3) // STRIDE + 1)
    fine_hw = scratch[: height * width].reshape(height, width)
    along_x = scratch[height * width :][: (last_cell - first_cell + 1) * width]
    along_x = along_x.reshape(last_cell - first_cell + 1, width)
    last_column = map_HW.shape[1] - 1
    for column in range(width):
        gap, phase = gap_and_phase(columns[0] + column)
        w0, w1, w2, w3 = ENLARGE[phase]
        c0, c1 = min(max(gap - 2, 0), last_column), min(max(gap - 1, 0), last_column)
        c2, c3 = min(gap, last_column), min(gap + 1, last_column)
        for row in range(first_cell, last_cell + 1):
            cells = map_HW[row]
            along_x[row - first_cell, column] = (
                cells[c0] * w0 + cells[c1] * w1 + cells[c2] * w2 + cells[c3] * w3
            )
    last_row = map_HW.shape[0] - 1
    for row in range(height):
        gap, phase = gap_and_phase(rows[0] + row)
        w0, w1, w2, w3 = ENLARGE[phase]
        r0 = along_x[min(max(gap - 2, 0), last_row) - first_cell]
        r1 = along_x[min(max(gap - 1, 0), last_row) - first_cell]
        r2 = along_x[min(gap, last_row) - first_cell]
        r3 = along_x[min(gap + 1, last_row) - first_cell]
        out = fine_hw[row]
        for column in range(width):
            out[column] = r3[column] * w3 + r2[column] * w2 + r1[column] * w1 + r0[column] * w0
    return fine_hw


@compiled
def resized(
    fine_hw: Floats,
    origin: tuple[int, int],
    yx: tuple[Axis, Axis],
    box: Box,
    scratch: Floats,
    is_tail: bool,
) -> Floats:
    """Returns the pixels of a box, float32, as a part of `scratch`.

    Args:
        fine_hw: enlarged map that covers the box.
        origin: fine row and column of the first value of `fine_hw`.
        yx: axes of the image.
        box: pixels to compute.
        scratch: float32, flat; holds the result and one row of it per row of `fine_hw`.
        is_tail: whether OpenCV computes the image's last column in its loop for leftovers; see
            `in_tail`.
    """
    y_axis, x_axis = yx
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    first = y_axis.taps[top, 0]
    rows = y_axis.taps[bottom - 1, TAPS - 1] - first + 1
    pixels_hw = scratch[: height * width].reshape(height, width)
    along_x = scratch[height * width :][: rows * width].reshape(rows, width)
    used = fine_hw[first - origin[0] :]
    for column in range(width):
        w0, w1, w2, w3 = x_axis.weights[left + column]
        c0, c1, c2, c3 = x_axis.taps[left + column]
        c0, c1, c2, c3 = c0 - origin[1], c1 - origin[1], c2 - origin[1], c3 - origin[1]
        for row in range(rows):
            along_x[row, column] = (
                used[row, c0] * w0 + used[row, c1] * w1 + used[row, c2] * w2 + used[row, c3] * w3
            )
    for row in range(height):
        w0, w1, w2, w3 = y_axis.weights[top + row]
        t0, t1, t2, t3 = y_axis.taps[top + row]
        r0, r1 = along_x[t0 - first], along_x[t1 - first]
        r2, r3 = along_x[t2 - first], along_x[t3 - first]
        out = pixels_hw[row]
        for column in range(width):
            out[column] = r3[column] * w3 + r2[column] * w2 + r1[column] * w1 + r0[column] * w0
    if is_tail and right == len(x_axis.taps):
        _redo_last_column(pixels_hw, along_x, y_axis, top, first)
    return pixels_hw


@compiled_part
def _redo_last_column(
    pixels_hw: Floats, along_x: Floats, y_axis: Axis, top: int, first: int
) -> None:
    height, width = pixels_hw.shape
    for row in range(height):
        value = np.float32(0)
        for tap in range(TAPS):
            term = along_x[y_axis.taps[top + row, tap] - first, width - 1]
            term *= y_axis.weights[top + row, tap]
            value = value + term if tap else term
        pixels_hw[row, width - 1] = value


@compiled
def in_tail(channel: int, channels: int, width: int) -> bool:
    """Returns whether OpenCV computes a channel of the last column in its loop for leftovers.

    The vector code computes four values of an image row at once, channels innermost. The loop for
    the remaining values sums from the first tap to the last along y as well.
    """
    return channels - channel <= channels * width % 4
