"""Assembles limbs into people.

Legend: P people, K keypoints of the network, M candidates (see `peaks`), L limbs (see `limbs`),
V = x, y and visibility of each keypoint of the dataset.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part
from distributed_pose.pose.limbs import Limbs
from distributed_pose.pose.peaks import Candidates
from distributed_pose.pose.resample import Doubles, Ints
from distributed_pose.pose.topology import Topology

MIN_MEAN_SCORE = 0.2

_NONE = -1


class Poses(NamedTuple):
    """The decoded people of one or more images.

    Attributes:
        keypoints_PV: float64 [P, V], in the dataset's order: x and y in image pixels and
            visibility 1, or three zeros for a keypoint that was not detected.
        scores_P: float64 [P], score of each person.
    """

    keypoints_PV: Doubles
    scores_P: Doubles


def no_poses(num_dataset_keypoints: int) -> Poses:
    """Returns the poses of images without people."""
    return Poses(np.empty((0, 3 * num_dataset_keypoints)), np.empty(0))


class People(NamedTuple):
    """Partially assembled people, in buffers with at least one row per limb.

    The people that have a candidate are a list: `first_M` is the first of them, and `next_PK` the
    next one after each. Without limbs that fill in keypoints it has one person at most, because
    the other limbs form a tree of keypoints.

    Attributes:
        members_PK: int64 [P, K], the candidate of each keypoint, -1 for none.
        next_PK: int64 [P, K], the next person with the same candidate, -1 for none.
        scores_P: float64 [P], sum of the keypoint and limb scores of each person.
        counts_P: int64 [P], keypoints per person, without those that limbs fill in.
        first_M: int64 [M], the first person that has each candidate, -1 for none.
    """

    members_PK: Ints
    next_PK: Ints
    scores_P: Doubles
    counts_P: Ints
    first_M: Ints


@compiled
def assemble(
    candidates: Candidates,
    limbs: Limbs,
    people: People,
    poses: Poses,
    start: int,
    topology: Topology,
) -> int:
    """Writes the assembled poses from row `start` on, and returns the row after the last one.

    The result is complete only if `poses` has at least that many rows.
    """
    number = 0
    people.first_M[: candidates.offsets_K[-1]] = _NONE
    for kind in range(len(topology.limbs_L4)):
        ends = topology.limbs_L4[kind, 0], topology.limbs_L4[kind, 1]
        for limb in range(limbs.offsets[kind], limbs.offsets[kind + 1]):
            if topology.fills_L[kind]:
                _fill(people, ends, limbs.a_L[limb], limbs.b_L[limb])
            elif people.first_M[limbs.a_L[limb]] != _NONE:
                _extend(people, candidates, limbs, ends, limb)
            else:
                _start(people, number, candidates, limbs, ends, limb)
                number += 1
    for person in range(number):
        count = people.counts_P[person]
        is_person = count >= topology.min_keypoints
        if is_person and people.scores_P[person] / count >= MIN_MEAN_SCORE:
            if start < len(poses.scores_P):
                _to_dataset(people, person, candidates, poses, start, topology)
            start += 1
    return start


@compiled_part
def _give(people: People, person: int, keypoint: int, candidate: int) -> None:
    """Gives a person a candidate of a keypoint that the person does not have yet."""
    people.members_PK[person, keypoint] = candidate
    people.next_PK[person, keypoint] = people.first_M[candidate]
    people.first_M[candidate] = person


@compiled_part
def _start(
    people: People,
    person: int,
    candidates: Candidates,
    limbs: Limbs,
    ends: tuple[int, int],
    limb: int,
) -> None:
    a, b = limbs.a_L[limb], limbs.b_L[limb]
    people.members_PK[person] = _NONE
    _give(people, person, ends[0], a)
    _give(people, person, ends[1], b)
    keypoints = np.float64(candidates.scores_M[a]) + np.float64(candidates.scores_M[b])
    people.scores_P[person] = keypoints + limbs.scores_L[limb]
    people.counts_P[person] = 2


@compiled_part
def _extend(
    people: People, candidates: Candidates, limbs: Limbs, ends: tuple[int, int], limb: int
) -> None:
    """Adds a limb to each person that has its first candidate."""
    a, b = limbs.a_L[limb], limbs.b_L[limb]
    person = people.first_M[a]
    while person != _NONE:
        _give(people, person, ends[1], b)
        people.counts_P[person] += 1
        people.scores_P[person] += np.float64(candidates.scores_M[b]) + limbs.scores_L[limb]
        person = people.next_PK[person, ends[0]]


@compiled_part
def _fill(people: People, ends: tuple[int, int], a: int, b: int) -> None:
    """Gives the second candidate to people that have the first, and conversely."""
    person = people.first_M[a]
    while person != _NONE:
        if people.members_PK[person, ends[1]] == _NONE:
            _give(people, person, ends[1], b)
        person = people.next_PK[person, ends[0]]
    person = people.first_M[b]
    while person != _NONE:
        if people.members_PK[person, ends[0]] == _NONE:
            _give(people, person, ends[0], a)
        person = people.next_PK[person, ends[1]]


@compiled_part
def _to_dataset(
    people: People,
    person: int,
    candidates: Candidates,
    poses: Poses,
    row: int,
    topology: Topology,
) -> None:
    # COCO has no neck, and the published score counts one keypoint less than the person has.
    counted = max(0, people.counts_P[person] - topology.num_derived)
    poses.scores_P[row] = people.scores_P[person] * counted
    poses.keypoints_PV[row] = 0
    for keypoint in range(len(topology.to_dataset_K)):
        candidate = people.members_PK[person, keypoint]
        column = 3 * topology.to_dataset_K[keypoint]
        if candidate != _NONE and column >= 0:
            # A pixel's centre is half a pixel from its corner.
            poses.keypoints_PV[row, column] = candidates.x_M[candidate] + 0.5
            poses.keypoints_PV[row, column + 1] = candidates.y_M[candidate] + 0.5
            poses.keypoints_PV[row, column + 2] = 1
