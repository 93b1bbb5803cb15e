"""Keypoint sets that tests use: random ones, and small ones as users write them."""

from hypothesis import strategies as st

from distributed_pose.keypoints.sets import KeypointSet, Limb


def set_of(
    size: int, *, num_derived: int = 0, num_fills: int = 0, seed: int = 0, name: str = "random"
) -> KeypointSet:
    """Returns a random set: limbs form a tree, and limbs that fill lie anywhere among them.

    Args:
        size: number of the network's keypoints.
        num_derived: number of them that the dataset does not have.
        num_fills: number of further limbs, which fill in keypoints.
        seed: seed of all choices.
        name: name of the set.
    """
    # Without hypothesis, because a set of a hundred keypoints would need a thousand choices.
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(size).tolist()
    ends = [(order[random.integers(0, n)], order[n], False) for n in range(1, size)]
    for _ in range(num_fills):
        place = int(random.integers(1, len(ends) + 1))
        reached = sorted({end for start, end, _ in ends[:place]} | {ends[0][0]})
        start, end = random.choice(reached, 2, replace=False).tolist()
        ends.insert(place, (start, end, True))
    channels = random.permutation(2 * len(ends)).reshape(-1, 2).tolist()
    names = tuple(f"point_{number}" for number in range(size))
    in_dataset = random.permutation(size)[num_derived:].tolist()
    dataset = tuple(names[number] for number in in_dataset)
    return KeypointSet(
        name=name,
        keypoints=names,
        dataset_keypoints=dataset,
        sigmas=tuple(random.uniform(0.02, 0.12, len(dataset)).tolist()),
        derived=tuple((one, dataset[:1]) for one in names if one not in dataset),
        limbs=tuple(
            Limb(a, b, *paf, fills) for (a, b, fills), paf in zip(ends, channels, strict=True)
        ),
    )


@st.composite
def keypoint_sets(draw: st.DrawFn, max_size: int = 100) -> KeypointSet:
    """Draws a set of 2 to `max_size` keypoints."""
    size = draw(st.one_of(st.integers(2, 8), st.integers(2, max_size)))
    return set_of(
        size,
        num_derived=draw(st.integers(0, min(4, size - 1))),
        num_fills=draw(st.integers(0, 5)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
