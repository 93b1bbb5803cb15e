"""Explains the AP of a run: by keypoint, size and crowding, kind of error, and image.

Array legend: T thresholds, R recalls, P people, I images, M matched pairs, K keypoints of the
dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed_pose.data.coco import CocoIndex
from distributed_pose.data.entries import ListedId
from distributed_pose.metrics.breakdown import ap_by_keypoint, ap_without
from distributed_pose.metrics.error_kinds import GOOD, KEYPOINT_KINDS, Errors, find_errors
from distributed_pose.metrics.matches import AREAS, THRESHOLDS, Bools, Floats, Ints, Matches, match
from distributed_pose.metrics.precision_recall import PrecisionRecall

# Smallest and largest number of people in an image of each group.
_CROWDING = ((1, 1), (2, 3), (4, 7), (8, None))

# Thresholds of OKS that have a curve.
_CURVES = (0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Precision by recall at one threshold of OKS.

    Attributes:
        oks: threshold of OKS.
        ap: average precision at the threshold.
        precision: precision at the recalls 0, 0.01 to 1.
    """

    oks: float
    ap: float
    precision: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class KeypointFigures:
    """Accuracy of one of the dataset's keypoints.

    Attributes:
        name: name of the keypoint.
        ap: AP with OKS of this keypoint alone; -1 if it is never labelled.
        labelled: number of labels of the keypoint on people that a detection matches.
        kinds: number of them by kind: `good`, `jitter`, `inversion`, `swap`, `missed`.
    """

    name: str
    ap: float
    labelled: int
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """Accuracy in a group of people or images.

    Attributes:
        name: name of the group.
        ap: AP of the group; -1 if it has no labelled person.
        images: number of images in the group; null for groups of people.
        people: number of labelled people in the group.
        missed_people: number of them that no detection matches.
    """

    name: str
    ap: float
    images: int | None
    people: int
    missed_people: int


@dataclass(frozen=True, kw_only=True)
class ErrorKind:
    """How often an error of a kind occurs, and what it costs.

    Attributes:
        name: `jitter`, `inversion`, `swap` and `missed` of keypoints, `missed_people`, `background`
            and `duplicates`.
        count: number of keypoints, people or detections with the error.
        of: number of labelled keypoints of matched people, of people, or of detections.
        ap_gain: AP that the run would gain without the errors of this kind.
    """

    name: str
    count: int
    of: int
    ap_gain: float


