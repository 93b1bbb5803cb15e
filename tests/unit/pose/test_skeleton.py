"""The numbering of keypoints, limbs and PAF channels is that of the published network."""

from distributed_pose.pose.skeleton import (
    COCO_KEYPOINTS,
    KEYPOINTS,
    LIMBS,
    NUM_PAFS,
    TO_COCO,
)

# The published network's limbs: pairs of keypoints, then the PAF channels of each pair.
PAIRS = [
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
    (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
]  # fmt: skip
CHANNELS = [
    (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7),
    (8, 9), (10, 11), (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27),
]  # fmt: skip


def test_limbs_are_those_of_the_published_network() -> None:
    assert [(a, b) for a, b, _, _ in LIMBS] == PAIRS
    assert [(x, y) for _, _, x, y in LIMBS] == CHANNELS
    assert sorted(channel for limb in LIMBS for channel in limb[2:]) == [*range(NUM_PAFS)]


def test_keypoints_map_to_cocos_order_without_the_neck() -> None:
    # Counted from 1, as in the published table, in which the neck has no number.
    published = [1, None, 7, 9, 11, 6, 8, 10, 13, 15, 17, 12, 14, 16, 3, 2, 5, 4]
    assert [None if place is None else place + 1 for place in TO_COCO] == published
    assert len(set(KEYPOINTS) - set(COCO_KEYPOINTS)) == 1
