"""Resampled maps equal OpenCV's to the bit, for whole images and for parts of them.

Legend: C channels, h and w image size in pixels.
"""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.reference import full_resolution
from distributed_pose.pose.resample import Axis, Box, axes, enlarged, in_tail, resized
from distributed_pose.records.images import STRIDE, Geometry

NUM_HEATMAPS = coco_body().num_heatmaps
NUM_PAFS = coco_body().num_pafs

Floats = npt.NDArray[np.float32]

GRIDS_AND_GEOMETRIES = [
    ((46, 80), Geometry(480, 640, 0, 74, 0, 75)),
    ((46, 80), Geometry(100, 203, 3, 0, 4, 0)),
    ((46, 69), Geometry(427, 641, 0, 0, 0, 0)),
    ((12, 16), Geometry(96, 128, 0, 0, 0, 0)),
    ((12, 16), Geometry(31, 42, 5, 2, 1, 3)),
    ((7, 9), Geometry(200, 301, 0, 7, 11, 0)),
    ((6, 40), Geometry(1, 7, 0, 0, 0, 0)),
    ((5, 6), Geometry(90, 1, 0, 0, 0, 0)),
    ((1, 1), Geometry(21, 22, 0, 0, 0, 0)),
    ((1, 1), Geometry(9, 9, 7, 0, 0, 7)),
]


def random_maps(channels: int, grid_hw: tuple[int, int]) -> Floats:
    return np.random.default_rng(0).normal(size=(channels, *grid_hw)).astype(np.float32)


def scratch() -> Floats:
    return np.full(3_000_000, np.nan, np.float32)


def pixels_of(map_HW: Floats, yx: tuple[Axis, Axis], box: Box, *, is_tail: bool) -> Floats:
    rows, columns = (0, STRIDE * map_HW.shape[0]), (0, STRIDE * map_HW.shape[1])
    fine_hw = enlarged(map_HW, rows, columns, scratch())
    return resized(fine_hw, (0, 0), yx, box, scratch(), is_tail)


@pytest.mark.parametrize("grid_hw", [(46, 80), (7, 5), (1, 1), (1, 6), (9, 2)])
def test_enlarged_maps_equal_those_of_opencv(grid_hw: tuple[int, int]) -> None:
    maps = random_maps(NUM_HEATMAPS, grid_hw)
    height, width = STRIDE * grid_hw[0], STRIDE * grid_hw[1]
    expected = full_resolution(maps, Geometry(height, width, 0, 0, 0, 0))
    for channel in range(3):
        found = enlarged(maps[channel], (0, height), (0, width), scratch())
        np.testing.assert_array_equal(found, expected[:, :, channel])


def test_a_part_of_an_enlarged_map_equals_that_part_of_the_whole() -> None:
    (map_HW,) = random_maps(1, (9, 11))
    whole = enlarged(map_HW, (0, 72), (0, 88), scratch()).copy()
    for rows, columns in [((0, 1), (0, 1)), ((3, 29), (50, 88)), ((71, 72), (4, 5))]:
        part = enlarged(map_HW, rows, columns, scratch())
        np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("channels", [NUM_HEATMAPS, NUM_PAFS])
@pytest.mark.parametrize(("grid_hw", "geometry"), GRIDS_AND_GEOMETRIES)
def test_resized_maps_equal_those_of_opencv(
    grid_hw: tuple[int, int], geometry: Geometry, channels: int
) -> None:
    maps = random_maps(channels, grid_hw)
    expected = full_resolution(maps, geometry)
    whole = Box(0, geometry.image_height, 0, geometry.image_width)
    for channel in {0, 1, channels - 3, channels - 2, channels - 1}:
        is_tail = in_tail(channel, channels, geometry.image_width)
        found = pixels_of(maps[channel], axes(geometry, grid_hw), whole, is_tail=is_tail)
        np.testing.assert_array_equal(found, expected[:, :, channel])


@pytest.mark.parametrize("is_tail", [False, True])
def test_a_box_of_a_resized_map_equals_that_part_of_the_whole(is_tail: bool) -> None:
    (map_HW,), geometry = random_maps(1, (12, 16)), Geometry(101, 151, 4, 0, 0, 9)
    yx = axes(geometry, (12, 16))
    whole = pixels_of(map_HW, yx, Box(0, 101, 0, 151), is_tail=is_tail).copy()
    for box in [Box(0, 1, 0, 1), Box(40, 101, 33, 151), Box(100, 101, 150, 151), Box(7, 9, 0, 150)]:
        found = pixels_of(map_HW, yx, box, is_tail=is_tail)
        np.testing.assert_array_equal(found, whole[box.top : box.bottom, box.left : box.right])


def test_the_tail_holds_the_values_after_the_last_four_of_a_row() -> None:
    tails = {
        width: [c for c in range(NUM_HEATMAPS) if in_tail(c, NUM_HEATMAPS, width)]
        for width in (4, 5, 6, 7)
    }
    assert tails == {4: [], 5: [16, 17, 18], 6: [17, 18], 7: [18]}


def test_axes_are_computed_once_for_images_of_one_size() -> None:
    y, x = axes(Geometry(300, 400, 0, 74, 0, 75), (46, 80))
    again_y, again_x = axes(Geometry(300, 401, 0, 74, 0, 75), (46, 80))
    assert again_y is y
    assert again_x is not x


@pytest.mark.parametrize(("grid_hw", "geometry"), GRIDS_AND_GEOMETRIES)
def test_axes_list_the_pixels_of_each_gap(grid_hw: tuple[int, int], geometry: Geometry) -> None:
    for axis in axes(geometry, grid_hw):
        for gap in range(axis.cells + 1):
            first, end = axis.starts[gap : gap + 2]
            assert (axis.gaps[first:end] == gap).all()
        assert axis.starts[0] == 0
        assert axis.starts[-1] == len(axis.taps)


@pytest.mark.parametrize(("grid_hw", "geometry"), GRIDS_AND_GEOMETRIES)
def test_weights_of_a_pixel_sum_to_one(grid_hw: tuple[int, int], geometry: Geometry) -> None:
    for axis in axes(geometry, grid_hw):
        np.testing.assert_allclose(axis.weights.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(axis.blend.sum(axis=1), 1, atol=1e-6)


def test_tables_of_long_axes_are_not_cached() -> None:
    # Cached, they would take 120 MB.
    tracemalloc.start()
    try:
        for width in range(2**17, 2**17 + 10):
            axes(Geometry(1, width, 0, 0, 0, 0), (1, 80))
        assert tracemalloc.get_traced_memory()[0] < 2**25
    finally:
        tracemalloc.stop()
