"""The bounds of interpolated values, and the boxes that are searched for peaks because of them.

Legend: F fractions of a fine step, 12 cells around the first tap of a pixel.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose import regions
from distributed_pose.pose.reference import full_resolution
from distributed_pose.pose.regions import THRESHOLD, hot_boxes, trimmed
from distributed_pose.pose.resample import ENLARGE, TAPS, _cubic, axes, gap_and_phase
from distributed_pose.records.images import STRIDE, Geometry

NUM_HEATMAPS = coco_body().num_heatmaps

Doubles = npt.NDArray[np.float64]

FRACTIONS_F = np.linspace(0, 1, 2001, dtype=np.float32)
# The position of the first tap, chosen so that no cell in use has a negative index.
FIRST_FINE = 3 * STRIDE


def weights_of_cells() -> Iterator[tuple[int, Doubles]]:
    """Yields a pixel's gap and float64 [F, 12], the weights of the cells, for each position.

    At the ends of the crop the taps that would lie outside are its first or last fine position.
    """
    taps_F4 = _cubic(FRACTIONS_F).astype(np.float64)
    for phase in range(STRIDE):
        for first in range(TAPS):
            for last in range(first, TAPS):
                weights_F12 = np.zeros((len(FRACTIONS_F), 12))
                for tap in range(TAPS):
                    position = FIRST_FINE + phase + min(max(tap, first), last)
                    gap, fine_phase = gap_and_phase(position)
                    weights_F12[:, gap - 2 : gap + 2] += taps_F4[:, tap, None] * ENLARGE[fine_phase]
                second = FIRST_FINE + phase + min(max(1, first), last)
                yield gap_and_phase(second)[0], weights_F12


def test_the_sums_of_weights_stay_within_the_bounds_at_every_position() -> None:
    positive, negative, outer = 0.0, 0.0, 0.0
    for gap, weights_F12 in weights_of_cells():
        above = np.maximum(weights_F12, 0)
        positive = max(positive, above.sum(axis=1).max())
        negative = max(negative, -np.minimum(weights_F12, 0).sum(axis=1).min())
        outer = max(outer, np.delete(above, (gap - 1, gap), axis=1).sum(axis=1).max())
    assert regions.POSITIVE - 2e-3 < positive <= regions.POSITIVE
    assert regions.NEGATIVE - 2e-3 < negative <= regions.NEGATIVE
    assert regions.OUTER - 2e-3 < outer <= regions.OUTER


def test_the_second_resize_alone_stays_within_its_bounds() -> None:
    taps_F4 = _cubic(FRACTIONS_F).astype(np.float64)
    positive = np.maximum(taps_F4, 0).sum(axis=1).max()
    negative = -np.minimum(taps_F4, 0).sum(axis=1).min()
    assert regions.POSITIVE_FINE - 2e-3 < positive <= regions.POSITIVE_FINE
    assert regions.NEGATIVE_FINE - 2e-3 < negative <= regions.NEGATIVE_FINE


@pytest.mark.parametrize("seed", range(30))
def test_trimmed_boxes_are_disjoint_and_hold_every_pixel_above_the_threshold(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = random.normal(scale=0.05, size=(NUM_HEATMAPS, 23, 30)).astype(np.float32)
    # Some cells reach the threshold only with their neighbours, some are far below 0.
    maps[:, ::5, ::7] += random.choice([0.02, 0.07, -0.3, 0.5])
    maps[0] -= np.float32(0.3)
    geometry = Geometry(201, 267, 3, 0, 4, 5)
    dense = full_resolution(maps, geometry)
    y_axis, x_axis = axes(geometry, (23, 30))
    for channel in range(4):
        boxes, scratch = np.empty((24 * 31, 4), np.int64), np.empty(72 * 23 * 30, np.float32)
        times_hw = np.zeros(dense.shape[:2], int)
        for index in range(hot_boxes(maps[channel], boxes, scratch)):
            top, bottom, left, right = trimmed(maps[channel], boxes[index], scratch)
            rows = slice(y_axis.starts[top], y_axis.starts[bottom + 1])
            times_hw[rows, x_axis.starts[left] : x_axis.starts[right + 1]] += 1
        assert times_hw.max(initial=0) <= 1
        assert times_hw[dense[:, :, channel] >= THRESHOLD].all()


def test_maps_that_cannot_reach_the_threshold_have_no_boxes() -> None:
    low = np.full((9, 11), 0.06, np.float32)
    boxes, scratch = np.empty((120, 4), np.int64), np.empty(72 * 99, np.float32)
    assert hot_boxes(low, boxes, scratch) == 0
    assert hot_boxes(-low, boxes, scratch) == 0
    low[4, 4] = 0.11
    assert hot_boxes(low, boxes, scratch) == 1
