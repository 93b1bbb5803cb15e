"""Names the kind of error of each keypoint, person and detection.

Source: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation",
ICCV 2017, for the kinds and their limits of similarity; OKS is COCO's.

Array legend: M matched pairs of detection and person, 17 keypoints, K keypoints of others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from distributed_pose.metrics.matches import Bools, Floats, Ints, Matches, match
from distributed_pose.pose.skeleton import COCO_KEYPOINTS, NUM_COCO_KEYPOINTS

# The kinds of a keypoint that a matched person has a label for; the first is not an error.
GOOD, JITTER, INVERSION, SWAP, MISSED = range(5)
KEYPOINT_KINDS = ("good", "jitter", "inversion", "swap", "missed")
UNLABELLED = -1

# The least similarity of a matched person, of a keypoint that is near, and of a good one.
_LEAST_OKS = 0.1
_NEAR, _GOOD = 0.5, 0.85

# COCO's constants per keypoint, from which the tolerance of a person's size follows.
_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
_VARIANCES = (2 * _SIGMAS) ** 2


def _opposite(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


# The position of each keypoint's counterpart on the other side of the body.
OPPOSITE_17 = np.array([COCO_KEYPOINTS.index(_opposite(name)) for name in COCO_KEYPOINTS])


@dataclass(frozen=True)
class Errors:
    """The kinds of error of a run.

    Attributes:
        detection_M: position of each matched detection.
        person_M: position of the person that it matches.
        oks_M: OKS of the pair.
        kind_M17: kind of each keypoint, an index into `KEYPOINT_KINDS`; `UNLABELLED` if the person
            has no label for it.
        missed_people: positions of people that no detection matches.
        background: positions of detections that match no labelled person.
        duplicates: positions of further detections of a person that another one matches.
    """

    detection_M: Ints
    person_M: Ints
    oks_M: Floats
    kind_M17: Ints
    missed_people: Ints
    background: Ints
    duplicates: Ints


def find_errors(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
) -> Errors:
    """Returns the errors of detections.

    People and detections are matched by OKS as COCO does, from 0.1 on. Those that remain are
    matched by OKS without regard to left and right, from 0.5 on, so that a person whose sides are
    inverted is neither missed nor background. Crowds and what COCO ignores are left out.

    Args:
        people: annotations of a `CocoIndex`.
        detections: detections in canonical order.
        image_ids: ids of the images, ascending.
    """
    matches = match(people, detections, image_ids, (_LEAST_OKS,))
    truth = _Truth(people)
    found_DX17x3 = np.array([one["keypoints"] for one in detections], np.float64)
    found_Dx17x3 = found_DX17x3.reshape(-1, NUM_COCO_KEYPOINTS, 3)
    person_D, is_ignored_D = matches.person_TD[0], matches.is_ignored_TD[0]
    is_pair_D = (person_D >= 0) & ~is_ignored_D
    pairs = dict(
        zip(matches.detection_D[is_pair_D].tolist(), person_D[is_pair_D].tolist(), strict=True)
    )
    spare = matches.detection_D[(person_D < 0) & ~is_ignored_D]
    missed = np.setdiff1d(
        np.flatnonzero(matches.is_counted_P & (matches.image_P >= 0)), [*pairs.values()]
    )
    pairs |= _inverted_pairs(spare, missed, detections, found_Dx17x3, truth)
    detection_M = np.array(sorted(pairs), np.int64)
    person_M = np.array([pairs[row] for row in detection_M.tolist()], np.int64)
    spare = np.setdiff1d(spare, detection_M)
    is_duplicate = _repeats(spare, person_M, detections, found_Dx17x3, truth)
    return Errors(
        detection_M,
        person_M,
        _pair_oks(found_Dx17x3[detection_M], person_M, truth),
        _kinds(found_Dx17x3[detection_M], person_M, matches, truth),
        np.setdiff1d(missed, person_M),
        spare[~is_duplicate],
        spare[is_duplicate],
    )


class _Truth:
    """The labelled keypoints and areas of people.

    Args:
        people: annotations of a `CocoIndex`.
    """

    def __init__(self, people: Sequence[Mapping[str, Any]]) -> None:
        values = np.array([one["keypoints"] for one in people], np.float64)
        keypoints_Px17x3 = values.reshape(-1, NUM_COCO_KEYPOINTS, 3)
        self.image_ids = [one["image_id"] for one in people]
        self.xy_Px17x2 = keypoints_Px17x3[..., :2]
        self.is_labelled_P17: Bools = keypoints_Px17x3[..., 2] > 0
        area_P = np.array([one["area"] for one in people], np.float64)
        self.area_P: Floats = area_P + np.spacing(1)

    def similarity(self, xy_Mx17x2: Floats, person_M: Ints, targets_17: Ints) -> Floats:
        """Returns the similarity of points with the given keypoints of people, [M, 17].

        It is 0 where the keypoint is not labelled.
        """
        offset_Mx17x2 = xy_Mx17x2 - self.xy_Px17x2[person_M][:, targets_17]
        scale_M17 = 2 * self.area_P[person_M, None] * _VARIANCES
        similarity_M17 = np.exp(-(offset_Mx17x2**2).sum(axis=2) / scale_M17)
        return np.where(self.is_labelled_P17[person_M][:, targets_17], similarity_M17, 0.0)


_SAME_17 = np.arange(NUM_COCO_KEYPOINTS)


def _pair_oks(found_Mx17x3: Floats, person_M: Ints, truth: _Truth) -> Floats:
    similarity_M17 = truth.similarity(found_Mx17x3[..., :2], person_M, _SAME_17)
    labelled_M = truth.is_labelled_P17[person_M].sum(axis=1)
    return np.asarray(similarity_M17.sum(axis=1) / np.maximum(labelled_M, 1), np.float64)


def _sideless_oks(found_17x3: Floats, person_M: Ints, truth: _Truth) -> Floats:
    """Returns OKS of one detection with people, each keypoint on the better of the two sides."""
    xy_Mx17x2 = np.broadcast_to(found_17x3[:, :2], (len(person_M), NUM_COCO_KEYPOINTS, 2))
    same_M17 = truth.similarity(xy_Mx17x2, person_M, _SAME_17)
    other_M17 = truth.similarity(xy_Mx17x2[:, OPPOSITE_17], person_M, _SAME_17)
    labelled_M = truth.is_labelled_P17[person_M].sum(axis=1)
    best_M17 = np.maximum(same_M17, other_M17)
    return np.asarray(best_M17.sum(axis=1) / np.maximum(labelled_M, 1), np.float64)


def _by_image(rows: Ints, image_ids: Sequence[int]) -> dict[int, Ints]:
    ordered = sorted(rows.tolist(), key=lambda row: image_ids[row])
    groups = groupby(ordered, key=lambda row: image_ids[row])
    return {image_id: np.array([*group], np.int64) for image_id, group in groups}


def _inverted_pairs(
    spare: Ints,
    missed: Ints,
    detections: Sequence[Mapping[str, Any]],
    found_Dx17x3: Floats,
    truth: _Truth,
) -> dict[int, int]:
    """Returns further pairs of spare detections and missed people, by descending score."""
    left = {image: {*rows.tolist()} for image, rows in _by_image(missed, truth.image_ids).items()}
    pairs = {}
    for row in sorted(spare.tolist(), key=lambda row: -float(detections[row]["score"])):
        people = np.array(sorted(left.get(detections[row]["image_id"], ())), np.int64)
        if not len(people):
            continue
        oks_M = _sideless_oks(found_Dx17x3[row], people, truth)
        best = int(oks_M.argmax())
        if oks_M[best] >= _NEAR:
            pairs[row] = int(people[best])
            left[detections[row]["image_id"]].discard(pairs[row])
    return pairs


def _repeats(
    spare: Ints,
    person_M: Ints,
    detections: Sequence[Mapping[str, Any]],
    found_Dx17x3: Floats,
    truth: _Truth,
) -> Bools:
    """Returns whether each spare detection is similar to a person that another one matches."""
    known = _by_image(person_M, truth.image_ids)

    def repeats() -> Iterator[bool]:
        for row in spare.tolist():
            people = known.get(detections[row]["image_id"])
            yield people is not None and bool(
                (_sideless_oks(found_Dx17x3[row], people, truth) >= _LEAST_OKS).any()
            )

    return np.fromiter(repeats(), bool, len(spare))


def _kinds(found_Mx17x3: Floats, person_M: Ints, matches: Matches, truth: _Truth) -> Ints:
    """Returns the kind of each keypoint of matched people, [M, 17]."""
    xy_Mx17x2 = found_Mx17x3[..., :2]
    own_M17 = truth.similarity(xy_Mx17x2, person_M, _SAME_17)
    opposite_M17 = truth.similarity(xy_Mx17x2, person_M, OPPOSITE_17)
    opposite_M17[:, OPPOSITE_17 == _SAME_17] = 0
    others_M17 = _others(xy_Mx17x2, person_M, matches, truth)
    is_inverted_M17 = (opposite_M17 >= _NEAR) & (opposite_M17 >= others_M17)
    kind_M17 = np.select(
        [
            ~truth.is_labelled_P17[person_M],
            found_Mx17x3[..., 2] <= 0,
            own_M17 >= _GOOD,
            own_M17 >= _NEAR,
            is_inverted_M17,
            others_M17 >= _NEAR,
        ],
        [UNLABELLED, MISSED, GOOD, JITTER, INVERSION, SWAP],
        MISSED,
    )
    return kind_M17.astype(np.int64)


def _others(xy_Mx17x2: Floats, person_M: Ints, matches: Matches, truth: _Truth) -> Floats:
    """Returns the highest similarity with the keypoint, of either side, of another person."""
    people = _by_image(np.flatnonzero(matches.image_P >= 0), truth.image_ids)
    best_M17 = np.zeros(xy_Mx17x2.shape[:2])
    for row, person in enumerate(person_M.tolist()):
        others = people[truth.image_ids[person]]
        others = others[others != person]
        if not len(others):
            continue
        xy_Kx17x2 = np.broadcast_to(xy_Mx17x2[row], (len(others), NUM_COCO_KEYPOINTS, 2))
        for targets_17 in (_SAME_17, OPPOSITE_17):
            near_K17 = truth.similarity(xy_Kx17x2, others, targets_17)
            best_M17[row] = np.maximum(best_M17[row], near_K17.max(axis=0))
    return best_M17
