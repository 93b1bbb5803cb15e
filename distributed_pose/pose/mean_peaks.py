"""Finds keypoint candidates in the mean of heatmaps at several scales.

The mean is evaluated only where the cells of all scales together allow a value above the threshold.
The sums are those of the reference implementation, in its order: `((0 + a / S) + b / S) + ...`.

Legend: S scales, K keypoints, H and W map size in cells, T side of a tile in pixels, M candidates.
"""

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.kernels import compiled, compiled_extremum, compiled_part
from distributed_pose.pose.peaks import (
    Candidates,
    Scratch,
    append_peaks,
    settle_candidates,
    with_neighbours,
)
from distributed_pose.pose.regions import (
    MAX_BOXES,
    NEGATIVE,
    OUTER,
    POSITIVE,
    THRESHOLD,
    add_box,
    merge_boxes,
)
from distributed_pose.pose.resample import (
    REACH,
    TAPS,
    Axis,
    Box,
    Floats,
    enlarged,
    in_tail,
    resized,
)
from distributed_pose.pose.scale_maps import ScaleAxes, ScaleMaps, axes_at, channel_at

# Side in pixels of the tiles that the image is divided into.
_TILE = 8

# A pixel is at most this many times the greatest of the cells next to it, plus `_AROUND` times the
# greatest of all its cells, minus `_BELOW` times the least of them.
_CENTER = np.float32(POSITIVE**2)
_AROUND = np.float32(2 * POSITIVE * OUTER + NEGATIVE**2)
_BELOW = np.float32(2 * POSITIVE * NEGATIVE)

# Below the threshold by more than the rounding error of a sum of bounds.
_CERTAINLY_BELOW = THRESHOLD - np.float32(1e-5)

_NONE = -1


@compiled
def find_mean_peaks(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    channels: int,
    candidates: Candidates,
    scratch: Scratch,
) -> int:
    """Finds the local maxima of the mean of each heatmap; see `peaks.find_peaks`.

    Args:
        maps: heatmaps at all scales.
        yx: resizes at all scales.
        channels: number of heatmaps, of which the last is the background.
        candidates: buffers for the candidates.
        scratch: buffers for the largest scale.

    Returns:
        The keypoint that has more than `MAX_CANDIDATES`, with which the search ends, or -1.
    """
    candidates.offsets_K[0] = 0
    end = candidates.offsets_K[0]
    for keypoint in range(channels - 1):
        start, end = end, _find_in(maps, yx, keypoint, channels, end, candidates, scratch)
        end = settle_candidates(candidates, keypoint, start, end)
        if end < 0:
            return keypoint
    return _NONE


@compiled_part
def _find_in(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    keypoint: int,
    channels: int,
    end: int,
    candidates: Candidates,
    scratch: Scratch,
) -> int:
    """Appends the peaks of a heatmap in any order, and returns the end of the candidates."""
    height, width = yx[0].gaps_Sh.shape[1], yx[1].gaps_Sh.shape[1]
    is_tail = in_tail(keypoint, channels, width)
    for number in range(_hot_tiles(maps, yx, keypoint, scratch)):
        top, bottom, left, right = scratch.boxes[number]
        box = Box(top * _TILE, min(bottom * _TILE, height), left * _TILE, min(right * _TILE, width))
        around = with_neighbours(box, axes_at(maps, yx, 0))
        mean_hw = mean_in_box(maps, yx, keypoint, around, scratch.fields, scratch, is_tail)
        end = append_peaks(mean_hw, around, box, end, candidates)
    return end


@compiled_part
def mean_in_box(
    maps: ScaleMaps,
    yx: tuple[ScaleAxes, ScaleAxes],
    channel: int,
    box: Box,
    out: Floats,
    scratch: Scratch,
    is_tail: bool,
) -> Floats:
    """Returns the mean of a channel over the scales at the pixels of a box, as a part of `out`."""
    height, width = box.bottom - box.top, box.right - box.left
    mean_hw = out[: height * width].reshape(height, width)
    scales = np.float32(len(maps.starts_S))
    for scale in range(len(maps.starts_S)):
        one = axes_at(maps, yx, scale)
        rows = one[0].taps[box.top, 0], one[0].taps[box.bottom - 1, TAPS - 1] + 1
        columns = one[1].taps[box.left, 0], one[1].taps[box.right - 1, TAPS - 1] + 1
        fine_hw = enlarged(channel_at(maps, scale, channel), rows, columns, scratch.fine)
        origin = rows[0], columns[0]
        pixels_hw = resized(fine_hw, origin, one, box, scratch.pixels, is_tail)
        for row in range(height):
            for column in range(width):
                part = pixels_hw[row, column] / scales
                mean_hw[row, column] = mean_hw[row, column] + part if scale else part
    return mean_hw


