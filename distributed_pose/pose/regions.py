"""Finds the regions of an image where a heatmap can reach the threshold of peaks.

The cubic weights are known, so the cells around a pixel bound its value, and pixels that cannot
reach the threshold are never computed. The search has two steps: boxes of gaps between cells, then
the pixels in each box around which the enlarged map is high enough.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_extremum, compiled_part
from distributed_pose.pose.resample import REACH, TAPS, Axis, Box, Floats, Ints

THRESHOLD = np.float32(0.1)

# Upper bounds, over all positions on an axis, of sums of weights of both resizes together: of the
# positive weights, of the negative weights, and of the positive weights of all cells but the two
# next to the pixel. The positive weights exceed the negative ones by 1.
POSITIVE, NEGATIVE, OUTER = 1.1891, 0.1891, 0.0540

# A pixel is at most `_OVERSHOOT` times the greatest of its cells minus `_UNDERSHOOT` times the
# least of them.
_OVERSHOOT = POSITIVE**2 + NEGATIVE**2
_UNDERSHOOT = 2 * POSITIVE * NEGATIVE

# Uniting boxes takes time that grows with the square of their number, or faster. The grid of
# Lightweight OpenPose has room for about a hundred.
MAX_BOXES = 256

# The same bounds for the second resize alone, whose weights are those of one cubic convolution.
POSITIVE_FINE, NEGATIVE_FINE = 1.1876, 0.1876
_OVERSHOOT_FINE = POSITIVE_FINE**2 + NEGATIVE_FINE**2
_UNDERSHOOT_FINE = 2 * POSITIVE_FINE * NEGATIVE_FINE


@compiled
def hot_boxes(heatmap_HW: Floats, boxes: Ints, scratch: Floats) -> int:
    """Writes disjoint boxes of gaps that hold all pixels which can reach the threshold.

    Returns:
        The number of boxes; 1 if there would be too many, with everything in it.
    """
    height, width = heatmap_HW.shape
    profiles = _profiles(heatmap_HW, scratch)
    least = np.float32((THRESHOLD + _UNDERSHOOT * profiles.lowest) / _OVERSHOOT)
    number = 0
    for row in range(height):
        if profiles.by_row[row] >= least:
            for column in range(width):
                if heatmap_HW[row, column] >= least:
                    top, bottom = max(row - REACH + 1, 0), min(row + REACH, height)
                    left, right = max(column - REACH + 1, 0), min(column + REACH, width)
                    number = add_box(boxes, number, top, bottom, left, right)
                    if number > MAX_BOXES:
                        boxes[0, 0], boxes[0, 1] = 0, height
                        boxes[0, 2], boxes[0, 3] = 0, width
                        return 1
    return merge_boxes(boxes, number)


@compiled_part
def add_box(boxes: Ints, number: int, top: int, bottom: int, left: int, right: int) -> int:
    """Extends a box that the new one overlaps, or appends it; returns the number of boxes."""
    for index in range(number - 1, -1, -1):
        box = boxes[index]
        if box[0] <= bottom and top <= box[1] and box[2] <= right and left <= box[3]:
            box[0], box[1] = min(box[0], top), max(box[1], bottom)
            box[2], box[3] = min(box[2], left), max(box[3], right)
            return number
    boxes[number, 0], boxes[number, 1] = top, bottom
    boxes[number, 2], boxes[number, 3] = left, right
    return number + 1


@compiled_part
def merge_boxes(boxes: Ints, number: int) -> int:
    """Unites overlapping boxes until all are disjoint; returns their number."""
    before = number + 1
    while number < before:
        before, number = number, 0
        for index in range(before):
            top, bottom, left, right = boxes[index]
            number = add_box(boxes, number, top, bottom, left, right)
    return number


@compiled
def trimmed(heatmap_HW: Floats, box: Ints, scratch: Floats) -> tuple[int, int, int, int]:
    """Returns a box of gaps without the outer rows and columns that cannot reach the threshold."""
    top, left = max(box[0] - REACH, 0), max(box[2] - REACH, 0)
    cells = heatmap_HW[top : box[1] + REACH, left : box[3] + REACH]
    profiles = _profiles(cells, scratch)
    least = float(THRESHOLD + _UNDERSHOOT * profiles.lowest)
    y0, y1 = _trimmed_side(profiles.by_row, box[0], box[1], top, least)
    x0, x1 = _trimmed_side(profiles.by_column, box[2], box[3], left, least)
    return y0, y1, x0, x1


@compiled_part
def _trimmed_side(
    highest_: Floats, first: int, last: int, origin: int, least: float
) -> tuple[int, int]:
    """Returns a range of gaps without the gaps at its ends whose pixels stay below `least`."""
    while first <= last and _reach_of_gap(highest_, first - origin) < least:
        first += 1
    while first <= last and _reach_of_gap(highest_, last - origin) < least:
        last -= 1
    return first, last


@compiled_part
def _reach_of_gap(highest_: Floats, gap: int) -> float:
    """Returns an upper bound of the pixels of a gap, from the greatest cell of each row near it."""
    end = len(highest_)
    center = max(highest_[max(gap - 1, 0)], highest_[min(gap, end - 1)])
    around = highest_[max(gap - REACH, 0) : min(gap + REACH, end)].max()
    return float(POSITIVE**2 * center + (POSITIVE * OUTER + NEGATIVE**2) * around)


@compiled
def shrunk(
    fine_hw: Floats, origin: tuple[int, int], yx: tuple[Axis, Axis], box: Box, scratch: Floats
) -> Box:
    """Returns the part of a box in which the enlarged map allows a value above the threshold."""
    profiles = _profiles(fine_hw, scratch)
    least = np.float32((THRESHOLD + _UNDERSHOOT_FINE * profiles.lowest) / _OVERSHOOT_FINE)
    top, bottom = _ends(profiles.by_row, least)
    left, right = _ends(profiles.by_column, least)
    y0, y1 = _touching(yx[0], box.top, box.bottom, top + origin[0], bottom + origin[0])
    x0, x1 = _touching(yx[1], box.left, box.right, left + origin[1], right + origin[1])
    return Box(y0, y1, x0, x1)


@compiled_part
def _touching(axis: Axis, start: int, end: int, first: int, last: int) -> tuple[int, int]:
    """Returns the range of the pixels whose taps reach fine positions `first` to `last`."""
    while start < end and axis.taps[start, TAPS - 1] < first:
        start += 1
    while start < end and axis.taps[end - 1, 0] > last:
        end -= 1
    return start, end


class Profiles(NamedTuple):
    """Extreme values of a map along its axes.

    Attributes:
        by_row: float32, the greatest value of each row, at least 0.
        by_column: float32, the greatest value of each column, at least 0.
        lowest: the least value of the map, at most 0.
    """

    by_row: Floats
    by_column: Floats
    lowest: np.float32


@compiled_extremum
def _profiles(values_HW: Floats, scratch: Floats) -> Profiles:
    height, width = values_HW.shape
    by_row, by_column = scratch[:height], scratch[height : height + width]
    least = scratch[height + width : height + 2 * width]
    by_column[:] = 0
    least[:] = 0
    for row in range(height):
        greatest = np.float32(0)
        for column in range(width):
            value = values_HW[row, column]
            greatest = max(greatest, value)
        by_row[row] = greatest
        for column in range(width):
            by_column[column] = max(by_column[column], values_HW[row, column])
            least[column] = min(least[column], values_HW[row, column])
    return Profiles(by_row, by_column, least.min())


@compiled_part
def _ends(values: Floats, least: np.float32) -> tuple[int, int]:
    """Returns the first and the last index of a value that is at least `least`."""
    first, last = 0, len(values) - 1
    while first <= last and values[first] < least:
        first += 1
    while first <= last and values[last] < least:
        last -= 1
    return first, last
