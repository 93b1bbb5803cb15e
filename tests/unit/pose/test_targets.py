"""Heatmaps and PAFs that are drawn from known keypoints follow their definition."""

import numpy as np
import pytest

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet, Limb
from distributed_pose.pose.targets import draw_heatmaps, draw_pafs, network_keypoints

GRID_HW = (46, 80)
BODY = coco_body()
KEYPOINTS, COCO_KEYPOINTS = BODY.keypoints, BODY.dataset_keypoints
NUM_HEATMAPS, NUM_PAFS, LIMBS = BODY.num_heatmaps, BODY.num_pafs, BODY.limbs
NECK = KEYPOINTS.index("neck")
NOSE = KEYPOINTS.index("nose")


def one_keypoint(index, x_px, y_px):
    people = np.zeros((1, 18, 3), np.float32)
    people[0, index] = x_px, y_px, 2
    return people


def random_people(count, seed=0):
    generator = np.random.default_rng(seed)
    people = np.full((count, 18, 3), 2, np.float32)
    people[..., :2] = generator.uniform(-30, (640, 400), (count, 18, 2))
    people[..., 2] = generator.integers(0, 3, (count, 18))
    return people


def dense_paf(people, limb, half_width_px=8.0):
    """Returns the x and y field of a limb by its definition, computed for every cell."""
    start, end, *_ = limb
    y, x = np.mgrid[: GRID_HW[0], : GRID_HW[1]] * 8 + 3.5
    total, count = np.zeros((2, *GRID_HW)), np.zeros(GRID_HW)
    for person in people:
        a, b = person[start], person[end]
        if min(a[2], b[2]) <= 0:
            continue
        limb_px = (b - a)[:2].astype(float)
        length = np.hypot(*limb_px)
        unit = limb_px / length
        along = np.clip((x - a[0]) * unit[0] + (y - a[1]) * unit[1], 0, length)
        inside = np.hypot(x - a[0] - along * unit[0], y - a[1] - along * unit[1]) <= half_width_px
        count += inside
        total += inside * unit[:, None, None]
    return total / np.maximum(count, 1)


def test_coco_keypoints_keep_their_names_in_the_network_order():
    coco = np.ones((1, 17, 3)) * np.arange(17)[None, :, None] + 1
    people = network_keypoints(coco, BODY)
    for index, name in enumerate(KEYPOINTS):
        if index != NECK:
            assert people[0, index, 0] == COCO_KEYPOINTS.index(name) + 1


def test_neck_is_the_midpoint_of_two_labelled_shoulders():
    coco = np.zeros((2, 17, 3))
    coco[:, 5], coco[:, 6] = (10, 20, 2), (30, 40, 1)
    coco[1, 6, 2] = 0
    people = network_keypoints(coco, BODY)
    assert people[0, NECK].tolist() == [20, 30, 1]
    assert people[1, NECK].tolist() == [0, 0, 0]


def test_no_people_give_an_empty_array_and_pure_background():
    people = network_keypoints(np.zeros((0, 17, 3)), BODY)
    assert people.shape == (0, 18, 3)
    heatmaps = draw_heatmaps(people, GRID_HW)
    assert heatmaps.shape == (NUM_HEATMAPS, *GRID_HW)
    assert not heatmaps[:-1].any()
    assert (heatmaps[-1] == 1).all()
    assert not draw_pafs(people, LIMBS, GRID_HW).any()


def test_peak_is_at_the_cell_whose_centre_is_the_keypoint():
    heatmaps = draw_heatmaps(one_keypoint(NOSE, 8 * 11 + 3.5, 8 * 7 + 3.5), GRID_HW)
    assert heatmaps[NOSE, 7, 11] == 1
    assert heatmaps[NOSE].argmax() == 7 * GRID_HW[1] + 11
    assert heatmaps[NOSE, 7, 12] == pytest.approx(np.exp(-64 / 98))
    assert heatmaps[-1, 7, 11] == 0


