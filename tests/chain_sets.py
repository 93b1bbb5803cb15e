"""Keypoint sets of any size, whose limbs form a chain."""

from distributed_pose.keypoints.sets import KeypointSet, Limb


def chain_of(count: int) -> KeypointSet:
    """Returns a set of `count` keypoints, all of which the dataset has."""
    names = tuple(f"point_{number}" for number in range(count))
    return KeypointSet(
        name=f"chain_of_{count}",
        keypoints=names,
        dataset_keypoints=names,
        sigmas=(0.05,) * count,
        derived=(),
        limbs=tuple(Limb(n, n + 1, 2 * n, 2 * n + 1) for n in range(count - 1)),
    )
