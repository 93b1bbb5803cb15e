"""Names the kind of error of each keypoint, person and detection.

Source: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation",
ICCV 2017, for the kinds and their limits of similarity; OKS is COCO's.

Array legend: M matched pairs of detection and person, P people, D detections, K keypoints of the
dataset, O other people.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.metrics.matches import Bools, Floats, Ints, Matches, match

# The kinds of a keypoint that a matched person has a label for; the first is not an error.
GOOD, JITTER, INVERSION, SWAP, MISSED = range(5)
KEYPOINT_KINDS = ("good", "jitter", "inversion", "swap", "missed")
UNLABELLED = -1

# The least similarity of a matched person, of a keypoint that is near, and of a good one.
_LEAST_OKS = 0.1
_NEAR, _GOOD = 0.5, 0.85

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}

# The parts of names such as `left_eye`, `LeftEye` and `eye.L`.
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def opposites(names: Sequence[str]) -> Ints:
    """Returns the position of each keypoint's counterpart on the other side, or else its own.

    Args:
        names: names of the keypoints; two are counterparts if they differ in left and right only.
    """
    parts = [tuple(_PARTS.findall(name)) for name in names]
    places = {tuple(map(str.lower, one)): number for number, one in enumerate(parts)}
    other = (tuple(_SIDES.get(part.lower(), part.lower()) for part in one) for one in parts)
    return np.array([places.get(one, number) for number, one in enumerate(other)], np.int64)


@dataclass(frozen=True)
class Errors:
    """The kinds of error of a run.

    Attributes:
        detection_M: position of each matched detection.
        person_M: position of the person that it matches.
        oks_M: OKS of the pair.
        kind_MK: kind of each keypoint, an index into `KEYPOINT_KINDS`; `UNLABELLED` if the person
            has no label for it.
        missed_people: positions of people that no detection matches.
        background: positions of detections that match no labelled person.
        duplicates: positions of further detections of a person that another one matches.
    """

    detection_M: Ints
    person_M: Ints
    oks_M: Floats
    kind_MK: Ints
    missed_people: Ints
    background: Ints
    duplicates: Ints


def find_errors(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    keypoints: KeypointSet,
) -> Errors:
    """Returns the errors of detections.

    People and detections are matched by OKS as COCO does, from 0.1 on. Those that remain are
    matched by OKS without regard to left and right, from 0.5 on, so that a person whose sides are
    inverted is neither missed nor background. Crowds and what COCO ignores are left out.

    Args:
        people: annotations of a `CocoIndex`.
        detections: detections in canonical order.
        image_ids: ids of the images, ascending.
        keypoints: keypoints of people and detections.
    """
    matches = match(people, detections, image_ids, keypoints.sigmas, (_LEAST_OKS,))
    truth = _Truth(people, keypoints)
    found_DxKx3 = _as_points(detections, len(keypoints.sigmas))
    person_D, is_ignored_D = matches.person_TD[0], matches.is_ignored_TD[0]
    is_pair_D = (person_D >= 0) & ~is_ignored_D
    pairs = dict(
        zip(matches.detection_D[is_pair_D].tolist(), person_D[is_pair_D].tolist(), strict=True)
    )
    spare = matches.detection_D[(person_D < 0) & ~is_ignored_D]
    missed = np.setdiff1d(
        np.flatnonzero(matches.is_counted_P & (matches.image_P >= 0)), [*pairs.values()]
    )
    pairs |= _inverted_pairs(spare, missed, detections, found_DxKx3, truth)
    detection_M = np.array(sorted(pairs), np.int64)
    person_M = np.array([pairs[row] for row in detection_M.tolist()], np.int64)
    spare = np.setdiff1d(spare, detection_M)
    is_duplicate = _repeats(spare, person_M, detections, found_DxKx3, truth)
    return Errors(
        detection_M,
        person_M,
        _pair_oks(found_DxKx3[detection_M], person_M, truth),
        _kinds(found_DxKx3[detection_M], person_M, matches, truth),
        np.setdiff1d(missed, person_M),
        spare[~is_duplicate],
        spare[is_duplicate],
    )


class _Truth:
    """The labelled keypoints and areas of people.

    Args:
        people: annotations of a `CocoIndex`.
        keypoints: their keypoints.
    """

    def __init__(self, people: Sequence[Mapping[str, Any]], keypoints: KeypointSet) -> None:
        self.same_K: Ints = np.arange(len(keypoints.sigmas))
        self.opposite_K = opposites(keypoints.dataset_keypoints)
        self._variances_K: Floats = (2 * np.array(keypoints.sigmas)) ** 2
        keypoints_PxKx3 = _as_points(people, len(keypoints.sigmas))
        self.image_ids = [one["image_id"] for one in people]
        self.xy_PxKx2 = keypoints_PxKx3[..., :2]
        self.is_labelled_PK: Bools = keypoints_PxKx3[..., 2] > 0
        area_P = np.array([one["area"] for one in people], np.float64)
        self.area_P: Floats = area_P + np.spacing(1)

    def similarity(self, xy_MxKx2: Floats, person_M: Ints, targets_K: Ints) -> Floats:
        """Returns the similarity of points with the given keypoints of people, [M, K].

        It is 0 where the keypoint is not labelled.
        """
        offset_MxKx2 = xy_MxKx2 - self.xy_PxKx2[person_M][:, targets_K]
        scale_MK = 2 * self.area_P[person_M, None] * self._variances_K
        similarity_MK = np.exp(-(offset_MxKx2**2).sum(axis=2) / scale_MK)
        return np.where(self.is_labelled_PK[person_M][:, targets_K], similarity_MK, 0.0)


def _as_points(entries: Sequence[Mapping[str, Any]], num_keypoints: int) -> Floats:
    """Returns the keypoints of people or detections, [P, K, 3]."""
    values = np.array([one["keypoints"] for one in entries], np.float64)
    return values.reshape(-1, num_keypoints, 3)


def _pair_oks(found_MxKx3: Floats, person_M: Ints, truth: _Truth) -> Floats:
    similarity_MK = truth.similarity(found_MxKx3[..., :2], person_M, truth.same_K)
    labelled_M = truth.is_labelled_PK[person_M].sum(axis=1)
    return np.asarray(similarity_MK.sum(axis=1) / np.maximum(labelled_M, 1), np.float64)


def _sideless_oks(found_Kx3: Floats, person_M: Ints, truth: _Truth) -> Floats:
    """Returns OKS of one detection with people, each keypoint on the better of the two sides."""
    xy_MxKx2 = np.broadcast_to(found_Kx3[:, :2], (len(person_M), *found_Kx3[:, :2].shape))
    same_MK = truth.similarity(xy_MxKx2, person_M, truth.same_K)
    other_MK = truth.similarity(xy_MxKx2[:, truth.opposite_K], person_M, truth.same_K)
    labelled_M = truth.is_labelled_PK[person_M].sum(axis=1)
    best_MK = np.maximum(same_MK, other_MK)
    return np.asarray(best_MK.sum(axis=1) / np.maximum(labelled_M, 1), np.float64)


def _by_image(rows: Ints, image_ids: Sequence[int]) -> dict[int, Ints]:
    ordered = sorted(rows.tolist(), key=lambda row: image_ids[row])
    groups = groupby(ordered, key=lambda row: image_ids[row])
    return {image_id: np.array([*group], np.int64) for image_id, group in groups}


def _inverted_pairs(
    spare: Ints,
    missed: Ints,
    detections: Sequence[Mapping[str, Any]],
    found_DxKx3: Floats,
    truth: _Truth,
) -> dict[int, int]:
    """Returns further pairs of spare detections and missed people, by descending score."""
    left = {image: {*rows.tolist()} for image, rows in _by_image(missed, truth.image_ids).items()}
    pairs = {}
    for row in sorted(spare.tolist(), key=lambda row: -float(detections[row]["score"])):
        people = np.array(sorted(left.get(detections[row]["image_id"], ())), np.int64)
        if not len(people):
            continue
        oks_M = _sideless_oks(found_DxKx3[row], people, truth)
        best = int(oks_M.argmax())
        if oks_M[best] >= _NEAR:
            pairs[row] = int(people[best])
            left[detections[row]["image_id"]].discard(pairs[row])
    return pairs


def _repeats(
    spare: Ints,
    person_M: Ints,
    detections: Sequence[Mapping[str, Any]],
    found_DxKx3: Floats,
    truth: _Truth,
) -> Bools:
    """Returns whether each spare detection is similar to a person that another one matches."""
    known = _by_image(person_M, truth.image_ids)

    def repeats() -> Iterator[bool]:
        for row in spare.tolist():
            people = known.get(detections[row]["image_id"])
            yield people is not None and bool(
                (_sideless_oks(found_DxKx3[row], people, truth) >= _LEAST_OKS).any()
            )

    return np.fromiter(repeats(), bool, len(spare))


def _kinds(found_MxKx3: Floats, person_M: Ints, matches: Matches, truth: _Truth) -> Ints:
    """Returns the kind of each keypoint of matched people, [M, K]."""
    xy_MxKx2 = found_MxKx3[..., :2]
    own_MK = truth.similarity(xy_MxKx2, person_M, truth.same_K)
    opposite_MK = truth.similarity(xy_MxKx2, person_M, truth.opposite_K)
    opposite_MK[:, truth.opposite_K == truth.same_K] = 0
    others_MK = _others(xy_MxKx2, person_M, matches, truth)
    is_inverted_MK = (opposite_MK >= _NEAR) & (opposite_MK >= others_MK)
    kind_MK = np.select(
        [
            ~truth.is_labelled_PK[person_M],
            found_MxKx3[..., 2] <= 0,
            own_MK >= _GOOD,
            own_MK >= _NEAR,
            is_inverted_MK,
            others_MK >= _NEAR,
        ],
        [UNLABELLED, MISSED, GOOD, JITTER, INVERSION, SWAP],
        MISSED,
    )
    return kind_MK.astype(np.int64)


def _others(xy_MxKx2: Floats, person_M: Ints, matches: Matches, truth: _Truth) -> Floats:
    """Returns the highest similarity with the keypoint, of either side, of another person."""
    people = _by_image(np.flatnonzero(matches.image_P >= 0), truth.image_ids)
    best_MK = np.zeros(xy_MxKx2.shape[:2])
    for row, person in enumerate(person_M.tolist()):
        others = people[truth.image_ids[person]]
        others = others[others != person]
        if not len(others):
            continue
        xy_OxKx2 = np.broadcast_to(xy_MxKx2[row], (len(others), *xy_MxKx2[row].shape))
        for targets_K in (truth.same_K, truth.opposite_K):
            near_OK = truth.similarity(xy_OxKx2, others, targets_K)
            best_MK[row] = np.maximum(best_MK[row], near_OK.max(axis=0))
    return best_MK
