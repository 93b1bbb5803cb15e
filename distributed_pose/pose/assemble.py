"""Limbs to people.

Array legend: P people, 17 COCO keypoints, 3 x, y and visibility.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from distributed_pose.pose.limbs import Limb
from distributed_pose.pose.peaks import Candidates
from distributed_pose.pose.skeleton import EAR_LIMBS, LIMBS, NUM_COCO_KEYPOINTS, TO_COCO

MIN_KEYPOINTS = 3
MIN_MEAN_SCORE = 0.2


@dataclass(frozen=True)
class Poses:
    """People found in one image.

    Attributes:
        keypoints_P51: float64 [P, 51], COCO order: x and y in image pixels, visibility 1, or
            three zeros for a keypoint that was not found.
        scores_P: float64 [P].
    """

    keypoints_P51: npt.NDArray[np.float64]
    scores_P: npt.NDArray[np.float64]


@dataclass
class _Person:
    """Candidate index by keypoint. The ear limbs fill `members` and leave count and score."""

    members: dict[int, int]
    score: float
    count: int = field(default=2)


def assemble(candidates: Sequence[Candidates], limbs: Sequence[Sequence[Limb]]) -> Poses:
    """Returns the poses that the limbs make up.

    Args:
        candidates: of each keypoint, in the network's order.
        limbs: of each kind, in the order of `skeleton.LIMBS`.
    """
    people: list[_Person] = []
    for kind, found in enumerate(limbs):
        a, b = LIMBS[kind][:2]
        for limb in found:
            if kind in EAR_LIMBS:
                _fill_ear(people, a, b, limb)
            elif kind == 0 or not _extend(people, a, b, limb, candidates[b]):
                score = _sum(candidates[a].scores_M[limb.a], candidates[b].scores_M[limb.b])
                people.append(_Person({a: limb.a, b: limb.b}, score + limb.score))
    return _to_coco([p for p in people if _stands(p)], candidates)


def _extend(people: list[_Person], a: int, b: int, limb: Limb, b_candidates: Candidates) -> bool:
    extended = [person for person in people if person.members.get(a) == limb.a]
    for person in extended:
        person.members[b] = limb.b
        person.count += 1
        person.score += float(b_candidates.scores_M[limb.b]) + limb.score
    return bool(extended)


def _fill_ear(people: list[_Person], a: int, b: int, limb: Limb) -> None:
    for person in people:
        if person.members.get(a) == limb.a and b not in person.members:
            person.members[b] = limb.b
        elif person.members.get(b) == limb.b and a not in person.members:
            person.members[a] = limb.a


def _stands(person: _Person) -> bool:
    return person.count >= MIN_KEYPOINTS and person.score / person.count >= MIN_MEAN_SCORE


def _sum(first: np.float32, second: np.float32) -> float:
    return float(first) + float(second)


def _to_coco(people: Sequence[_Person], candidates: Sequence[Candidates]) -> Poses:
    keypoints_P51 = np.zeros((len(people), 3 * NUM_COCO_KEYPOINTS))
    scores_P = np.zeros(len(people))
    for row, person in enumerate(people):
        # COCO has no neck, so the published score leaves one keypoint out of the count.
        scores_P[row] = person.score * max(0, person.count - 1)
        for keypoint, index in person.members.items():
            column = TO_COCO[keypoint]
            if column is not None:
                x, y = candidates[keypoint].xy_M2[index]
                # A pixel's centre is half a pixel from its corner.
                keypoints_P51[row, 3 * column : 3 * column + 3] = x + 0.5, y + 0.5, 1
    return Poses(keypoints_P51, scores_P)
