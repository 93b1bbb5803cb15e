"""Values of maps at single pixels: exact samples equal resized maps, estimates up to rounding.

Legend: C channels, h and w image size in pixels.
"""

import numpy as np
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.pose.reference import full_resolution
from distributed_pose.pose.resample import axes
from distributed_pose.pose.samples import NUM_SAMPLES, estimate, new_samples, take_samples
from distributed_pose.records.images import Geometry

NUM_PAFS = coco_body().num_pafs

# A multiple of 4, so that OpenCV computes the last column like the others.
CHANNELS = 40

GRIDS_AND_GEOMETRIES = [
    ((46, 80), Geometry(480, 640, 0, 74, 0, 75)),
    ((46, 80), Geometry(100, 203, 3, 0, 4, 0)),
    ((12, 16), Geometry(31, 42, 5, 2, 1, 3)),
    ((7, 9), Geometry(200, 301, 0, 7, 11, 0)),
    ((6, 40), Geometry(1, 7, 0, 0, 0, 0)),
    ((1, 1), Geometry(21, 22, 0, 0, 0, 0)),
]


def random_maps(grid_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (CHANNELS, *grid_hw)).astype(np.float32)


def random_pixels(geometry: Geometry, number: int) -> np.ndarray:
    """Returns int64 [number, 2], rows and columns of pixels, including the image's corners."""
    last = np.array([geometry.image_height, geometry.image_width]) - 1
    corners = [(0, 0), (0, last[1]), (last[0], 0), tuple(last)]
    others = np.random.default_rng(1).integers(0, last + 1, (number - len(corners), 2))
    return np.concatenate((corners, others))


@pytest.mark.parametrize(("grid_hw", "geometry"), GRIDS_AND_GEOMETRIES)
def test_samples_equal_the_values_of_resized_maps(
    grid_hw: tuple[int, int], geometry: Geometry
) -> None:
    maps = random_maps(grid_hw)
    dense = full_resolution(maps, geometry)
    samples = new_samples()
    for pixels in random_pixels(geometry, 20 * NUM_SAMPLES).reshape(20, NUM_SAMPLES, 2):
        samples.y_px[:], samples.x_px[:] = pixels.T
        take_samples((maps[1], maps[3]), axes(geometry, grid_hw), samples, (False, False))
        found = samples.values.reshape(2, NUM_SAMPLES)
        np.testing.assert_array_equal(found, dense[pixels[:, 0], pixels[:, 1]][:, [1, 3]].T)


@pytest.mark.parametrize("width", [1, 31, 101])
def test_samples_in_the_last_column_of_the_last_fields_equal_opencvs(width: int) -> None:
    maps = np.random.default_rng(2).uniform(-1, 1, (NUM_PAFS, 9, 12)).astype(np.float32)
    geometry, samples = Geometry(60, width, 1, 2, 3, 4), new_samples()
    dense = full_resolution(maps, geometry)
    samples.x_px[:] = width - 1
    for start in range(0, 60, NUM_SAMPLES):
        samples.y_px[:] = np.arange(start, start + NUM_SAMPLES)
        take_samples((maps[36], maps[37]), axes(geometry, (9, 12)), samples, (True, True))
        found = samples.values.reshape(2, NUM_SAMPLES)
        np.testing.assert_array_equal(found, dense[samples.y_px, width - 1][:, [36, 37]].T)


@pytest.mark.parametrize(("grid_hw", "geometry"), GRIDS_AND_GEOMETRIES)
def test_estimates_are_correct_up_to_rounding(grid_hw: tuple[int, int], geometry: Geometry) -> None:
    maps, yx = random_maps(grid_hw), axes(geometry, grid_hw)
    dense = full_resolution(maps, geometry)
    for y, x in random_pixels(geometry, 200):
        assert estimate(maps[0], yx, y, x) == pytest.approx(dense[y, x, 0], abs=1e-4)
