"""Differences of maps are found in the output, the image and the cell that they are in."""

import numpy as np
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.report.map_differences import Maps, map_differences

KEYPOINTS = coco_body().keypoints
NUM_HEATMAPS = coco_body().num_heatmaps
IMAGES = [(11, "a.jpg"), (12, "b.jpg")]


def random_maps() -> list[Maps]:
    """Returns the maps of two images of different sizes."""
    generator = np.random.default_rng(0)
    channels = NUM_HEATMAPS + coco_body().num_pafs
    return [generator.random((channels, 6, width)).astype(np.float32) for width in (8, 10)]


def test_equal_maps_differ_in_no_output() -> None:
    found = map_differences(IMAGES, random_maps(), random_maps(), coco_body())
    assert len(found) == NUM_HEATMAPS + len(coco_body().limbs)
    assert {(one.largest, one.median, one.relative) for one in found} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("channel", "output"),
    [
        (KEYPOINTS.index("left_wrist"), "heatmap left_wrist"),
        (NUM_HEATMAPS - 1, "heatmap background"),
        (NUM_HEATMAPS + 12, "PAF neck to right_shoulder"),
        (NUM_HEATMAPS + 13, "PAF neck to right_shoulder"),
    ],
)
def test_a_changed_cell_is_found(channel: int, output: str) -> None:
    first, second = random_maps(), random_maps()
    first[0][channel, 0, 0], first[1][channel, 0, 0] = -1, 3
    second[0][channel, 0, 0], second[1][channel, 0, 0] = -1, 3
    second[1][channel, 4, 9] += 2
    worst, *others = map_differences(IMAGES, first, second, coco_body())
    assert (worst.output, worst.image_id, worst.file_name) == (output, 12, "b.jpg")
    assert (worst.row, worst.column, worst.median) == (4, 9, 0)
    assert worst.largest == pytest.approx(2)
    assert worst.range == pytest.approx(4)
    assert worst.relative == pytest.approx(0.5)
    assert not any(one.largest for one in others)


def test_an_output_that_is_constant_in_the_first_run_only_comes_first() -> None:
    first, second = random_maps(), random_maps()
    for maps_MHW in first:
        maps_MHW[5] = 0.25
    worst, *_ = map_differences(IMAGES, first, second, coco_body())
    assert (worst.output, worst.relative, worst.range) == (f"heatmap {KEYPOINTS[5]}", None, 0)
    assert worst.largest > 0


def test_the_median_is_over_the_cells_of_all_images() -> None:
    first, second = random_maps(), random_maps()
    second[1][0] = first[1][0] + 0.125
    found = {one.output: one for one in map_differences(IMAGES, first, second, coco_body())}
    # The second image has 60 of 108 cells.
    assert found["heatmap nose"].median == pytest.approx(0.125, rel=1e-5)