@dataclass(frozen=True, kw_only=True)
class ImageFigures:
    """The errors in an image.

    Attributes:
        image_id: id in the annotation file.
        file_name: file name in the annotation file.
        people: number of labelled people.
        missed_people: number of them that no detection matches.
        wrong_keypoints: number of keypoints of matched people that are not good.
        background: number of detections that match no labelled person.
        loss: sum over the labelled people of 1 - OKS, plus 1 for each detection of no person.
    """

    image_id: ListedId
    file_name: str
    people: int
    missed_people: int
    wrong_keypoints: int
    background: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The explanation of a run's AP.

    Attributes:
        ap: AP of the detections; it equals the AP of the report.
        curves: precision-recall curves.
        keypoints: accuracy by keypoint, in the dataset's order.
        sizes: accuracy by size of the person.
        crowding: accuracy by number of labelled people in the image.
        errors: kinds of error, the most expensive first.
        images: the images with errors, the worst first.
    """

    ap: float
    curves: tuple[Curve, ...]
    keypoints: tuple[KeypointFigures, ...]
    sizes: tuple[GroupFigures, ...]
    crowding: tuple[GroupFigures, ...]
    errors: tuple[ErrorKind, ...]
    images: tuple[ImageFigures, ...]


def analyse(index: CocoIndex, detections: Sequence[Mapping[str, Any]]) -> Analysis:
    """Returns the explanation of a run's AP.

    Args:
        index: dataset of the run.
        detections: detections in canonical order, with the ids of the index.
    """
    people = index.ground_truth["annotations"]
    image_ids = [image.image_id for image in index.images]
    sigmas = index.keypoints.sigmas
    matches = match(people, detections, image_ids, sigmas)
    errors = find_errors(people, detections, image_ids, index.keypoints)
    measured = PrecisionRecall(matches)
    is_missed_P = np.isin(np.arange(len(people)), errors.missed_people)
    by_keypoint = ap_by_keypoint(people, detections, image_ids, sigmas)
    sizes = ((area, match(people, detections, image_ids, sigmas, area=area)) for area in AREAS)
    return Analysis(
        ap=measured.ap(),
        curves=_curves(measured),
        keypoints=_keypoints(index.keypoints.dataset_keypoints, by_keypoint, errors),
        sizes=tuple(_size(area, found, is_missed_P) for area, found in sizes if area != "all"),
        crowding=tuple(_crowding(matches, measured, is_missed_P)),
        errors=_error_kinds(errors, index, detections, measured.ap(), matches),
        images=_images(index, errors, matches, detections),
    )


def _curves(measured: PrecisionRecall) -> tuple[Curve, ...]:
    precision_TR = measured.precision()
    if precision_TR is None:
        return ()
    rows = [int(np.argmin(np.abs(np.array(THRESHOLDS) - oks))) for oks in _CURVES]
    return tuple(
        Curve(oks=oks, ap=float(values_R.mean()), precision=tuple(values_R.round(4).tolist()))
        for oks, values_R in zip(_CURVES, precision_TR[rows], strict=True)
    )


def _keypoints(
    names: Sequence[str], aps: Sequence[float], errors: Errors
) -> tuple[KeypointFigures, ...]:
    counts = [
        {kind: int((kinds_M == number).sum()) for number, kind in enumerate(KEYPOINT_KINDS)}
        for kinds_M in errors.kind_MK.T
    ]
    return tuple(
        KeypointFigures(name=name, ap=ap, labelled=sum(kinds.values()), kinds=kinds)
        for name, ap, kinds in zip(names, aps, counts, strict=True)
    )


def _size(area: str, matches: Matches, is_missed_P: Bools) -> GroupFigures:
    low, high = AREAS[area]
    name = f"{area}, over {low**0.5:.0f}² px"
    if high < AREAS["all"][1]:
        name = f"{area}, {low**0.5:.0f}² to {high**0.5:.0f}² px"
    return GroupFigures(
        name=name,
        ap=PrecisionRecall(matches).ap(),
        images=None,
        people=int(matches.is_counted_P.sum()),
        missed_people=int((matches.is_counted_P & is_missed_P).sum()),
    )


def _crowding(
    matches: Matches, measured: PrecisionRecall, is_missed_P: Bools
) -> list[GroupFigures]:
    people_I = _per_image(matches.image_P[matches.is_counted_P], matches)
    missed_I = _per_image(matches.image_P[is_missed_P], matches)
    groups = []
    for least, most in _CROWDING:
        in_group_I = (people_I >= least) & (people_I <= (most or people_I.max(initial=0)))
        several = f"{least} or more" if most is None else f"{least} to {most}"
        groups.append(
            GroupFigures(
                name="1 person" if most == 1 else f"{several} people",
                ap=measured.ap(in_group_I.astype(np.int64)),
                images=int(in_group_I.sum()),
                people=int(people_I[in_group_I].sum()),
                missed_people=int(missed_I[in_group_I].sum()),
            )
        )
    return groups


def _error_kinds(
    errors: Errors,
    index: CocoIndex,
    detections: Sequence[Mapping[str, Any]],
    ap: float,
    matches: Matches,
) -> tuple[ErrorKind, ...]:
    kinds_MK = errors.kind_MK
    labelled, num_people = int((kinds_MK >= GOOD).sum()), int(matches.is_counted_P.sum())
    counts = {
        kind: (int((kinds_MK == number).sum()), labelled)
        for number, kind in enumerate(KEYPOINT_KINDS)
        if number != GOOD
    }
    counts["missed_people"] = len(errors.missed_people), num_people
    counts["background"] = len(errors.background), len(detections)
    counts["duplicates"] = len(errors.duplicates), len(detections)
    people = index.ground_truth["annotations"]
    image_ids = [image.image_id for image in index.images]
    kinds = []
    for name, (count, total) in counts.items():
        scored = people, detections, image_ids, index.keypoints.sigmas
        gain = ap_without(name, errors, *scored) - ap if count else 0.0
        kinds.append(ErrorKind(name=name, count=count, of=total, ap_gain=gain))
    return tuple(sorted(kinds, key=lambda kind: -kind.ap_gain))


def _images(
    index: CocoIndex,
    errors: Errors,
    matches: Matches,
    detections: Sequence[Mapping[str, Any]],
) -> tuple[ImageFigures, ...]:
    positions = {image.image_id: position for position, image in enumerate(index.images)}
    detected_D = np.array([positions[one["image_id"]] for one in detections], np.int64)
    background_I = _per_image(detected_D[errors.background], matches)
    missed_I = _per_image(matches.image_P[errors.missed_people], matches)
    image_M = matches.image_P[errors.person_M]
    wrong_I = _per_image(image_M, matches, (errors.kind_MK > GOOD).sum(axis=1))
    loss_I = missed_I + background_I + _per_image(image_M, matches, 1 - errors.oks_M)
    people_I = _per_image(matches.image_P[matches.is_counted_P], matches)
    worst = [row for row in np.argsort(-loss_I, kind="stable").tolist() if loss_I[row] > 0]
    return tuple(
        ImageFigures(
            image_id=index.listed_id(index.images[row].image_id),
            file_name=index.images[row].file_name,
            people=int(people_I[row]),
            missed_people=int(missed_I[row]),
            wrong_keypoints=int(wrong_I[row]),
            background=int(background_I[row]),
            loss=float(loss_I[row]),
        )
        for row in worst
    )


def _per_image(rows: Ints, matches: Matches, weights: Floats | Ints | None = None) -> Floats:
    """Returns the number of rows, or the sum of their weights, for each image."""
    return np.bincount(rows, weights, minlength=matches.num_images).astype(np.float64)
