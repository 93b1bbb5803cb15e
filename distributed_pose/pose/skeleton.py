"""The network's keypoints and limbs, and the mapping to COCO's seventeen keypoints.

Source: the keypoint and PAF numbering of the published Lightweight OpenPose checkpoint, which is
OpenPose's COCO model; COCO's own order is `COCO_KEYPOINTS`.
"""

KEYPOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)

COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

NUM_KEYPOINTS = len(KEYPOINTS)
NUM_COCO_KEYPOINTS = len(COCO_KEYPOINTS)
NECK = KEYPOINTS.index("neck")

# Channel counts of the two kinds of maps; the last heatmap is the background.
NUM_HEATMAPS = NUM_KEYPOINTS + 1
NUM_PAFS = 38


# The position of each network keypoint in COCO's order; COCO has no neck.
TO_COCO = tuple(
    COCO_KEYPOINTS.index(name) if name in COCO_KEYPOINTS else None for name in KEYPOINTS
)

# Limbs as (keypoint a, keypoint b, PAF channel of x, PAF channel of y), in the order in which
# they are assembled.
LIMBS = (
    (1, 2, 12, 13),
    (1, 5, 20, 21),
    (2, 3, 14, 15),
    (3, 4, 16, 17),
    (5, 6, 22, 23),
    (6, 7, 24, 25),
    (1, 8, 0, 1),
    (8, 9, 2, 3),
    (9, 10, 4, 5),
    (1, 11, 6, 7),
    (11, 12, 8, 9),
    (12, 13, 10, 11),
    (1, 0, 28, 29),
    (0, 14, 30, 31),
    (14, 16, 34, 35),
    (0, 15, 32, 33),
    (15, 17, 36, 37),
    (2, 16, 18, 19),
    (5, 17, 26, 27),
)

# The two shoulder-to-ear limbs never start or extend a pose, they only fill in a missing ear.
EAR_LIMBS = (17, 18)
