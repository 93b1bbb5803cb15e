"""Finds keypoint candidates in heatmaps.

Only the parts of the image are evaluated where the cells of a heatmap allow a value above the
threshold. Legend: K keypoints, H and W map size in cells, h and w size of a box in pixels, M
candidates of all keypoints.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part
from distributed_pose.pose.limits import MAX_CANDIDATES
from distributed_pose.pose.regions import THRESHOLD, hot_boxes, shrunk, trimmed
from distributed_pose.pose.resample import (
    TAPS,
    Axis,
    Box,
    Floats,
    Ints,
    enlarged,
    in_tail,
    resized,
)

SUPPRESSION_RADIUS_PX = 6

# A peak suppresses others among the pixels below and to the right of it that are nearer than the
# radius. If the peaks of a heatmap exceed this number, more than `MAX_CANDIDATES` of them are left.
MAX_PEAKS = MAX_CANDIDATES * (1 + 54)

_NONE = -1

# Strides of Shell's sort, after Ciura; the last one alone is the insertion sort.
_SORT_STRIDES = np.array([27347, 10939, 4376, 1750, 701, 301, 132, 57, 23, 10, 4, 1])


class Candidates(NamedTuple):
    """Candidates of all keypoints, in buffers as `new_candidates` makes them.

    The candidates of keypoint k are at `offsets_K[k]` to `offsets_K[k + 1]`, sorted by x, then y.

    Attributes:
        x_M: int64 [M], column of each candidate in whole image pixels.
        y_M: int64 [M], row of each candidate in whole image pixels.
        scores_M: float32 [M], heatmap value at each candidate.
        offsets_K: int64 [K + 1], first candidate of each keypoint, and the end of the last one.
    """

    x_M: Ints
    y_M: Ints
    scores_M: Floats
    offsets_K: Ints


def new_candidates(num_keypoints: int) -> Candidates:
    """Returns buffers for the candidates of all keypoints and the peaks of the last one."""
    room = num_keypoints * MAX_CANDIDATES + MAX_PEAKS
    return Candidates(
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.float32),
        np.zeros(num_keypoints + 1, np.int64),
    )


class Scratch(NamedTuple):
    """Buffers for evaluating maps in parts of an image.

    Attributes:
        fine: float32, scratch of `resample.enlarged`.
        pixels: float32, scratch of `resample.resized` and `regions.shrunk`.
        fields: float32, both fields of one kind of limb at all pixels.
        boxes: int64 [number, 4], boxes of gaps between cells: top, bottom, left, right, inclusive.
    """

    fine: Floats
    pixels: Floats
    fields: Floats
    boxes: Ints


@compiled
def find_peaks(
    heatmaps_KHW: Floats, yx: tuple[Axis, Axis], candidates: Candidates, scratch: Scratch
) -> int:
    """Finds the local maxima of each heatmap at image resolution.

    A peak is at least `THRESHOLD` and strictly greater than its four neighbours, where values
    below the threshold or outside the image count as 0. Of two peaks nearer than
    `SUPPRESSION_RADIUS_PX` the one further right is dropped, whatever the scores.

    Returns:
        The keypoint that has more than `MAX_CANDIDATES`, with which the search ends, or -1.
    """
    candidates.offsets_K[0] = 0
    end = candidates.offsets_K[0]
    for keypoint in range(len(candidates.offsets_K) - 1):
        is_tail = in_tail(keypoint, len(heatmaps_KHW), len(yx[1].taps))
        start, end = end, _find_in(heatmaps_KHW[keypoint], yx, end, candidates, scratch, is_tail)
        end = settle_candidates(candidates, keypoint, start, end)
        if end < 0:
            return keypoint
    return _NONE


@compiled_part
def settle_candidates(candidates: Candidates, keypoint: int, start: int, end: int) -> int:
    """Sorts the peaks of a keypoint and drops those that are too near to an earlier one.

    Returns:
        The end of the candidates; -1 if there are more than `MAX_CANDIDATES`.
    """
    if end - start > MAX_PEAKS:
        return _NONE
    _sort(candidates, start, end)
    end = _suppress(candidates, start, end)
    if end - start > MAX_CANDIDATES:
        return _NONE
    candidates.offsets_K[keypoint + 1] = end
    return end


@compiled_part
def _find_in(
    heatmap_HW: Floats,
    yx: tuple[Axis, Axis],
    end: int,
    candidates: Candidates,
    scratch: Scratch,
    is_tail: bool,
) -> int:
    """Appends the peaks of a heatmap in any order, and returns the end of the candidates."""
    for number in range(hot_boxes(heatmap_HW, scratch.boxes, scratch.fine)):
        box = trimmed(heatmap_HW, scratch.boxes[number], scratch.fine)
        y0, y1, x0, x1 = box
        y_axis, x_axis = yx
        box = Box(
            y_axis.starts[y0], y_axis.starts[y1 + 1], x_axis.starts[x0], x_axis.starts[x1 + 1]
        )
        if box.top < box.bottom and box.left < box.right:
            end = _find_in_box(heatmap_HW, yx, box, end, candidates, scratch, is_tail)
    return end


@compiled_part
def _find_in_box(
    heatmap_HW: Floats,
    yx: tuple[Axis, Axis],
    box: Box,
    end: int,
    candidates: Candidates,
    scratch: Scratch,
    is_tail: bool,
) -> int:
    y_axis, x_axis = yx
    around = with_neighbours(box, yx)
    rows = y_axis.taps[around.top, 0], y_axis.taps[around.bottom - 1, TAPS - 1] + 1
    columns = x_axis.taps[around.left, 0], x_axis.taps[around.right - 1, TAPS - 1] + 1
    origin = rows[0], columns[0]
    fine_hw = enlarged(heatmap_HW, rows, columns, scratch.fine)
    box = shrunk(fine_hw, origin, yx, box, scratch.pixels)
    if box.top >= box.bottom or box.left >= box.right:
        return end
    around = with_neighbours(box, yx)
    pixels_hw = resized(fine_hw, origin, yx, around, scratch.pixels, is_tail)
    return append_peaks(pixels_hw, around, box, end, candidates)


@compiled_part
def append_peaks(pixels_hw: Floats, around: Box, box: Box, end: int, candidates: Candidates) -> int:
    """Appends the peaks in a box in any order, and returns the end of the candidates.

    Args:
        pixels_hw: values of the pixels in `around`.
        around: the box with the neighbours of its pixels.
        box: pixels that may be peaks.
        end: the end of the candidates so far.
        candidates: buffers to append to.
    """
    for y in range(box.top, box.bottom):
        if _may_hold_peak(pixels_hw, y - around.top):
            for x in range(box.left, box.right):
                if _is_peak(pixels_hw, y - around.top, x - around.left):
                    if end < len(candidates.x_M):
                        candidates.x_M[end], candidates.y_M[end] = x, y
                        candidates.scores_M[end] = pixels_hw[y - around.top, x - around.left]
                    end += 1
    return end


@compiled_part
def with_neighbours(box: Box, yx: tuple[Axis, Axis]) -> Box:
    """Returns a box with the pixels next to it, within the image."""
    height, width = len(yx[0].taps), len(yx[1].taps)
    return Box(
        max(box.top - 1, 0),
        min(box.bottom + 1, height),
        max(box.left - 1, 0),
        min(box.right + 1, width),
    )


@compiled_part
def _may_hold_peak(pixels_hw: Floats, row: int) -> bool:
    """Returns whether a row has a value that is greater than its neighbours above and below."""
    height, width = pixels_hw.shape
    center = pixels_hw[row]
    above, below = pixels_hw[max(row - 1, 0)], pixels_hw[min(row + 1, height - 1)]
    first, last = row == 0, row == height - 1
    may_hold = False
    for column in range(width):
        value = center[column]
        may_hold |= (
            (value >= THRESHOLD)
            & ((value > above[column]) | first)
            & ((value > below[column]) | last)
        )
    return may_hold


@compiled_part
def _is_peak(pixels_hw: Floats, row: int, column: int) -> bool:
    height, width = pixels_hw.shape
    value = pixels_hw[row, column]
    return bool(
        value >= THRESHOLD
        and (row == 0 or value > pixels_hw[row - 1, column])
        and (row == height - 1 or value > pixels_hw[row + 1, column])
        and (column == 0 or value > pixels_hw[row, column - 1])
        and (column == width - 1 or value > pixels_hw[row, column + 1])
    )


@compiled_part
def _sort(candidates: Candidates, start: int, end: int) -> None:
    """Sorts candidates by x, then y."""
    x, y, scores = candidates.x_M, candidates.y_M, candidates.scores_M
    for stride in _SORT_STRIDES:
        for index in range(start + stride, end):
            this_x, this_y, this_score = x[index], y[index], scores[index]
            place = index
            while place >= start + stride and (
                x[place - stride] > this_x
                or (x[place - stride] == this_x and y[place - stride] > this_y)
            ):
                before = place - stride
                x[place], y[place], scores[place] = x[before], y[before], scores[before]
                place = before
            x[place], y[place], scores[place] = this_x, this_y, this_score


@compiled_part
def _suppress(candidates: Candidates, start: int, end: int) -> int:
    """Drops candidates that are too near to an earlier one, and returns the new end.

    Ends after more than `MAX_CANDIDATES` of them.
    """
    x, y, scores = candidates.x_M, candidates.y_M, candidates.scores_M
    kept = start
    for index in range(start, end):
        if kept - start > MAX_CANDIDATES:
            break
        near = False
        for other in range(kept - 1, start - 1, -1):
            across = x[index] - x[other]
            if across >= SUPPRESSION_RADIUS_PX:
                break
            along = y[index] - y[other]
            near |= across * across + along * along < SUPPRESSION_RADIUS_PX**2
        if not near:
            x[kept], y[kept], scores[kept] = x[index], y[index], scores[index]
            kept += 1
    return kept
