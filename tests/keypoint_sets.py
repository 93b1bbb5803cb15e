"""Keypoint sets that tests use: random ones, and a small one as users write it."""

import numpy as np
from hypothesis import strategies as st

from distributed_pose.keypoints.sets import KeypointSet, Limb

# The legs of a person, with other sigmas than COCO's and a limb that fills before others extend.
LEGS_YAML = """
name: legs
keypoints: [pelvis, right_hip, right_knee, right_ankle, left_hip, left_knee, left_ankle]
dataset:
  left_hip: 0.05
  right_hip: 0.05
  left_knee: 0.03
  right_knee: 0.03
  left_ankle: 0.12
  right_ankle: 0.12
derived: {pelvis: [left_hip, right_hip]}
limbs:
  - {from: pelvis, to: right_hip, paf: [0, 1]}
  - {from: pelvis, to: left_hip, paf: [2, 3]}
  - {from: right_hip, to: left_hip, paf: [12, 13], fills: true}
  - {from: right_hip, to: right_knee, paf: [4, 5]}
  - {from: right_knee, to: right_ankle, paf: [6, 7]}
  - {from: left_hip, to: left_knee, paf: [8, 9]}
  - {from: left_knee, to: left_ankle, paf: [10, 11]}
"""


def random_set(
    size: int, *, num_derived: int = 0, num_fills: int = 0, seed: int = 0
) -> KeypointSet:
    """Returns a set whose limbs are a random tree, and further ones that fill, anywhere among them.

    Args:
        size: number of the network's keypoints.
        num_derived: number of them that the dataset does not have.
        num_fills: number of limbs that fill in keypoints.
        seed: seed of all choices.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(size).tolist()
    limbs = [(order[random.integers(0, n)], order[n], False) for n in range(1, size)]
    for _ in range(num_fills):
        place = int(random.integers(1, len(limbs) + 1))
        reached = sorted({end for limb in limbs[:place] for end in limb[:2]})
        start, end = random.choice(reached, 2, replace=False).tolist()
        limbs.insert(place, (start, end, True))
    pafs = random.permutation(2 * len(limbs)).reshape(-1, 2).tolist()
    names = tuple(f"point {number}" for number in range(size))
    dataset = tuple(names[number] for number in random.permutation(size)[num_derived:])
    return KeypointSet(
        name="random",
        keypoints=names,
        dataset_keypoints=dataset,
        sigmas=tuple(random.uniform(0.02, 0.2, len(dataset)).tolist()),
        derived=tuple((name, dataset[:1]) for name in names if name not in dataset),
        limbs=tuple(
            Limb(start, end, paf_x, paf_y, fills)
            for (start, end, fills), (paf_x, paf_y) in zip(limbs, pafs, strict=True)
        ),
    )


@st.composite
def random_sets(draw: st.DrawFn) -> KeypointSet:
    """Draws a set of 2 to 100 keypoints, most of them small."""
    size = draw(st.one_of(st.integers(2, 8), st.integers(2, 30), st.integers(2, 100)))
    return random_set(
        size,
        num_derived=draw(st.integers(0, min(4, size - 1))),
        num_fills=draw(st.integers(0, 5)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
