"""The network's keypoints and limbs of the built-in set, and the mapping to COCO's keypoints."""

from distributed_pose.keypoints.reading import coco_body

_BODY = coco_body()

KEYPOINTS = _BODY.keypoints
COCO_KEYPOINTS = _BODY.dataset_keypoints

NUM_KEYPOINTS = _BODY.num_keypoints
NUM_COCO_KEYPOINTS = _BODY.num_dataset_keypoints
NECK = KEYPOINTS.index("neck")

# Channel counts of the two kinds of maps; the last heatmap is the background.
NUM_HEATMAPS = _BODY.num_heatmaps
NUM_PAFS = _BODY.num_pafs

# The position of each network keypoint in COCO's order; COCO has no neck.
TO_COCO = _BODY.to_dataset

# Limbs as (keypoint a, keypoint b, PAF channel of x, PAF channel of y), in the order in which
# they are assembled.
LIMBS = tuple(limb[:4] for limb in _BODY.limbs)

# The two shoulder-to-ear limbs never start or extend a pose, they only fill in a missing ear.
EAR_LIMBS = tuple(number for number, limb in enumerate(_BODY.limbs) if limb.fills)
