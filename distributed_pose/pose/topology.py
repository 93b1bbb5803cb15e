"""The keypoint set as the arrays that kernels read.

The arrays are arguments, so that kernels are compiled once for all sets.

Legend: K keypoints of the network, L limbs.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.resample import Ints

# A person has at least this many keypoints, or all keypoints of a smaller set.
MIN_KEYPOINTS = 3

NOT_IN_DATASET = -1


class Topology(NamedTuple):
    """Keypoints and limbs in arrays.

    Attributes:
        limbs_L4: int64 [L, 4], start and end of each limb, and PAF channels of its x and y.
        fills_L: int64 [L], 1 for limbs that only fill in keypoints, or else 0.
        to_dataset_K: int64 [K], position in the dataset's order, -1 for derived keypoints.
        num_derived: number of keypoints that the dataset does not have.
        min_keypoints: least number of keypoints of a person.
    """

    limbs_L4: Ints
    fills_L: Ints
    to_dataset_K: Ints
    num_derived: int
    min_keypoints: int


def topology(keypoints: KeypointSet) -> Topology:
    """Returns a keypoint set as arrays."""
    places = keypoints.to_dataset
    return Topology(
        np.array([limb[:4] for limb in keypoints.limbs], np.int64),
        np.array([limb.fills for limb in keypoints.limbs], np.int64),
        np.array([NOT_IN_DATASET if one is None else one for one in places], np.int64),
        places.count(None),
        min(MIN_KEYPOINTS, len(places)),
    )
