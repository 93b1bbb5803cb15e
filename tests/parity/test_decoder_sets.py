"""The compiled decoder equals the reference decoder for any keypoint set.

Legend: K heatmaps, P PAF channels, H and W map size in cells.
"""

import hashlib
import re
from collections import Counter
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from distributed_pose.keypoints.reading import coco_body
from distributed_pose.keypoints.sets import KeypointSet, Limb
from distributed_pose.pose.assemble import Poses
from distributed_pose.pose.decode import Decoder
from distributed_pose.pose.limits import NoPoseMapsError
from distributed_pose.pose.reference import reference_decode
from distributed_pose.records.images import Geometry
from tests.keypoint_sets import random_set, random_sets

Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

PHASES = (Phase.explicit, Phase.generate)

# Height and width in cells, and sizes of the image, of which some leave OpenCV a rest per row.
SCENES = (
    ((6, 8), Geometry(48, 63, 0, 1, 0, 0)),
    ((7, 5), Geometry(61, 33, 3, 0, 0, 2)),
    ((1, 9), Geometry(10, 90, 0, 0, 0, 0)),
    ((9, 13), Geometry(101, 77, 0, 4, 3, 0)),
)


def noise(keypoints: KeypointSet, grid_hw: tuple[int, int], seed: int) -> Maps:
    """Returns heatmaps with peaks everywhere, and fields to the lower right."""
    random = np.random.default_rng(seed)
    heatmaps_KHW = random.random((keypoints.num_heatmaps, *grid_hw), np.float32)
    pafs_PHW = random.random((keypoints.num_pafs, *grid_hw), np.float32) * 2 - np.float32(0.4)
    return heatmaps_KHW * random.choice(np.array([0.3, 0.7, 1], np.float32)), pafs_PHW


def decoded(keypoints: KeypointSet, maps: Maps, geometry: Geometry) -> Poses:
    """Returns the poses of both decoders, which must be equal or fail alike."""
    try:
        found = Decoder(keypoints).decode(*maps, geometry)
    except NoPoseMapsError as error:
        with pytest.raises(NoPoseMapsError, match=f"^{re.escape(error.message)}$"):
            reference_decode(*maps, geometry, keypoints)
        return Poses(np.empty((0, 0)), np.empty(0))
    expected = reference_decode(*maps, geometry, keypoints)
    np.testing.assert_array_equal(found.keypoints_PV, expected.keypoints_PV)
    np.testing.assert_array_equal(found.scores_P, expected.scores_P)
    return found


@settings(max_examples=25, derandomize=True, deadline=None, phases=PHASES)
@given(random_sets(), st.sampled_from(SCENES), st.integers(0, 2**32 - 1))
# Two and three keypoints have as many channels as OpenCV would resize with other code.
@example(random_set(2), SCENES[1], 0)
@example(random_set(3, num_derived=1, num_fills=2), SCENES[0], 1)
@example(random_set(100, num_derived=3, num_fills=5), SCENES[1], 2)
def test_the_decoders_agree_for_any_set(
    keypoints: KeypointSet, scene: tuple[tuple[int, int], Geometry], seed: int
) -> None:
    grid_hw, geometry = scene
    decoded(keypoints, noise(keypoints, grid_hw, seed), geometry)


@pytest.mark.slow
@settings(max_examples=400, derandomize=True, deadline=None, phases=PHASES)
@given(random_sets(), st.sampled_from(SCENES), st.integers(0, 2**32 - 1))
def test_the_decoders_agree_for_hundreds_of_sets(
    keypoints: KeypointSet, scene: tuple[tuple[int, int], Geometry], seed: int
) -> None:
    grid_hw, geometry = scene
    decoded(keypoints, noise(keypoints, grid_hw, seed), geometry)


def test_limbs_after_one_that_fills_extend_each_person_that_has_the_keypoint() -> None:
    names = ("a", "b", "c", "d", "e")
    # c is filled in from b, and d hangs on c.
    limbs = ((0, 1, False), (0, 2, False), (1, 2, True), (2, 3, False), (3, 4, False))
    keypoints = KeypointSet(
        name="filled",
        keypoints=names,
        dataset_keypoints=names,
        sigmas=(0.05,) * 5,
        derived=(),
        limbs=tuple(Limb(a, b, 2 * n, 2 * n + 1, fills) for n, (a, b, fills) in enumerate(limbs)),
    )
    owners = Counter[tuple[float, ...]]()
    for seed in range(20):
        maps = noise(keypoints, (9, 13), seed)
        points = decoded(keypoints, maps, SCENES[3][1]).keypoints_PV.reshape(-1, 5, 3)
        owners.update((seed, *xyv) for xyv in points[:, 3].tolist() if xyv[2])
    # A candidate of d that several people have was added after c was filled in.
    assert max(owners.values()) > 1


def test_a_set_of_two_keypoints_has_people() -> None:
    keypoints = random_set(2)
    poses = decoded(keypoints, noise(keypoints, (9, 13), 0), SCENES[3][1])
    assert poses.keypoints_PV.shape[1] == 6
    assert len(poses.scores_P)


def test_the_score_counts_the_keypoints_of_the_dataset() -> None:
    derived, none = (random_set(6, num_derived=number, seed=3) for number in (2, 0))
    assert derived.limbs == none.limbs
    maps = noise(none, (9, 13), 0)
    few, all_six = (decoded(one, maps, SCENES[3][1]).scores_P for one in (derived, none))
    assert len(few) == len(all_six) > 5
    counts = {round(float(ratio), 9) for ratio in few / all_six}
    assert counts <= {round((count - 2) / count, 9) for count in range(3, 7)}


def test_the_body_of_coco_has_the_poses_that_it_has_always_had() -> None:
    digest = hashlib.sha256()
    decoder = Decoder(coco_body())
    for (grid_hw, geometry), seed in product(SCENES, range(5)):
        maps = noise(coco_body(), grid_hw, seed)
        for values in decoder.decode(*maps, geometry):
            digest.update(values.tobytes())
    # Recorded before the decoder took keypoint sets.
    assert digest.hexdigest()[:16] == "633a31958ebc7efb"
