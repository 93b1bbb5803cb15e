"""Pictures show the lines of any keypoint set, and those of COCO's body as ever."""

from dataclasses import replace

import numpy as np

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet, Limb
from distributed_pose.report.pictures import draw_poses
from distributed_pose.report.skeletons import draw_legend, limb_colours, skeleton
from tests.chain_sets import chain_of

BLACK = np.zeros((64, 64, 3), np.uint8)

# Arms, legs and face, then the outline of the torso, by positions in COCO's order.
COCO_LINES = [
    *((6, 8), (8, 10), (5, 7), (7, 9), (12, 14), (14, 16), (11, 13), (13, 15)),
    *((0, 2), (2, 4), (0, 1), (1, 3), (5, 6), (5, 11), (6, 12), (11, 12)),
]


def ends_of(keypoints: KeypointSet) -> list[tuple[int, ...]]:
    return [line.start + line.end for line in skeleton(keypoints)]


def test_the_body_of_coco_has_an_outline_in_place_of_the_limbs_of_the_neck() -> None:
    assert ends_of(coco_body()) == COCO_LINES
    assert not limb_colours(coco_body())


def test_limbs_that_fill_are_not_drawn() -> None:
    filled = chain_of(4)
    filled = replace(filled, limbs=(*filled.limbs, Limb(3, 0, 6, 7, fills=True)))
    assert ends_of(filled) == [(0, 1), (1, 2), (2, 3)]


def test_a_midpoint_that_is_not_of_left_and_right_is_an_end_of_lines() -> None:
    keypoints = KeypointSet(
        name="tripod",
        keypoints=("centre", "a", "b", "c"),
        dataset_keypoints=("a", "b", "c"),
        sigmas=(0.1, 0.1, 0.1),
        derived=(("centre", ("a", "b")),),
        limbs=(Limb(0, 1, 0, 1), Limb(0, 2, 2, 3), Limb(0, 3, 4, 5)),
    )
    assert [line[:2] for line in skeleton(keypoints)][-1] == ((0, 1), (2,))
    person = [10, 10, 2, 50, 10, 2, 30, 50, 2]
    drawn = draw_poses(BLACK, [person], keypoints)
    assert drawn[30, 30].argmax() == np.argmax(limb_colours(keypoints)[2])
    hidden = draw_poses(BLACK, [[10, 10, 0, *person[3:]]], keypoints)
    assert not hidden[30, 30].any()


def test_the_hips_and_shoulders_of_a_set_with_both_midpoints_are_joined_by_side() -> None:
    dataset = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    keypoints = KeypointSet(
        name="torso",
        keypoints=("neck", "pelvis", *dataset),
        dataset_keypoints=dataset,
        sigmas=(0.1,) * 4,
        derived=(("neck", dataset[:2]), ("pelvis", dataset[2:])),
        limbs=tuple(
            Limb(start, end, 2 * n, 2 * n + 1)
            for n, (start, end) in enumerate([(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)])
        ),
    )
    found = sorted(tuple(sorted(ends)) for ends in ends_of(keypoints))
    assert found == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_a_hundred_limbs_have_as_many_colours_which_the_legend_shows() -> None:
    keypoints = chain_of(101)
    colours = limb_colours(keypoints)
    assert len(set(colours)) == len(colours) == 100
    legend = {tuple(pixel) for pixel in draw_legend(keypoints).reshape(-1, 3).tolist()}
    assert legend > set(colours)