@compiled_part
def _hot_tiles(
    maps: ScaleMaps, yx: tuple[ScaleAxes, ScaleAxes], channel: int, scratch: Scratch
) -> int:
    """Writes disjoint boxes of tiles that hold all pixels whose mean can reach the threshold.

    Returns:
        The number of boxes, whose ends are exclusive; 1 with everything in it if there would be too
        many.
    """
    height, width = yx[0].gaps_Sh.shape[1], yx[1].gaps_Sh.shape[1]
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    bounds_TT = scratch.fields[: rows * columns].reshape(rows, columns)
    bounds_T = scratch.fields[rows * columns :][:rows]
    bounds_TT[:] = 0
    bounds_T[:] = 0
    for scale in range(len(maps.starts_S)):
        one = axes_at(maps, yx, scale)
        _add_row_bounds(channel_at(maps, scale, channel), one[0], bounds_T, scratch.pixels)
    least = np.float32(_CERTAINLY_BELOW * len(maps.starts_S))
    for scale in range(len(maps.starts_S)):
        one = axes_at(maps, yx, scale)
        heatmap_HW = channel_at(maps, scale, channel)
        _add_bounds(heatmap_HW, one, bounds_T >= least, bounds_TT, scratch.pixels)
    number = 0
    for row in range(rows):
        for column in range(columns):
            if bounds_TT[row, column] >= least:
                number = add_box(scratch.boxes, number, row, row + 1, column, column + 1)
                if number > MAX_BOXES:
                    scratch.boxes[0, 0], scratch.boxes[0, 1] = 0, rows
                    scratch.boxes[0, 2], scratch.boxes[0, 3] = 0, columns
                    return 1
    return merge_boxes(scratch.boxes, number)


@compiled_part
def _add_row_bounds(heatmap_HW: Floats, y_axis: Axis, bounds_T: Floats, scratch: Floats) -> None:
    """Adds an upper bound of a map in each row of tiles of the image."""
    below = _BELOW * _least(heatmap_HW)
    for row in range(len(bounds_T)):
        center_W, around_W = _greatest_near(heatmap_HW, y_axis, row, scratch)
        bounds_T[row] += _CENTER * _greatest(center_W) + _AROUND * _greatest(around_W) - below


@compiled_part
def _add_bounds(
    heatmap_HW: Floats,
    yx: tuple[Axis, Axis],
    is_hot_T: npt.NDArray[np.bool_],
    bounds_TT: Floats,
    scratch: Floats,
) -> None:
    """Adds an upper bound of a map in each tile of those rows that can reach the threshold."""
    width = heatmap_HW.shape[1]
    below = _BELOW * _least(heatmap_HW)
    for row in range(bounds_TT.shape[0]):
        if is_hot_T[row]:
            center_W, around_W = _greatest_near(heatmap_HW, yx[0], row, scratch)
            for column in range(bounds_TT.shape[1]):
                first, last = _gaps_of_tile(yx[1], column)
                center = _greatest(center_W[max(first - 1, 0) : min(last + 1, width)])
                around = _greatest(around_W[max(first - REACH, 0) : min(last + REACH, width)])
                bounds_TT[row, column] += _CENTER * center + _AROUND * around - below


@compiled_part
def _greatest_near(
    heatmap_HW: Floats, y_axis: Axis, tile: int, scratch: Floats
) -> tuple[Floats, Floats]:
    """Returns the greatest cells per column for a row of tiles: next to its pixels, and of all."""
    height, width = heatmap_HW.shape
    center_W, around_W = scratch[:width], scratch[width : 2 * width]
    first, last = _gaps_of_tile(y_axis, tile)
    _greatest_of_rows(heatmap_HW, max(first - 1, 0), min(last + 1, height), center_W)
    _greatest_of_rows(heatmap_HW, max(first - REACH, 0), min(last + REACH, height), around_W)
    return center_W, around_W


@compiled_part
def _gaps_of_tile(axis: Axis, tile: int) -> tuple[int, int]:
    """Returns the first and the last gap between cells that the pixels of a tile lie in."""
    last = min((tile + 1) * _TILE, len(axis.gaps)) - 1
    return axis.gaps[tile * _TILE], axis.gaps[last]


@compiled_extremum
def _greatest_of_rows(values_HW: Floats, start: int, end: int, out_W: Floats) -> None:
    """Writes the greatest value of each column in a range of rows, at least 0."""
    out_W[:] = 0
    for row in range(start, end):
        for column in range(values_HW.shape[1]):
            out_W[column] = max(out_W[column], values_HW[row, column])


@compiled_extremum
def _greatest(values: Floats) -> np.float32:
    greatest = np.float32(0)
    for index in range(len(values)):
        greatest = max(greatest, values[index])
    return greatest


@compiled_extremum
def _least(values_HW: Floats) -> np.float32:
    """Returns the least value of a map, at most 0."""
    least = np.float32(0)
    for row in range(values_HW.shape[0]):
        for column in range(values_HW.shape[1]):
            least = min(least, values_HW[row, column])
    return least
