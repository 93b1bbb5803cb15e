"""Assembles limbs into people.

Legend: P people, K keypoints of the network, M candidates (see `peaks`), L limbs (see `limbs`),
51 = x, y and visibility of the 17 COCO keypoints.
"""

from typing import NamedTuple

import numpy as np

from distributed_pose.pose.kernels import compiled, compiled_part
from distributed_pose.pose.limbs import Limbs
from distributed_pose.pose.peaks import Candidates
from distributed_pose.pose.resample import Doubles, Ints
from distributed_pose.pose.skeleton import EAR_LIMBS, LIMBS, NUM_KEYPOINTS, TO_COCO

MIN_KEYPOINTS = 3
MIN_MEAN_SCORE = 0.2

_LIMBS = np.array(LIMBS)
_FIRST_EAR_LIMB = min(EAR_LIMBS)
_NOT_IN_COCO = -1
_TO_COCO = np.array([_NOT_IN_COCO if column is None else column for column in TO_COCO])
_NONE = -1


class Poses(NamedTuple):
    """The decoded people of one or more images.

    Attributes:
        keypoints_P51: float64 [P, 51], in COCO's order: x and y in image pixels and visibility 1,
            or three zeros for a keypoint that was not detected.
        scores_P: float64 [P], score of each person.
    """

    keypoints_P51: Doubles
    scores_P: Doubles


class People(NamedTuple):
    """Partially assembled people, in buffers with one row per limb.

    Attributes:
        members_PK: int64 [P, 18], the candidate of each keypoint, -1 for none.
        scores_P: float64 [P], sum of the keypoint and limb scores of each person.
        counts_P: int64 [P], keypoints per person, without those that ear limbs fill in.
        owners_M: int64 [M], the person that a limb has given each candidate to, -1 for none. There
            is at most one: limbs form a tree of keypoints apart from those that fill in ears.
    """

    members_PK: Ints
    scores_P: Doubles
    counts_P: Ints
    owners_M: Ints


@compiled
def assemble(candidates: Candidates, limbs: Limbs, people: People, poses: Poses, start: int) -> int:
    """Writes the assembled poses from row `start` on, and returns the row after the last one.

    The result is complete only if `poses` has at least that many rows.
    """
    number = 0
    people.owners_M[: candidates.offsets_K[-1]] = _NONE
    for kind in range(len(_LIMBS)):
        for limb in range(limbs.offsets[kind], limbs.offsets[kind + 1]):
            if kind >= _FIRST_EAR_LIMB:
                _fill_ear(people, kind, limbs.a_L[limb], limbs.b_L[limb])
            elif people.owners_M[limbs.a_L[limb]] != _NONE:
                _extend(people, candidates, limbs, kind, limb)
            else:
                _start(people, number, candidates, limbs, kind, limb)
                number += 1
    for person in range(number):
        count = people.counts_P[person]
        if count >= MIN_KEYPOINTS and people.scores_P[person] / count >= MIN_MEAN_SCORE:
            if start < len(poses.scores_P):
                _to_coco(people, person, candidates, poses, start)
            start += 1
    return start


@compiled_part
def _start(
    people: People, person: int, candidates: Candidates, limbs: Limbs, kind: int, limb: int
) -> None:
    a, b = limbs.a_L[limb], limbs.b_L[limb]
    people.members_PK[person] = _NONE
    people.members_PK[person, _LIMBS[kind, 0]] = a
    people.members_PK[person, _LIMBS[kind, 1]] = b
    keypoints = np.float64(candidates.scores_M[a]) + np.float64(candidates.scores_M[b])
    people.scores_P[person] = keypoints + limbs.scores_L[limb]
    people.counts_P[person] = 2
    people.owners_M[a] = people.owners_M[b] = person


@compiled_part
def _extend(people: People, candidates: Candidates, limbs: Limbs, kind: int, limb: int) -> None:
    """Adds a limb to the person that has its first candidate."""
    a, b = limbs.a_L[limb], limbs.b_L[limb]
    person = people.owners_M[a]
    people.members_PK[person, _LIMBS[kind, 1]] = b
    people.counts_P[person] += 1
    people.scores_P[person] += np.float64(candidates.scores_M[b]) + limbs.scores_L[limb]
    people.owners_M[b] = person


@compiled_part
def _fill_ear(people: People, kind: int, a: int, b: int) -> None:
    keypoint_a, keypoint_b = _LIMBS[kind, 0], _LIMBS[kind, 1]
    with_a, with_b = people.owners_M[a], people.owners_M[b]
    if with_a != _NONE and people.members_PK[with_a, keypoint_b] == _NONE:
        people.members_PK[with_a, keypoint_b] = b
    if with_b != _NONE and people.members_PK[with_b, keypoint_a] == _NONE:
        people.members_PK[with_b, keypoint_a] = a


@compiled_part
def _to_coco(people: People, person: int, candidates: Candidates, poses: Poses, row: int) -> None:
    # COCO has no neck, so the published score does not count one of the keypoints.
    poses.scores_P[row] = people.scores_P[person] * max(0, people.counts_P[person] - 1)
    poses.keypoints_P51[row] = 0
    for keypoint in range(NUM_KEYPOINTS):
        candidate, column = people.members_PK[person, keypoint], 3 * _TO_COCO[keypoint]
        if candidate != _NONE and column >= 0:
            # A pixel's centre is half a pixel from its corner.
            poses.keypoints_P51[row, column] = candidates.x_M[candidate] + 0.5
            poses.keypoints_P51[row, column + 1] = candidates.y_M[candidate] + 0.5
            poses.keypoints_P51[row, column + 2] = 1
