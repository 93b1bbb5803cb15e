"""Matches the detections of a run with the people of its images, as COCO does, for analysis.

hotcoco does the matching: its matches are those of pycocotools (a test compares them), in a
fiftieth of the time, and an analysis needs some thirty evaluations.

Array legend: T thresholds, D detections, P people, I images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_pose.metrics.coco_ap import PERSON_CATEGORY
from distributed_pose.metrics.fast_ap import quietly

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# COCO's ten thresholds of OKS, computed as COCO does.
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())

# COCO's areas in square pixels, by the name that its figures use.
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_NONE = -1


@dataclass(frozen=True)
class Matches:
    """Matches of detections with people.

    Attributes:
        scores_D: score of each detection that COCO looks at, which are the best 20 of an image.
        detection_D: position of each in the list of detections.
        image_D: position of its image in the list of images.
        person_TD: position of the person that it matches at each threshold; -1 if none.
        is_ignored_TD: whether COCO leaves the detection out of the count.
        is_counted_P: whether COCO counts a person: labelled, no crowd, and of the area.
        image_P: position of each person's image; -1 if the image is not evaluated.
        num_images: number of images.
    """

    scores_D: Floats
    detection_D: Ints
    image_D: Ints
    person_TD: Ints
    is_ignored_TD: Bools
    is_counted_P: Bools
    image_P: Ints
    num_images: int


def match(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float],
    thresholds: Sequence[float] = THRESHOLDS,
    area: str = "all",
) -> Matches:
    """Returns the matches of detections with people.

    Args:
        people: annotations of a `CocoIndex`.
        detections: detections in canonical order.
        image_ids: ids of the images, ascending.
        sigmas: sigma of each keypoint in OKS.
        thresholds: thresholds of OKS.
        area: one of `AREAS`.
    """
    positions = {image_id: position for position, image_id in enumerate(image_ids)}
    image_P = np.array([positions.get(one["image_id"], _NONE) for one in people], np.int64)
    is_counted_P = np.zeros(len(people), bool)
    scores, rows, images = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    persons = [np.empty((len(thresholds), 0), np.int64)]
    ignored = [np.empty((len(thresholds), 0), bool)]
    for one in _evaluated(people, detections, positions, sigmas, thresholds, area):
        ids = np.array(one["gtIds"], np.int64) - 1
        is_counted_P[ids] = ~np.array(one["gtIgnore"], bool)
        count = len(one["dtIds"])
        scores.append(np.array(one["dtScores"], np.float64))
        rows.append(np.array(one["dtIds"], np.int64) - 1)
        images.append(np.full(count, one["image_id"] - 1))
        persons.append(np.array(one["dtMatches"], np.int64).reshape(len(thresholds), count) - 1)
        ignored.append(np.array(one["dtIgnore"], bool).reshape(len(thresholds), count))
    return Matches(
        np.concatenate(scores),
        np.concatenate(rows),
        np.concatenate(images),
        np.concatenate(persons, axis=1),
        np.concatenate(ignored, axis=1),
        is_counted_P,
        image_P,
        len(image_ids),
    )


def _evaluated(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    positions: Mapping[int, int],
    sigmas: Sequence[float],
    thresholds: Sequence[float],
    area: str,
) -> list[dict[str, Any]]:
    """Returns the evaluated images that have people or detections, in order.

    Images, people and detections are numbered from 1 for hotcoco.
    """
    # It has wheels for two processors, and only an analysis needs it.
    import hotcoco

    truth = {
        "images": [{"id": position + 1} for position in positions.values()],
        "annotations": [
            {**one, "id": number, "image_id": positions[one["image_id"]] + 1}
            for number, one in enumerate(people, 1)
            if one["image_id"] in positions
        ],
        "categories": [{"id": PERSON_CATEGORY, "name": "person"}],
    }
    results = [
        {
            "image_id": positions[one["image_id"]] + 1,
            "category_id": PERSON_CATEGORY,
            "keypoints": list(map(float, one["keypoints"])),
            "score": float(one["score"]),
        }
        for one in detections
    ]
    with quietly():
        coco = hotcoco.COCO(truth)
        evaluation = hotcoco.COCOeval(coco, coco.loadRes(results), "keypoints")
        parameters = evaluation.params
        parameters.imgIds = [position + 1 for position in positions.values()]
        parameters.catIds = [PERSON_CATEGORY]
        parameters.kpt_oks_sigmas = list(sigmas)
        parameters.iouThrs = list(thresholds)
        parameters.areaRng, parameters.areaRngLbl = [list(AREAS[area])], [area]
        evaluation.evaluate()
        return [one for one in evaluation.eval_imgs if one]
