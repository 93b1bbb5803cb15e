"""Breaks AP down by keypoint, by groups of images, and by the kinds of error.

Array legend: K keypoints of the dataset, M matched pairs, V = 3 x K values.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distributed_pose.metrics.error_kinds import KEYPOINT_KINDS, Errors
from distributed_pose.metrics.matches import match
from distributed_pose.metrics.precision_recall import PrecisionRecall

Entries = Sequence[Mapping[str, Any]]


def ap_by_keypoint(
    people: Entries, detections: Entries, image_ids: Sequence[int], sigmas: Sequence[float]
) -> list[float]:
    """Returns AP of each keypoint in the dataset's order: OKS of that keypoint alone.

    Only people with a label for the keypoint and detections that have the keypoint count. AP is -1
    if no person has the label.
    """
    return [
        PrecisionRecall(
            match(
                [_with_one_keypoint(one, keypoint) for one in people],
                [one for one in detections if one["keypoints"][3 * keypoint + 2] > 0],
                image_ids,
                sigmas,
            )
        ).ap()
        for keypoint in range(len(sigmas))
    ]


def ap_without(
    kind: str,
    errors: Errors,
    people: Entries,
    detections: Entries,
    image_ids: Sequence[int],
    sigmas: Sequence[float],
) -> float:
    """Returns AP as it would be without one kind of error.

    Args:
        kind: a kind of `KEYPOINT_KINDS`, whose keypoints get their true place; `missed_people`,
            which are no longer looked for; or `background` or `duplicates`, which are left out.
        errors: errors of the detections.
        people: annotations of a `CocoIndex`.
        detections: detections in canonical order.
        image_ids: ids of the images, ascending.
        sigmas: sigma of each keypoint in OKS.
    """
    if kind in KEYPOINT_KINDS:
        detections = _repaired(KEYPOINT_KINDS.index(kind), errors, people, detections)
    elif kind == "missed_people":
        missed = {*errors.missed_people.tolist()}
        people = [
            {**one, "num_keypoints": 0, "iscrowd": 0} if row in missed else one
            for row, one in enumerate(people)
        ]
    else:
        removed = {*getattr(errors, kind).tolist()}
        detections = [one for row, one in enumerate(detections) if row not in removed]
    return PrecisionRecall(match(people, detections, image_ids, sigmas)).ap()


def _with_one_keypoint(person: Mapping[str, Any], keypoint: int) -> Mapping[str, Any]:
    start, end = 3 * keypoint, 3 * keypoint + 3
    keypoints = [0] * len(person["keypoints"])
    keypoints[start:end] = person["keypoints"][start:end]
    return {**person, "keypoints": keypoints, "num_keypoints": int(keypoints[start + 2] > 0)}


def _repaired(
    kind: int, errors: Errors, people: Entries, detections: Entries
) -> list[Mapping[str, Any]]:
    """Returns detections whose keypoints of a kind of error are at their true place."""
    repaired = list(detections)
    pairs = zip(errors.detection_M, errors.person_M, errors.kind_MK == kind, strict=True)
    for row, person, is_wrong_K in pairs:
        if is_wrong_K.any():
            wrong_V = np.repeat(is_wrong_K, 3)
            found, true = detections[row]["keypoints"], people[person]["keypoints"]
            repaired[row] = {
                **detections[row],
                "keypoints": np.where(wrong_V, true, found).tolist(),
            }
    return repaired