@pytest.mark.parametrize(("x_px", "y_px"), [(-5, 10), (645, 100), (0, 0), (639, 367), (-900, 99)])
def test_keypoints_at_and_beyond_the_border_are_clipped_to_the_grid(x_px, y_px):
    heatmap = draw_heatmaps(one_keypoint(NOSE, x_px, y_px), GRID_HW)[NOSE]
    y, x = np.mgrid[: GRID_HW[0], : GRID_HW[1]] * 8 + 3.5
    expected = np.exp(-((x - x_px) ** 2 + (y - y_px) ** 2) / 98)
    np.testing.assert_allclose(heatmap, expected, atol=0.005)


def test_overlapping_peaks_keep_the_greatest_value():
    people = np.concatenate([one_keypoint(NOSE, 83.5, 83.5), one_keypoint(NOSE, 91.5, 83.5)])
    heatmaps = draw_heatmaps(people, GRID_HW)
    assert heatmaps.max() == 1
    assert heatmaps[NOSE, 10, 10] == heatmaps[NOSE, 10, 11] == 1


def test_missing_keypoints_draw_nothing():
    people = one_keypoint(NOSE, 100, 100)
    people[..., 2] = 0
    assert not draw_heatmaps(people, GRID_HW)[:-1].any()
    assert not draw_pafs(random_people(1) * [1, 1, 0], LIMBS, GRID_HW).any()


@pytest.mark.parametrize("limb", LIMBS)
def test_pafs_equal_their_definition_for_overlapping_people(limb):
    people = random_people(12)
    pafs = draw_pafs(people, LIMBS, GRID_HW)
    assert pafs.shape == (NUM_PAFS, *GRID_HW)
    np.testing.assert_allclose(pafs[[limb.paf_x, limb.paf_y]], dense_paf(people, limb), atol=1e-5)


def test_pafs_point_from_keypoint_a_to_b_with_length_one():
    start, end, channel_x, channel_y, _ = LIMBS[0]
    people = one_keypoint(start, 103.5, 103.5)
    people[0, end] = 203.5, 103.5, 1
    pafs = draw_pafs(people, LIMBS, GRID_HW)
    assert pafs[channel_x, 12, 15] == 1
    assert pafs[channel_y, 12, 15] == 0
    assert np.count_nonzero(pafs) == np.count_nonzero(pafs[channel_x])


def test_limb_of_length_zero_draws_nothing():
    start, end, *_ = LIMBS[0]
    people = one_keypoint(start, 100, 100)
    people[0, end] = 100, 100, 2
    assert not draw_pafs(people, LIMBS, GRID_HW).any()


def test_targets_do_not_depend_on_the_order_of_the_people():
    people = random_people(6)
    np.testing.assert_array_equal(
        draw_heatmaps(people, GRID_HW), draw_heatmaps(people[::-1], GRID_HW)
    )
    np.testing.assert_allclose(
        draw_pafs(people, LIMBS, GRID_HW),
        draw_pafs(people[::-1], LIMBS, GRID_HW),
        atol=1e-6,
    )


def test_a_derived_keypoint_is_the_midpoint_of_its_sources_where_all_are_labelled():
    dataset = ("a", "b", "c")
    keypoints = KeypointSet(
        name="triangle",
        keypoints=("c", "centre", "a", "b"),
        dataset_keypoints=dataset,
        sigmas=(0.1,) * 3,
        derived=(("centre", dataset),),
        limbs=(Limb(1, 0, 0, 1), Limb(1, 2, 2, 3), Limb(1, 3, 4, 5)),
    )
    whole = [[0, 3, 2], [30, 6, 1], [60, 9, 2]]
    part = [[0, 3, 2], [30, 6, 0], [60, 9, 2]]
    people = network_keypoints([whole, part], keypoints)
    assert people[0].tolist() == [[60, 9, 2], [30, 6, 1], [0, 3, 2], [30, 6, 1]]
    assert people[1].tolist() == [[60, 9, 2], [0, 0, 0], [0, 3, 2], [0, 0, 0]]
    pafs = draw_pafs(people, keypoints.limbs, GRID_HW)
    assert pafs.shape == (6, *GRID_HW)
    assert pafs[0].max() > 0.9
