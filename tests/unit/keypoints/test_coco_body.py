"""The numbering of keypoints, limbs and PAF channels is that of the published network."""

from distributed_pose.keypoints.reading import coco_body

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
    assert [(limb.start, limb.end) for limb in coco_body().limbs] == PAIRS
    assert [(limb.paf_x, limb.paf_y) for limb in coco_body().limbs] == CHANNELS
    assert [kind for kind, limb in enumerate(coco_body().limbs) if limb.fills] == [17, 18]


def test_keypoints_map_to_cocos_order_without_the_neck() -> None:
    # Counted from 1, as in the published table, in which the neck has no number.
    published = [1, None, 7, 9, 11, 6, 8, 10, 13, 15, 17, 12, 14, 16, 3, 2, 5, 4]
    assert [None if place is None else place + 1 for place in coco_body().to_dataset] == published
    assert coco_body().derived == (("neck", ("left_shoulder", "right_shoulder")),)
